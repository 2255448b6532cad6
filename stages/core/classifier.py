"""The head, and the whole classifier from pixels to probabilities."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stages.core import backbones

if TYPE_CHECKING:
    import keras


def head(features: int, classes: int, dropout: float, seed: int) -> keras.Model:
    """Pooled features float32 [N, features] → probabilities float32 [N, classes], rows summing to 1."""
    import keras

    pooled = keras.Input((features,), name="pooled")
    kept = keras.layers.Dropout(dropout, seed=seed, name="dropout")(pooled)
    start = keras.initializers.GlorotUniform(seed=seed)
    probabilities = keras.layers.Dense(classes, activation="softmax", kernel_initializer=start, name="probabilities")
    return keras.Model(pooled, probabilities(kept), name="head")


def from_activations(tail: keras.Model, top: keras.Model) -> keras.Model:
    """Activations at the cut → probabilities; what phase 2 trains."""
    import keras

    activations = keras.Input(tail.input_shape[1:], name="activations")
    return keras.Model(activations, top(tail(activations)), name="tail_classifier")


def from_pixels(base: keras.Model, name: str, top: keras.Model) -> keras.Model:
    """Pixels float32 [N, S, S, 3] of 0-255 → probabilities; preprocessing inside. What is shipped."""
    import keras

    pixels, prepared = backbones.entrance(base, name)
    pooled = keras.layers.GlobalAveragePooling2D(name="pool")(base(prepared))
    return keras.Model(pixels, top(pooled), name="classifier")
