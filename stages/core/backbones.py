"""The catalogue of pretrained bases, and where one may be cut in two.

Keras is imported inside the functions: the catalogue's names are needed to check parameters, and
importing TensorFlow for that would cost every stage seconds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class Backbone:
    """A Keras Applications architecture. Pixels p of 0-255 enter it as `p * scale + offset`."""

    application: str
    layers: int  # of the base without its top
    alphas: tuple[float, ...]  # width multipliers that ImageNet weights are published for
    scale: float
    offset: float


# Preprocessing as in keras.applications.<name>.preprocess_input; both take pixels to [-1, 1].
CATALOGUE = {
    "MobileNet": Backbone("MobileNet", 86, (0.25, 0.5, 0.75, 1.0), 1 / 127.5, -1.0),
    "MobileNetV2": Backbone("MobileNetV2", 154, (0.35, 0.5, 0.75, 1.0, 1.3, 1.4), 1 / 127.5, -1.0),
}


def build(name: str, image_size: int, alpha: float, weights: str | None = None) -> keras.Model:
    """The base without its top: float32 [N, S, S, 3] preprocessed pixels → [N, h, w, channels].

    `weights` is None (random) or "imagenet", which Keras loads from its cache or downloads. Where Keras is set
    to channels first, the base takes [N, 3, S, S] and gives [N, channels, h, w]; its weights are the same.
    """
    import keras

    application = getattr(keras.applications, CATALOGUE[name].application)
    shape = (3, image_size, image_size) if _channels_first() else (image_size, image_size, 3)
    base: keras.Model = application(input_shape=shape, alpha=alpha, include_top=False, weights=weights)
    return base


def _channels_first() -> bool:
    import keras

    return bool(keras.config.image_data_format() == "channels_first")


def entrance(base: keras.Model, name: str) -> tuple[Any, Any]:
    """Input of pixels float32 [N, S, S, 3] of 0-255, and the same as the base takes it."""
    import keras

    size = base.input_shape[-1 if _channels_first() else 1]
    pixels = keras.Input((size, size, 3), name="pixels")
    prepared = preprocessing(name)(pixels)
    return pixels, keras.layers.Permute((3, 1, 2))(prepared) if _channels_first() else prepared


def preprocessing(name: str) -> keras.layers.Layer:
    """The layer that takes pixels of 0-255 to what the base was trained on."""
    import keras

    entry = CATALOGUE[name]
    return keras.layers.Rescaling(entry.scale, entry.offset, name="preprocessing")


def deepest_cut(base: keras.Model, fine_tune_at: int) -> int:
    """Index of the deepest layer below `fine_tune_at` whose output alone feeds all later layers.

    Freezing layers [0, fine_tune_at) means nothing up to that layer ever changes, so its output can
    be computed once. Index 0, the input, is always such a layer: the whole network is the tail.
    """
    index = {layer.name: number for number, layer in enumerate(base.layers)}
    reaches = list(range(len(base.layers)))  # the earliest layer that layers from here on read
    earliest = len(base.layers)
    for number in range(len(base.layers) - 1, -1, -1):
        reaches[number] = earliest
        parents = [index[parent] for parent in _parents(base.layers[number])]
        earliest = min([earliest, *parents])
    cuts = [number for number in range(min(fine_tune_at, len(base.layers))) if reaches[number] >= number]
    return max(cuts, default=0)


def _parents(layer: Any) -> list[str]:
    # The first node is the call inside the base; a tail built earlier has added its own.
    nodes = layer._inbound_nodes[:1]
    return [tensor._keras_history.operation.name for node in nodes for tensor in node.input_tensors]


def trunk(base: keras.Model, name: str, cut: int) -> keras.Model:
    """Pixels float32 [N, S, S, 3] of 0-255 → (activations at the cut [N, h, w, c], pooled features [N, channels]).

    At cut 0 the activations are the pixels themselves. Channels come last whatever Keras is set to.
    """
    import keras

    pixels, prepared = entrance(base, name)
    if cut == 0:
        features = base(prepared)
        activations = pixels
    else:
        both = keras.Model(base.inputs, [base.layers[cut].output, base.output])
        activations, features = both(prepared)
        if _channels_first():
            activations = keras.layers.Permute((2, 3, 1))(activations)
    pooled = keras.layers.GlobalAveragePooling2D(name="pool")(features)
    return keras.Model(pixels, [activations, pooled], name="trunk")


def tail(base: keras.Model, name: str, cut: int) -> keras.Model:
    """Activations at the cut → pooled features, sharing the base's layers and so its weights.

    Keras can re-root a base at an inner layer once; build a fresh base for another cut.
    """
    import keras

    if cut == 0:
        activations = keras.Input(base.input_shape[1:], name="activations")
        features = base(preprocessing(name)(activations))
    elif cut == len(base.layers) - 1:  # all of it is frozen: only the head is left to train
        features = activations = keras.Input(base.output_shape[1:], name="activations")
    else:
        rest = keras.Model(base.layers[cut].output, base.output)
        activations = keras.Input(base.layers[cut].output.shape[1:], name="activations")
        features = rest(activations)
    pooled = keras.layers.GlobalAveragePooling2D(name="pool")(features)
    return keras.Model(activations, pooled, name="tail")


def multiplications(base: keras.Model, start: int = 0) -> int:
    """Multiply-adds that one image costs in one forward pass through the convolutions of layers [start, …)."""
    total = 0
    for layer in base.layers[start:]:
        kernels = [weight.shape for weight in layer.weights if len(weight.shape) == 4]
        _, height, width, _ = layer.output.shape if kernels else (0, 0, 0, 0)
        total += sum(math.prod(kernel) * height * width for kernel in kernels)
    return total


def multiply_matrices(base: keras.Model) -> None:
    """Compute the base's 1x1 convolutions as the matrix products they are; nothing else about it changes.

    On a CPU TensorFlow trains them 1.3 to 1.6 times as fast that way (MobileNetV2 above layer 97, two cores).
    """
    import keras

    for layer in base.layers:
        plain = type(layer) is keras.layers.Conv2D and layer.kernel_size == layer.strides == (1, 1)
        if plain and layer.groups == 1 and layer.data_format == "channels_last":
            layer.convolution_op = _product  # Keras's hook for another way to compute the same


def _product(inputs: Any, kernel: Any) -> Any:
    """[N, h, w, c] by [1, 1, c, d] → [N, h, w, d]."""
    from keras import ops

    _, height, width, channels = inputs.shape
    rows = ops.matmul(ops.reshape(inputs, (-1, channels)), kernel[0, 0])
    return ops.reshape(rows, (-1, height, width, kernel.shape[-1]))


def freeze_below(base: keras.Model, fine_tune_at: int) -> None:
    """Leave only layers [fine_tune_at, …) trainable, and no BatchNormalization anywhere.

    In Keras 3 calling the base with training=False does not survive `fit`; a BatchNormalization
    layer that is itself not trainable runs in inference mode and keeps its statistics.
    """
    import keras

    base.trainable = True
    for number, layer in enumerate(base.layers):
        frozen = number < fine_tune_at or isinstance(layer, keras.layers.BatchNormalization)
        layer.trainable = not frozen
