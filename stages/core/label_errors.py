"""Which labels are probably wrong, judged by a model that did not train on them.

Confident learning (Northcutt, Jiang and Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels", JAIR
70, 2021): an image counts as class j where its probability of j reaches the mean that images labelled j have. One that
so counts as another class than its label says, and to which the model gives more than to its label, is suspected.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def own_means(probabilities: Floats, labels: Ints) -> Floats:
    """What an image must reach to count as each class, float [C]: the mean probability of it where it is the label.

    `probabilities` float [N, C] are of images that the model was not trained on, `labels` int [N] are theirs. A class
    without images has no mean: infinity, which nothing reaches.
    """
    classes = probabilities.shape[1]
    own = probabilities[np.arange(len(labels)), labels]
    counts = np.bincount(labels, minlength=classes)
    found: Floats = np.where(counts > 0, np.bincount(labels, own, classes) / np.maximum(counts, 1), np.inf)
    return found


def suspects(probabilities: Floats, labels: Ints, needed: Floats) -> list[tuple[int, int]]:
    """(image, the class it counts as) of suspected labels, the surest first; `needed` is from `own_means`."""
    own = probabilities[np.arange(len(labels)), labels]
    reached = np.where(probabilities >= needed, probabilities, -1.0)
    counted = reached.argmax(1)
    margin = probabilities[np.arange(len(labels)), counted] - own
    found = np.flatnonzero((reached.max(1) >= 0) & (counted != labels) & (margin > 0))
    return [(int(at), int(counted[at])) for at in found[np.argsort(-margin[found], kind="stable")]]
