"""A classifier whose logits are divided by a temperature (see calibration): what export writes where it is asked to."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import keras


def divide_logits(model: keras.Model, temperature: float) -> None:
    """Make a model of `classifier.from_pixels`, in place, answer as with logits divided by `temperature` > 0.

    Logits are the last trained layer's kernel times its input, plus its bias, so both are divided: no format needs
    another layer. Of a sigmoid head that is the one logit z, as softmax([0, z] / T) is softmax([0, z / T]).
    """
    head = model.get_layer("head")
    names = [layer.name for layer in head.layers]
    last = head.get_layer("logit" if "logit" in names else "probabilities")
    last.set_weights([weight / temperature for weight in last.get_weights()])
