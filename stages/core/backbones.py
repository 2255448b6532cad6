"""Pretrained bases as Keras models: built, prepared for, cut in two, and frozen in part.

Keras is imported inside the functions: names from here are needed where TensorFlow must not be loaded.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from stages.core import catalogue
from stages.core.catalogue import CATALOGUE, Layer, Preprocessing
from stages.core.errors import ConfigError

if TYPE_CHECKING:
    import keras

# Of ImageNet's images in RGB, as in keras.applications.imagenet_utils: of 0-255, and of 0-1 with its deviation.
CAFFE_MEAN = (123.68, 116.779, 103.939)
TORCH_MEAN, TORCH_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def build(name: str, image_size: int, alpha: float, weights: str | None = None) -> keras.Model:
    """The base without its top: float32 [N, S, S, 3] preprocessed pixels → [N, h, w, channels].

    `weights` is None (random) or "imagenet", which Keras loads from its cache or downloads. Where Keras is set
    to channels first and the architecture can be built so, the base takes [N, 3, S, S] and gives
    [N, channels, h, w]; its weights are the same.
    """
    import keras

    entry = CATALOGUE[name]
    application = getattr(keras.applications, name)
    width = {"alpha": alpha} if entry.alphas else {}
    if weights and name.startswith("EfficientNetB"):
        base = build(name, image_size, alpha)
        with channels_last():
            published = application(input_shape=(image_size, image_size, 3), include_top=False, weights=weights)
        _take_scaled(base, published)
        return base
    if keras.config.image_data_format() == "channels_first" and entry.channels_first:
        return application(input_shape=(3, image_size, image_size), include_top=False, weights=weights, **width)
    with channels_last():
        return application(input_shape=(image_size, image_size, 3), include_top=False, weights=weights, **width)


@contextmanager
def channels_last() -> Iterator[None]:
    """Build inside this what has channels last whatever Keras is set to."""
    import keras

    before = keras.config.image_data_format()
    keras.config.set_image_data_format("channels_last")
    try:
        yield
    finally:
        keras.config.set_image_data_format(before)


def _take_scaled(base: keras.Model, published: keras.Model) -> None:
    """Fill an EfficientNet from one that Keras built for its ImageNet weights, which has a layer more.

    With those weights alone Keras divides once more, by the square root of ImageNet's deviation, behind the
    normalization. That goes into the normalization's variance here, so that the architecture does not depend on
    where its weights came from; the result is the same up to rounding.
    """
    import keras

    base.set_weights(published.get_weights())
    (normalization,) = (layer for layer in base.layers if isinstance(layer, keras.layers.Normalization))
    mean, variance, *count = normalization.get_weights()
    deviation = variance.dtype.type(TORCH_DEVIATION)
    normalization.set_weights([mean, variance * deviation.reshape(variance.shape), *count])
    normalization.finalize_state()


def channels_first(base: keras.Model) -> bool:
    """Whether the base takes [N, 3, S, S]."""
    return bool(base.input_shape[1] == 3)


def entrance(base: keras.Model, how: Preprocessing) -> tuple[Any, Any]:
    """Input of pixels float32 [N, S, S, 3] of 0-255, and the same as the base takes it."""
    import keras

    size = base.input_shape[2]
    pixels = keras.Input((size, size, 3), name="pixels")
    prepared = preprocessing(how)(pixels)
    return pixels, keras.layers.Permute((3, 1, 2))(prepared) if channels_first(base) else prepared


def preprocessing(how: Preprocessing) -> keras.layers.Layer:
    """The layer that takes pixels float32 [N, S, S, 3] of 0-255 to what the base was trained on."""
    import keras
    import numpy as np

    if how == "tf":
        return keras.layers.Rescaling(1 / 127.5, -1.0, name="preprocessing")
    if how == "inside":
        return keras.layers.Identity(name="preprocessing")
    # A product with fixed weights: no stock layer reverses channels, and Rescaling by channel looks for them where
    # Keras is set to have them, not where pixels do. Every export format knows it.
    if how == "caffe":
        kernel, bias = np.eye(3)[::-1], -np.array(CAFFE_MEAN[::-1])
    else:
        kernel, bias = np.diag(1 / (255 * np.array(TORCH_DEVIATION))), -np.array(TORCH_MEAN) / TORCH_DEVIATION
    layer = keras.layers.Dense(3, trainable=False, name="preprocessing")
    layer.build((None, None, None, 3))
    layer.set_weights([kernel.astype(np.float32), bias.astype(np.float32)])
    return layer


def cuts(base: keras.Model) -> list[int]:
    """Numbers of the base's operations whose output alone feeds all later ones; 0, the input, is always one.

    Most operations are layers, numbered alike; ConvNeXt and MobileNetV3 also add and multiply between them.
    """
    operations = base.operations
    index = {operation.name: number for number, operation in enumerate(operations)}
    found, earliest = [], len(operations)  # the earliest operation that those from here on read
    for number in range(len(operations) - 1, -1, -1):
        if earliest >= number:
            found.append(number)
        earliest = min([earliest, *(index[parent] for parent in _parents(operations[number]))])
    return found[::-1]


def deepest_cut(base: keras.Model, fine_tune_at: int) -> int:
    """Number of the deepest operation below layer `fine_tune_at` whose output alone feeds all later ones.

    Freezing layers [0, fine_tune_at) means nothing up to that one ever changes, so its output can be computed
    once. Cut 0 is the input: the whole network is the tail.
    """
    first = _operation_of(base, fine_tune_at)
    return max((cut for cut in cuts(base) if cut < first), default=0)


def check_single_use(base: keras.Model, what: str) -> None:
    """Raise ConfigError where a layer of the base is called twice: no cut can be told there."""
    twice = [one.name for one in base.operations if len(one._inbound_nodes) > 1]
    if twice:
        raise ConfigError(f"{what} calls {twice[0]!r} more than once; a base must call each of its layers once")


def check_entrance(base: keras.Model, how: Preprocessing) -> None:
    """Raise ConfigError where pixels would be rescaled by the base and before it, too."""
    inside = [layer.name for layer in base.layers[:8] if type(layer).__name__ in ("Rescaling", "Normalization")]
    if inside and how != "inside":
        raise ConfigError(
            f"feature_extract.preprocessing: received {how!r}, but the base's own layer {inside[0]!r} rescales its "
            "input, which would be rescaled twice; set inside"
        )


def layer_number(base: keras.Model, layer: Layer, key: str) -> int:
    """Index 0 … number of layers of what the parameter `key` names. Raises ConfigError where it names none."""
    try:
        number = catalogue.layer_number(layer, len(base.layers), [one.name for one in base.layers])
    except ConfigError as error:
        raise ConfigError(f"{key}: {error}") from error
    assert number is not None  # with the names at hand
    return number


def _operation_of(base: keras.Model, layer: int) -> int:
    """The number of the operation that layer `layer` is."""
    if layer >= len(base.layers):
        return len(base.operations)
    return next(number for number, one in enumerate(base.operations) if one is base.layers[layer])


def _parents(operation: Any) -> list[str]:
    # The first node is the call inside the base; a tail built earlier has added its own.
    nodes = operation._inbound_nodes[:1]
    return [tensor._keras_history.operation.name for node in nodes for tensor in node.input_tensors]


def trunk(base: keras.Model, how: Preprocessing, cut: int) -> keras.Model:
    """Pixels float32 [N, S, S, 3] of 0-255 → (activations at the cut [N, h, w, c], pooled features [N, channels]).

    At cut 0 the activations are the pixels themselves. Channels come last whatever Keras is set to.
    """
    import keras

    pixels, prepared = entrance(base, how)
    if cut == 0:
        features = base(prepared)
        activations = pixels
    else:
        both = keras.Model(base.inputs, [base.operations[cut].output, base.output])
        activations, features = both(prepared)
        if channels_first(base):
            activations = keras.layers.Permute((2, 3, 1))(activations)
    return keras.Model(pixels, [activations, pool(base)(features)], name="trunk")


def pool(base: keras.Model) -> keras.layers.Layer:
    """The layer that averages the base's features over the picture, to [N, channels]."""
    import keras

    order = "channels_first" if channels_first(base) else "channels_last"
    return keras.layers.GlobalAveragePooling2D(data_format=order, name="pool")


def tail(base: keras.Model, how: Preprocessing, cut: int) -> keras.Model:
    """Activations at the cut → pooled features, sharing the base's layers and so its weights.

    Keras can re-root a base at an inner layer once; build a fresh base for another cut.
    """
    import keras

    if cut == 0:
        activations = keras.Input(base.input_shape[1:], name="activations")
        features = base(preprocessing(how)(activations))
    elif cut == len(base.operations) - 1:  # all of it is frozen: only the head is left to train
        features = activations = keras.Input(base.output_shape[1:], name="activations")
    else:
        rest = keras.Model(base.operations[cut].output, base.output)
        activations = keras.Input(base.operations[cut].output.shape[1:], name="activations")
        features = rest(activations)
    return keras.Model(activations, pool(base)(features), name="tail")


def multiplications(base: keras.Model, start: int = 0) -> int:
    """Multiply-adds that one image costs in one forward pass through operations [start, …): convolutions, products."""
    total = 0
    for operation in base.operations[start:]:
        kernels = [weight.shape for weight in getattr(operation, "weights", ()) if len(weight.shape) in (2, 4)]
        _, height, width, _ = operation.output.shape if kernels else (0, 0, 0, 0)
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
