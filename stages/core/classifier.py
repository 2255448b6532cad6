"""The head, and the whole classifier from pixels to probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from stages.core import backbones
from stages.core.catalogue import Preprocessing

if TYPE_CHECKING:
    import keras

Activation = Literal["softmax", "sigmoid"]


def head(
    features: int,
    classes: int,
    dropout: float,
    seed: int,
    units: Sequence[int] = (),
    l2: float = 0.0,
    activation: Activation = "softmax",
) -> keras.Model:
    """Pooled features float32 [N, features] → probabilities float32 [N, classes], rows summing to 1.

    Between them a ReLU layer for each of `units`. `dropout` stands before every layer; `l2` times the squares of
    every kernel that is trained is added to the loss. With `sigmoid`, of two classes, one logit z is trained: the
    second class's probability is sigmoid(z), the first's the rest. As softmax([0, z]) is just that, a layer that is
    never trained hands on 0 and z, and the loss finds the logits behind a softmax as ever.
    """
    import keras

    def kept(tensor: keras.KerasTensor, number: int) -> keras.KerasTensor:
        name = f"dropout_{number}" if number else "dropout"
        return keras.layers.Dropout(dropout, seed=seed + number, name=name)(tensor)

    def dense(width: int, activation: str, number: int, name: str) -> keras.layers.Dense:
        start = keras.initializers.GlorotUniform(seed=seed + number)
        held = keras.regularizers.L2(l2) if l2 else None
        return keras.layers.Dense(
            width, activation=activation, kernel_initializer=start, kernel_regularizer=held, name=name
        )

    tensor = pooled = keras.Input((features,), name="pooled")
    for number, width in enumerate(units):
        tensor = dense(width, "relu", number + 1, f"hidden_{number + 1}")(kept(tensor, number + 1))
    if activation == "softmax":
        return keras.Model(pooled, dense(classes, "softmax", 0, "probabilities")(kept(tensor, 0)), name="head")
    assert classes == 2  # fine_tune refuses others
    logit = dense(1, "linear", 0, "logit")(kept(tensor, 0))
    fixed = keras.initializers.Constant([[0.0, 1.0]])
    both = keras.layers.Dense(
        2, activation="softmax", use_bias=False, kernel_initializer=fixed, trainable=False, name="probabilities"
    )
    return keras.Model(pooled, both(logit), name="head")


def from_activations(tail: keras.Model, top: keras.Model, halves: bool = False) -> keras.Model:
    """Activations at the cut → probabilities; what phase 2 trains.

    With `halves` the tail runs on each half of a batch by itself. Where TensorFlow gives an operation one
    thread (see tensorflow_runtime) two cores then work at once: 1.3 times as fast in training, 1.7 in
    validation. Frozen BatchNormalization treats each image by itself, so the result is the same up to
    rounding, and the same whatever the number of threads.
    """
    import keras

    activations = keras.Input(tail.input_shape[1:], name="activations")
    if not halves:
        return keras.Model(activations, top(tail(activations)), name="tail_classifier")

    # No operation takes a batch of none: of a single image both halves are that image, and one result is dropped.
    def first_half(batch: keras.KerasTensor) -> keras.KerasTensor:
        return batch[: keras.ops.maximum(keras.ops.shape(batch)[0] // 2, 1)]

    def second_half(batch: keras.KerasTensor) -> keras.KerasTensor:
        return batch[keras.ops.shape(batch)[0] // 2 :]

    def joined(parts: list[keras.KerasTensor]) -> keras.KerasTensor:
        batch, first, second = parts
        return keras.ops.concatenate([first, second])[: keras.ops.shape(batch)[0]]

    parts = [tail(keras.layers.Lambda(half)(activations)) for half in (first_half, second_half)]
    return keras.Model(activations, top(keras.layers.Lambda(joined)([activations, *parts])), name="tail_classifier")


def from_pixels(base: keras.Model, how: Preprocessing, top: keras.Model) -> keras.Model:
    """Pixels float32 [N, S, S, 3] of 0-255 → probabilities; preprocessing inside. What is shipped."""
    import keras

    pixels, prepared = backbones.entrance(base, how)
    return keras.Model(pixels, top(backbones.pool(base)(base(prepared))), name="classifier")
