"""What a model is compared with on the same images: which of them there are, and phase 1's head on stored features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Baseline = Literal["majority_class", "frozen_features", "from_scratch"]
NAMES: dict[Baseline, str] = {
    "majority_class": "always naming the commonest class",
    "frozen_features": "frozen features with a head",
    "from_scratch": "the same network from random weights",
}
FEATURES_HELD = 4096  # images whose stored features are in memory at once


def chosen(asked: Sequence[Baseline] | None, from_scratch: bool) -> list[Baseline]:
    """Those asked for, once each in the order of NAMES; None is all, `from_scratch` where it was trained."""
    if asked is None:
        return [name for name in NAMES if from_scratch or name != "from_scratch"]
    return [name for name in NAMES if name in asked]


def frozen_features(head: Any, names: Sequence[str], stored: Any) -> npt.NDArray[np.float64]:
    """Probabilities of phase 1's head on stored features, float64 [N, classes] in the order of `names`.

    `names` are the validation and test images', `stored` a FeatureReader.
    """
    out = np.zeros((len(names), len(stored.classes)))
    row_of = {name: number for number, name in enumerate(names)}
    for split in ("val", "test"):
        examples = stored.examples("pooled", split)
        for start in range(0, len(examples.names), FEATURES_HELD):
            some = examples.names[start : start + FEATURES_HELD]
            features = examples.take(np.arange(start, start + len(some)), np.zeros(len(some), np.intp))
            out[[row_of[name] for name in some]] = head.predict(features.astype(np.float32), verbose=0)
    return out
