"""The baseline from random weights: the same network, for as many multiplications as the fine-tuning cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stages.core import backbones

if TYPE_CHECKING:
    import keras


def same_budget(base: keras.Model, cut: int, views: int, tail_epochs: int) -> int:
    """Epochs from scratch that cost what the fine-tuning cost, in multiplications per training image.

    Fine-tuning ran the whole base forward once a view and the tail forward and backward once an
    epoch; from scratch, an epoch runs all of it both ways. Backward costs about twice forward.
    """
    whole, tail = backbones.multiplications(base), backbones.multiplications(base, cut + 1)
    return max(1, round((views * whole + 3 * tail_epochs * tail) / (3 * whole)))


def learn_quickly(base: keras.Model) -> None:
    """Make a base with random weights ready for a short training, in place.

    BatchNormalization statistics follow it (Keras's MobileNetV2 forgets over about 1,000 steps, which would leave it
    near chance however well it had learnt), and products are computed as in fine-tuning.
    """
    import keras

    backbones.multiply_matrices(base)
    for layer in base.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.9
