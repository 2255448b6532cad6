"""Pairs of training examples mixed into one, with a label for each part: MixUp and CutMix."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Mixing:
    """How a batch's examples are mixed. An alpha of 0 switches one off; of two that are on, a coin decides per batch.

    Both draw what an example keeps of itself from Beta(alpha, alpha): a small alpha mostly leaves it as it is or
    makes it its partner, 1 makes every share as likely.

    MixUp (Zhang et al., "mixup: Beyond Empirical Risk Minimization", 2018) averages two examples; at an inner layer
    that is Manifold Mixup (Verma et al., "Manifold Mixup: Better Representations by Interpolating Hidden States",
    2019) with one fixed layer. CutMix (Yun et al., "CutMix: Regularization Strategy to Train Strong Classifiers with
    Localizable Features", 2019) pastes a rectangle; at an inner layer into the activation map.
    """

    mixup: float
    cutmix: float
    classes: int

    def apply(self, inputs: Floats, labels: npt.NDArray[np.int32], draws: np.random.Generator) -> tuple[Floats, Floats]:
        """Inputs float32 [n, *shape] and labels int32 [n] → mixed inputs, and labels float32 [n, classes].

        Each example's partner comes from the same batch; every pair has its own share or rectangle. A label's rows
        sum to 1, each class having what is kept of its example.
        """
        pastes = self.cutmix > 0 and (self.mixup == 0 or draws.random() < 0.5)
        partners = draws.permutation(len(labels))
        alpha = self.cutmix if pastes else self.mixup
        kept = draws.beta(alpha, alpha, len(labels)).astype(np.float32)
        if pastes:
            mixed, kept = _pasted(inputs, inputs[partners], kept, draws)
        else:
            share = kept.reshape(-1, *[1] * (inputs.ndim - 1))
            mixed = share * inputs + (1 - share) * inputs[partners]
        known = np.eye(self.classes, dtype=np.float32)
        return mixed, kept[:, None] * known[labels] + (1 - kept)[:, None] * known[labels[partners]]


def _pasted(inputs: Floats, others: Floats, kept: Floats, draws: np.random.Generator) -> tuple[Floats, Floats]:
    """Inputs [n, h, w, c] with a rectangle of about 1 - `kept` of the others' area, and what was kept exactly, [n].

    The rectangle has the map's proportions and its centre anywhere; what of it lies outside is lost.
    """
    count, height, width = inputs.shape[:3]
    side = np.sqrt(1 - kept)
    down, right = draws.integers(0, height, count), draws.integers(0, width, count)
    tall, wide = np.rint(side * height).astype(int), np.rint(side * width).astype(int)
    top, left = np.maximum(down - tall // 2, 0), np.maximum(right - wide // 2, 0)
    bottom, end = np.minimum(down - tall // 2 + tall, height), np.minimum(right - wide // 2 + wide, width)
    mixed = inputs.copy()
    for one in range(count):
        place = one, slice(top[one], bottom[one]), slice(left[one], end[one])
        mixed[place] = others[place]
    gone = (bottom - top) * (end - left) / (height * width)
    return mixed, (1 - gone).astype(np.float32)
