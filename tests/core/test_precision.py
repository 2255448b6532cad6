"""Mixed precision: which device gets which, what stays float32, and that scaling a loss changes no gradient."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.core import precision
from tests.core.test_training import WEIGHTS, batches, schedule, stripes  # noqa: F401  # a fixture


@pytest.mark.parametrize(
    ("capabilities", "policy"),
    [
        ([], "float32"),
        ([(9, 0)], "mixed_bfloat16"),
        ([(8, 0), (8, 6)], "mixed_bfloat16"),
        ([(8, 0), (7, 5)], "mixed_float16"),
        ([(7, 0)], "mixed_float16"),
        ([(7, 0), (6, 1)], "float32"),
        ([(8, 0), None], "float32"),
    ],
)
def test_what_every_gpu_gains_by_is_chosen(capabilities: list[tuple[int, int] | None], policy: str) -> None:
    assert precision.chosen("auto", capabilities) == policy
    for asked in ("float32", "mixed_bfloat16", "mixed_float16"):
        assert precision.chosen(asked, capabilities) == asked  # type: ignore[arg-type]


@pytest.mark.usefixtures("tensorflow")
def test_layers_compute_in_bfloat16_and_what_is_kept_is_float32(stripes: Any, tmp_path: Path) -> None:  # noqa: F811
    import keras

    from stages.core import backbones, classifier, training
    from stages.store import models

    pictures, labels = stripes
    keras.utils.set_random_seed(3)
    base = backbones.build("MobileNetV2", pictures.shape[1], 0.35)
    base.load_weights(WEIGHTS)
    head = classifier.head(1280, 3, 0.2, 3)
    backbones.freeze_below(base, 143)  # one block and Conv_1, to be quick
    backbones.multiply_matrices(base)
    cut = backbones.deepest_cut(base, 143)
    activations = np.asarray(backbones.trunk(base, "tf", cut)(pictures.astype(np.float32))[0]).astype(np.float16)
    norms = [layer for layer in base.layers if isinstance(layer, keras.layers.BatchNormalization)]
    norms_before = [weight.numpy() for layer in norms for weight in layer.weights]
    last_before = base.get_layer("Conv_1").get_weights()[0]
    logs: list[dict[str, float]] = []
    with precision.computing(base, "mixed_bfloat16"):
        model = classifier.from_activations(backbones.tail(base, "tf", cut), head, halves=True)
        training.fit(
            model, batches(activations, labels), batches(activations, labels, None),
            schedule(epochs=3, learning_rate=0.003), logs.append, by_batch=True,
        )  # fmt: skip
        halved = np.asarray(model(activations.astype(np.float32), training=False))
        product = base.get_layer("Conv_1")(np.ones((1, 1, 1, 112), np.float32))
        assert str(product.dtype) in ("bfloat16", "<dtype: 'bfloat16'>")
        assert {str(variable.dtype) for variable in model.variables if "seed" not in variable.path} == {"float32"}
        assert {str(variable.dtype) for variable in model.optimizer.variables[2:]} == {"float32"}
        assert halved.dtype == np.float32
        assert head.get_layer("probabilities").compute_dtype == "float32"
    assert logs[-1]["loss"] < logs[0]["loss"]
    assert logs[-1]["val_accuracy"] > 0.6
    assert all(map(np.array_equal, norms_before, [weight.numpy() for layer in norms for weight in layer.weights]))
    assert not np.array_equal(last_before, base.get_layer("Conv_1").get_weights()[0])

    models.save(classifier.from_pixels(base, "tf", head), tmp_path / "model.keras")
    with zipfile.ZipFile(tmp_path / "model.keras") as parts:
        assert b"float16" not in parts.read("config.json")
    found = models.load(tmp_path / "model.keras").predict(pictures.astype(np.float32), verbose=0)
    whole = np.asarray(classifier.from_pixels(base, "tf", head)(pictures.astype(np.float32), training=False))
    np.testing.assert_allclose(found, whole, atol=1e-5)
    apart = np.abs(np.log(found + 1e-9) - np.log(halved + 1e-9)).max()
    assert 1e-4 < apart < 1.0  # it did compute otherwise, and not much so


def two_layers(dtype: str) -> Any:
    """Dense layers whose first has gradients of some 1e-8, below what float16 can hold. It is zero at first."""
    import keras

    small = keras.initializers.Constant(np.random.default_rng(4).normal(0, 1e-7, (5, 3)))
    pixels = keras.Input((6,))
    hidden = keras.layers.Dense(5, kernel_initializer="zeros", use_bias=False, dtype=dtype, name="first")(pixels)
    return keras.Model(pixels, keras.layers.Dense(3, "softmax", kernel_initializer=small, dtype="float32")(hidden))


def trained(dtype: str, saved: Any = None, states: list[Any] | None = None, **changes: Any) -> Any:
    from stages.core import training

    random = np.random.default_rng(1)
    rows, labels = random.normal(size=(40, 6)).astype(np.float32), random.integers(0, 3, 40).astype(np.int32)
    plan = schedule(epochs=3, learning_rate=0.01, optimizer="SGD", **changes)
    model = two_layers(dtype)
    keep = None if states is None else states.append
    val = batches(rows, labels, None)
    training.fit(model, batches(rows, labels), val, plan, lambda logs: None, saved, keep, by_batch=True)
    return model


@pytest.mark.usefixtures("tensorflow")
def test_scaling_the_loss_keeps_small_gradients_and_changes_no_others() -> None:
    expected, scaled = (trained("float32", loss_scaling=scaling) for scaling in (False, True))
    for one, other in zip(expected.get_weights(), scaled.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)  # a power of two
    first = expected.get_layer("first").get_weights()[0]
    assert 0 < np.abs(first).max() < 1e-6

    lost = trained("mixed_float16").get_layer("first").get_weights()[0]
    assert np.abs(lost).max() < 0.2 * np.abs(first).max()
    for changes in ({"loss_scaling": True}, {"loss_scaling": True, "arguments": {"loss_scale_factor": 32768.0}}):
        model = trained("mixed_float16", **changes)
        assert (type(model.optimizer).__name__ == "SGD") == ("arguments" in changes)
        kept = model.get_layer("first").get_weights()[0]
        np.testing.assert_allclose(kept, first, rtol=0.02, atol=0.02 * np.abs(first).max())


@pytest.mark.usefixtures("tensorflow")
def test_a_step_that_overflows_is_skipped_and_the_scale_halved() -> None:
    from stages.core import training

    model = trained("mixed_float16", loss_scaling=True)
    scale, before = model.optimizer.dynamic_scale, model.get_weights()
    assert float(scale) == 2.0**15
    scale.assign(1e30)
    logs = training.Steps(model).train(np.ones((4, 6), np.float32), np.zeros(4, np.int32))
    assert np.isfinite(logs["loss"])
    assert all(map(np.array_equal, before, model.get_weights()))
    assert float(scale) == pytest.approx(0.5e30)


@pytest.mark.usefixtures("tensorflow")
def test_a_scaled_training_goes_on_with_the_same_bits() -> None:
    states: list[Any] = []
    whole = trained("mixed_float16", None, states, loss_scaling=True)
    again = trained("mixed_float16", states[0], loss_scaling=True)
    assert all(map(np.array_equal, whole.get_weights(), again.get_weights()))
    assert int(again.optimizer.step_counter) == int(whole.optimizer.step_counter) == 9
