"""The cut: trunk and tail together are the uncut network, and only what should train can."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from stages.core import backbones

pytestmark = pytest.mark.usefixtures("tensorflow")


@pytest.fixture
def base(tensorflow: Any) -> Any:
    return backbones.build("MobileNetV2", 32, 0.35)


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3)).astype(np.float32)


def test_the_tutorials_cut_is_layer_97(base: Any) -> None:
    assert backbones.deepest_cut(base, 100) == 97
    assert base.layers[97].name == "block_10_project_BN"


@pytest.mark.parametrize("fine_tune_at", [0, 1, 5, 28, 60, 100, 117, 154, 999])
def test_trunk_and_tail_are_the_uncut_network(base: Any, pixels: np.ndarray, fine_tune_at: int) -> None:
    cut = backbones.deepest_cut(base, fine_tune_at)
    assert cut < max(fine_tune_at, 1)
    activations, pooled = backbones.trunk(base, "MobileNetV2", cut)(pixels)
    whole = np.asarray(base(pixels / 127.5 - 1.0)).mean((1, 2))
    again = np.asarray(backbones.tail(base, "MobileNetV2", cut)(np.asarray(activations)))
    np.testing.assert_allclose(np.asarray(pooled), whole, atol=1e-5)
    np.testing.assert_allclose(again, whole, atol=1e-5)


def test_no_cut_inside_a_residual_block(base: Any) -> None:
    """Layers 98 to 105 are bypassed by the shortcut that starts at 97."""
    assert {backbones.deepest_cut(base, at) for at in range(98, 107)} == {97}
    assert backbones.deepest_cut(base, 107) == 106


def test_cut_zero_keeps_the_pixels(base: Any, pixels: np.ndarray) -> None:
    activations, _ = backbones.trunk(base, "MobileNetV2", 0)(pixels)
    assert np.array_equal(np.asarray(activations), pixels)


def test_freezing_leaves_only_later_layers_trainable_and_no_batch_normalization(base: Any) -> None:
    import keras

    backbones.freeze_below(base, 100)
    trainable = [number for number, layer in enumerate(base.layers) if layer.trainable and layer.weights]
    assert min(trainable) >= 100
    assert not any(isinstance(base.layers[number], keras.layers.BatchNormalization) for number in trainable)
    assert len(trainable) > 10


@pytest.mark.parametrize("name", sorted(backbones.CATALOGUE))
def test_preprocessing_is_kerass_own(name: str, pixels: np.ndarray) -> None:
    import keras

    module = {"MobileNet": keras.applications.mobilenet, "MobileNetV2": keras.applications.mobilenet_v2}[name]
    ours = np.asarray(backbones.preprocessing(name)(pixels))
    np.testing.assert_allclose(ours, module.preprocess_input(pixels.copy()), atol=1e-6)


def test_mobilenet_can_be_cut_too(pixels: np.ndarray) -> None:
    base = backbones.build("MobileNet", 32, 0.25)
    cut = backbones.deepest_cut(base, 60)
    assert cut == 59
    activations, pooled = backbones.trunk(base, "MobileNet", cut)(pixels)
    again = np.asarray(backbones.tail(base, "MobileNet", cut)(np.asarray(activations)))
    np.testing.assert_allclose(again, np.asarray(pooled), atol=1e-5)


def test_multiplications_are_counted_as_published() -> None:
    """The MobileNetV2 paper (Sandler et al., 2018, table 4) gives 300 M for 1.0 at 224 pixels, the top included."""
    base = backbones.build("MobileNetV2", 224, 1.0)
    assert backbones.multiplications(base) == pytest.approx(300e6, rel=0.02)
    assert 0.15 < backbones.multiplications(base, 98) / backbones.multiplications(base) < 0.5
