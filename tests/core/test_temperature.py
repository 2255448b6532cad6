"""A model with a temperature inside answers what calibration makes of the answers it gave without."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from stages.core import calibration

pytestmark = pytest.mark.usefixtures("tensorflow")
PIXELS = np.random.default_rng(1).integers(0, 256, (60, 8, 8, 3)).astype(np.float32)


def tiny(activation: Any, classes: int) -> Any:
    """A classifier from 8 x 8 pixels with a hidden layer, so sure of itself that some probabilities are below 1e-7."""
    import keras

    from stages.core import classifier

    keras.utils.set_random_seed(2)
    base = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(6, 3, activation="relu")])
    head = classifier.head(6, classes, 0.2, seed=2, units=[5], activation=activation)
    model = classifier.from_pixels(base, "tf", head)
    last = head.get_layer("logit" if activation == "sigmoid" else "probabilities")
    kernel, _ = last.get_weights()
    hidden = keras.Model(head.input, last.input)(base(PIXELS / 127.5 - 1).numpy().mean((1, 2)))
    logits = hidden.numpy() @ kernel
    scale = 60 / np.abs(logits - logits.mean(0)).max()
    last.set_weights([scale * kernel, -scale * logits.mean(0)])
    return model


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
@pytest.mark.parametrize(("activation", "classes"), [("softmax", 4), ("sigmoid", 2)])
def test_the_answers_are_the_scaled_ones_and_no_label_changes(
    activation: str, classes: int, temperature: float
) -> None:
    from stages.core import temperature as exported

    model = tiny(activation, classes)
    before = np.asarray(model(PIXELS)).astype(np.float64)
    assert before.min() < 1e-9, "also where a loss would clip"
    assert len(np.unique(before.argmax(1))) > 1
    others = [weight.copy() for weight in model.get_layer("head").get_layer("hidden_1").get_weights()]
    exported.divide_logits(model, temperature)
    after = np.asarray(model(PIXELS))
    np.testing.assert_allclose(after, calibration.scaled(before, temperature), atol=2e-5)
    assert (after.argmax(1) == before.argmax(1)).all()
    assert (np.abs(after - before).max() > 0.05) == (temperature != 1.0)
    assert all(map(np.array_equal, others, model.get_layer("head").get_layer("hidden_1").get_weights()))
