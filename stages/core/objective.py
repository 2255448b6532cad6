"""What training makes small: cross-entropy, smoothed, focused on what is hard, weighted by class, of mixed images.

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


def loss(smoothing: float, focusing: float, weights: Sequence[float] | None, mixed: bool = False) -> keras.losses.Loss:
    """The loss of labels int [N] and probabilities float [N, C], a mean over images.

    `smoothing` is the share of a label's certainty that is spread over all classes (Szegedy et al., "Rethinking the
    Inception Architecture for Computer Vision", 2016). `focusing` is gamma of the focal loss (Lin et al., "Focal Loss
    for Dense Object Detection", 2017): each image's loss is multiplied by (1 - p)^gamma, p being its own class's
    probability. `weights` multiply the loss of each class's images. `mixed` takes labels float [N, C] too, the shares
    of the classes in a mixed image (see mixing): its loss is that of each class times the class's share.
    """
    if not smoothing and not focusing and weights is None and not mixed:
        return keras.losses.SparseCategoricalCrossentropy()
    return _Objective(smoothing, focusing, weights)


class _Objective(keras.losses.Loss):
    def __init__(self, smoothing: float, focusing: float, weights: Sequence[float] | None) -> None:
        super().__init__(name="objective")
        self._smoothing, self._focusing, self._weights = smoothing, focusing, weights

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Float [N]."""
        ops = keras.ops
        mixed = len(y_true.shape) == 2 and y_true.shape[-1] != 1
        labels = None if mixed else ops.cast(ops.reshape(y_true, (-1,)), "int32")
        if not self._smoothing and not self._focusing and self._weights is None:
            # Keras's own find the logits behind a softmax, which keeps the gradient of what is far off.
            if mixed:
                return keras.losses.categorical_crossentropy(y_true, y_pred)
            return keras.losses.sparse_categorical_crossentropy(labels, y_pred)
        logarithms = ops.log(ops.clip(y_pred, SMALLEST, 1.0))
        if mixed:
            return ops.sum(ops.cast(y_true, y_pred.dtype) * self._of_classes(logarithms), axis=-1)
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

    def _of_classes(self, logarithms: Any) -> Any:
        """What the loss would be of each class as the label: float [N, C]."""
        ops = keras.ops
        mean = ops.mean(logarithms, axis=-1, keepdims=True)
        found = -(1 - self._smoothing) * logarithms - self._smoothing * mean
        if self._focusing:
            found = found * ops.clip(1 - ops.exp(logarithms), SMALLEST, 1.0) ** self._focusing
        return found if self._weights is None else found * ops.convert_to_tensor(self._weights, logarithms.dtype)
