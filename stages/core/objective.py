"""What training makes small: cross-entropy, smoothed, focused on what is hard, or weighted by class.

Imports Keras at the top: only fine_tune's `main` imports this module.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

SMALLEST = 1e-7  # probabilities are kept that far off 0, as Keras does


def balanced(labels: npt.NDArray[np.int32], classes: int) -> list[float]:
    """A weight for each class: images / (classes x its images), so that all classes weigh alike and the mean is 1.

    A class without images gets 0.
    """
    counts = np.bincount(labels, minlength=classes)
    return [len(labels) / (classes * count) if count else 0.0 for count in counts.tolist()]


def loss(smoothing: float, focusing: float, weights: Sequence[float] | None) -> keras.losses.Loss:
    """The loss of labels int [N] and probabilities float [N, C], a mean over images.

    `smoothing` is the share of a label's certainty that is spread over all classes (Szegedy et al., "Rethinking the
    Inception Architecture for Computer Vision", 2016). `focusing` is gamma of the focal loss (Lin et al., "Focal Loss
    for Dense Object Detection", 2017): each image's loss is multiplied by (1 - p)^gamma, p being its own class's
    probability. `weights` multiply the loss of each class's images.
    """
    if not smoothing and not focusing and weights is None:
        return keras.losses.SparseCategoricalCrossentropy()
    return _Objective(smoothing, focusing, weights)


class _Objective(keras.losses.Loss):
    def __init__(self, smoothing: float, focusing: float, weights: Sequence[float] | None) -> None:
        super().__init__(name="objective")
        self._smoothing, self._focusing, self._weights = smoothing, focusing, weights

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Float [N]."""
        ops = keras.ops
        labels = ops.cast(ops.reshape(y_true, (-1,)), "int32")
        logarithms = ops.log(ops.clip(y_pred, SMALLEST, 1.0))
        of_class = ops.one_hot(labels, y_pred.shape[-1], dtype=y_pred.dtype)
        own = ops.sum(of_class * logarithms, axis=-1)
        found = -(1 - self._smoothing) * own - self._smoothing * ops.mean(logarithms, axis=-1)
        if self._focusing:
            # Of exactly 0 the gradient of a power below 1 is infinite.
            left = ops.clip(1 - ops.exp(own), SMALLEST, 1.0)
            found = found * left**self._focusing
        if self._weights is not None:
            found = found * ops.sum(of_class * ops.convert_to_tensor(self._weights, y_pred.dtype), axis=-1)
        return found
