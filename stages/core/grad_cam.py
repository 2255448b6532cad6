"""Which part of a picture speaks for a class: Grad-CAM.

Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization", ICCV 2017: each
channel of the last feature map is weighed by the mean over places of the gradient of the class's score, taken before
softmax or sigmoid; the map is the positive part of the weighted sum.

Here the score sees the feature map through its mean over places only, so its gradient is alike at every place and is
that of the head, a product of kernels. It is computed from them in NumPy: exact, the same on any number of cores, and
whatever engine ran the base, OpenVINO too, which has no gradients. For a head of one dense layer this is CAM (Zhou et
al., "Learning Deep Features for Discriminative Localization", CVPR 2016).
"""

from __future__ import annotations

from itertools import takewhile
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

if TYPE_CHECKING:
    import keras

Floats = npt.NDArray[np.floating[Any]]
COLOUR = (255.0, 90.0, 0.0)  # one hue, so that eyes that confuse hues see the same
STRONGEST = 0.72  # share of that colour where the map is 1; the picture stays visible below


def feature_map(model: keras.Model) -> keras.Model:
    """Pixels float32 [N, S, S, 3] of 0-255 → what a `classifier.from_pixels` averages, [N, h, w, channels].

    Channels come last whatever Keras is set to.
    """
    import keras

    pool = model.get_layer("pool")
    features = pool.input
    if pool.data_format == "channels_first":
        features = keras.layers.Permute((2, 3, 1))(features)
    return keras.Model(model.input, features, name="feature_map")


def gradient(head: keras.Model, pooled: Floats, number: int) -> npt.NDArray[np.float64]:
    """Gradient float64 [channels] of class `number`'s score by the pooled features [channels] at `pooled`.

    `head` is dense layers, all but the last with a ReLU or no activation, and dropout, which does nothing here. Where
    the last has one unit, that is class 1's score, and class 0's is its negative. Raises ValueError for another head.
    """
    hidden, last = _dense(head)
    values = pooled.astype(np.float64)
    passed = []
    for layer in hidden:
        kernel, bias = _weights(layer)
        values = np.einsum("c,cu->u", values, kernel) + bias
        active = values > 0 if layer.activation.__name__ == "relu" else np.ones(len(values), bool)
        values = np.where(active, values, 0.0)
        passed.append((kernel, active))
    kernel, _ = _weights(last)
    found: npt.NDArray[np.float64] = kernel[:, number] if kernel.shape[1] > 1 else kernel[:, 0] * (1 if number else -1)
    for kernel, active in reversed(passed):
        found = np.einsum("cu,u->c", kernel, found * active)
    return found


def heat_map(features: Floats, head: keras.Model, number: int) -> npt.NDArray[np.float32]:
    """How strongly each place speaks for class `number`, float32 [h, w]: 1 at the strongest, 0 where none does.

    `features` is [h, w, channels], what `head` takes the mean of over places. Raises ValueError as `gradient` does.
    """
    exact = features.astype(np.float64)
    weights = gradient(head, exact.mean((0, 1)), number)
    # The mean gradient is this over h x w: a factor that the scale of 0-1 takes away again.
    summed = np.maximum(np.einsum("hwc,c->hw", exact, weights), 0.0)
    strongest = summed.max()
    return np.asarray(summed / strongest if strongest > 0 else summed, np.float32)


def overlay(pixels: npt.NDArray[np.uint8], heat: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """The picture uint8 [S, S, 3] in grey, coloured by a map [h, w] of 0-1 laid over it; uint8 [S, S, 3]."""
    size = (pixels.shape[1], pixels.shape[0])
    # In 8 bits, so that the last bits of another number of threads make no other file.
    small = Image.fromarray(np.round(255 * heat).astype(np.uint8))
    share = np.asarray(small.resize(size, Image.Resampling.BILINEAR), np.float64)[..., None] * STRONGEST / 255
    grey = np.asarray(Image.fromarray(pixels).convert("L"), np.float64)[..., None]
    return np.asarray(np.round(grey * (1 - share) + np.array(COLOUR) * share), np.uint8)


def _dense(head: keras.Model) -> tuple[list[Any], Any]:
    """The dense layers before the last, and the last, whose units are the scores."""
    import keras

    layers = [layer for layer in head.layers if not isinstance(layer, keras.layers.InputLayer | keras.layers.Dropout)]
    # What stands behind the last one makes probabilities of scores, as the layer behind a sigmoid head's logit does.
    found = list(takewhile(lambda layer: isinstance(layer, keras.layers.Dense) and layer.trainable, layers))
    plain = all(layer.activation.__name__ in ("relu", "linear") for layer in found[:-1])
    if not found or not plain or any(layer.trainable_weights for layer in layers[len(found) :]):
        kinds = ", ".join(type(layer).__name__ for layer in layers)
        raise ValueError(f"a head of {kinds}: no gradient is known of it; must be Dense with ReLU or no activation")
    return found[:-1], found[-1]


def _weights(layer: Any) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    kernel, *bias = (weight.astype(np.float64) for weight in layer.get_weights())
    return kernel, bias[0] if bias else np.zeros(kernel.shape[1])
