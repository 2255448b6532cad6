"""The cut: trunk and tail together are the uncut network, whichever base, and only what should train can."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest

from stages.core import backbones, catalogue
from stages.core.catalogue import CATALOGUE
from stages.core.errors import ConfigError

pytestmark = pytest.mark.usefixtures("tensorflow")
# One of each kind that Keras writes differently, at a small picture, and a layer to cut below.
KINDS = {
    "MobileNet": (0.25, 32, 60),
    "MobileNetV3Small": (0.75, 32, 100),
    "MobileNetV3Large": (0.75, 32, 0.7),
    "ResNet50": (1.0, 32, "conv4_block3_1_conv"),
    "ResNet50V2": (1.0, 32, -40),
    "EfficientNetB0": (1.0, 32, "block5a_expand_conv"),
    "EfficientNetV2B0": (1.0, 32, 0.6),
    "InceptionV3": (1.0, 75, "mixed7"),
    "Xception": (1.0, 71, "block10_sepconv1_act"),
    "DenseNet121": (1.0, 32, 0.8),
    "ConvNeXtTiny": (1.0, 32, 0.7),
    "NASNetMobile": (1.0, 32, 0.5),
}
MODULES = {
    "MobileNet": "mobilenet", "MobileNetV2": "mobilenet_v2", "MobileNetV3Small": "mobilenet_v3",
    "MobileNetV3Large": "mobilenet_v3", "ResNet50": "resnet", "ResNet50V2": "resnet_v2",
    "EfficientNetB0": "efficientnet", "EfficientNetV2B0": "efficientnet_v2", "EfficientNetV2S": "efficientnet_v2",
    "InceptionV3": "inception_v3", "Xception": "xception", "DenseNet121": "densenet", "ConvNeXtTiny": "convnext",
    "NASNetMobile": "nasnet",
}  # fmt: skip


@pytest.fixture
def base(tensorflow: Any) -> Any:
    return backbones.build("MobileNetV2", 32, 0.35)


def pictures(side: int = 32) -> Any:
    return np.random.default_rng(0).integers(0, 256, (3, side, side, 3)).astype(np.float32)


def lively(base: Any) -> None:
    """Statistics and small weights as a trained base has: at Keras's own start many layers would pass nothing on."""
    random = np.random.default_rng(1)
    for layer in base.layers:
        if type(layer).__name__ == "BatchNormalization":
            layer.set_weights([abs(random.normal(1.0, 0.2, weight.shape)) for weight in layer.get_weights()])
        elif type(layer).__name__ == "LayerScale":
            layer.set_weights([random.normal(0.3, 0.1, weight.shape) for weight in layer.get_weights()])


def test_the_tutorials_cut_is_layer_97(base: Any) -> None:
    assert backbones.deepest_cut(base, 100) == 97
    assert base.layers[97].name == "block_10_project_BN"


@pytest.mark.parametrize("fine_tune_at", [0, 1, 5, 28, 60, 100, 117, 154])
def test_trunk_and_tail_are_the_uncut_network(base: Any, fine_tune_at: int) -> None:
    pixels = pictures()
    cut = backbones.deepest_cut(base, fine_tune_at)
    assert cut < max(fine_tune_at, 1)
    activations, pooled = backbones.trunk(base, "tf", cut)(pixels)
    whole = np.asarray(base(pixels / 127.5 - 1.0)).mean((1, 2))
    again = np.asarray(backbones.tail(base, "tf", cut)(np.asarray(activations)))
    np.testing.assert_allclose(np.asarray(pooled), whole, atol=1e-5)
    np.testing.assert_allclose(again, whole, atol=1e-5)


@pytest.mark.parametrize("name", KINDS)
def test_any_base_is_cut_prepared_and_frozen_as_keras_means_it(name: str) -> None:
    """Cut and tail are the uncut network on Keras's own preprocessing; fine-tuning moves what it should alone."""
    import keras

    alpha, side, at = KINDS[name]
    keras.utils.set_random_seed(0)
    base = backbones.build(name, side, alpha)
    lively(base)
    pixels, how = pictures(side), CATALOGUE[name].preprocessing
    backbones.check_entrance(base, how)
    module = importlib.import_module(f"keras.applications.{MODULES[name]}")
    whole = np.asarray(base(module.preprocess_input(pixels.copy()), training=False)).mean((1, 2))
    first = backbones.layer_number(base, at, "test")
    cut = backbones.deepest_cut(base, first)
    assert 0 < cut < backbones.deepest_cut(base, len(base.layers)), "a cut inside"
    activations, pooled = backbones.trunk(base, how, cut)(pixels)
    scale = np.abs(whole).max()
    assert np.ptp(whole) > 1e-3 * scale > 0, "the features say something of the pictures"
    np.testing.assert_allclose(np.asarray(pooled) / scale, whole / scale, atol=1e-5)

    backbones.freeze_below(base, first)
    tail = backbones.tail(base, how, cut)
    np.testing.assert_allclose(np.asarray(tail(np.asarray(activations))) / scale, whole / scale, atol=1e-5)
    before = [[weight.copy() for weight in layer.get_weights()] for layer in base.layers]
    tail.compile(optimizer=keras.optimizers.SGD(0.1), loss="mse")
    tail.fit(np.asarray(activations), np.asarray(pooled) + scale, epochs=1, verbose=0)
    moved = {
        number
        for number, (layer, old) in enumerate(zip(base.layers, before, strict=True))
        if any(not np.array_equal(one, other) for one, other in zip(old, layer.get_weights(), strict=True))
    }
    assert moved, "nothing was trained"
    assert min(moved) >= first
    still = {"BatchNormalization", "Normalization"}
    assert not {type(base.layers[number]).__name__ for number in moved} & still
    trainable = {number for number, layer in enumerate(base.layers) if layer.trainable_weights}
    assert min(trainable) >= first
    kinds = {type(layer).__name__ for layer in base.layers}
    assert CATALOGUE[name].normalization in kinds
    assert len(base.layers) == CATALOGUE[name].layers


@pytest.mark.parametrize(
    "name", ["ResNet101", "ResNet101V2", "EfficientNetB1", "EfficientNetB2", "EfficientNetB3", "EfficientNetB4",
             "EfficientNetV2B1", "EfficientNetV2B2", "EfficientNetV2B3", "DenseNet169", "DenseNet201", "ConvNeXtSmall"],
)  # fmt: skip
def test_larger_ones_have_the_layers_that_the_catalogue_counts(name: str) -> None:
    base = backbones.build(name, 32, 1.0)
    assert len(base.layers) == CATALOGUE[name].layers
    assert base.output_shape[1:3] == (1, 1)


def test_every_name_is_one_of_keras_applications() -> None:
    import keras

    assert all(callable(getattr(keras.applications, name)) for name in CATALOGUE)


def test_a_base_that_rescales_by_itself_is_not_rescaled_again() -> None:
    base = backbones.build("EfficientNetV2S", 32, 1.0)
    assert len(base.layers) == CATALOGUE["EfficientNetV2S"].layers
    backbones.check_entrance(base, "inside")
    with pytest.raises(ConfigError, match="rescaled twice; set inside"):
        backbones.check_entrance(base, "tf")


def test_an_efficientnet_takes_imagenet_weights_into_its_one_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keras adds a layer for them alone: the stage that builds the base anew would build another network."""
    import keras

    application = keras.applications.EfficientNetB0
    published = application(input_shape=(32, 32, 3), include_top=False, weights=None)
    lively(published)
    extra = keras.layers.Rescaling([1 / np.sqrt(deviation) for deviation in (0.229, 0.224, 0.225)])
    at = next(number for number, layer in enumerate(published.layers) if type(layer).__name__ == "Normalization")
    published.layers[at].set_weights(
        [np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225]), np.zeros((), int)]
    )
    published.layers[at].finalize_state()
    front = keras.Model(published.input, extra(published.layers[at].output))
    back = keras.Model(published.layers[at].output, published.output)
    pixels = pictures()
    wanted = np.asarray(back(front(pixels)))

    def stand_in(weights: str | None = None, **arguments: Any) -> Any:
        return published if weights else application(weights=None, **arguments)

    monkeypatch.setattr(keras.applications, "EfficientNetB0", stand_in)
    base = backbones.build("EfficientNetB0", 32, 1.0, "imagenet")
    assert len(base.layers) == CATALOGUE["EfficientNetB0"].layers
    np.testing.assert_allclose(np.asarray(base(pixels)), wanted, rtol=1e-3, atol=1e-4)


def test_no_cut_inside_a_residual_block(base: Any) -> None:
    """Layers 98 to 105 are bypassed by the shortcut that starts at 97."""
    assert {backbones.deepest_cut(base, at) for at in range(98, 107)} == {97}
    assert backbones.deepest_cut(base, 107) == 106


def test_cut_zero_keeps_the_pixels(base: Any) -> None:
    activations, _ = backbones.trunk(base, "tf", 0)(pictures())
    assert np.array_equal(np.asarray(activations), pictures())


def test_freezing_leaves_only_later_layers_trainable_and_no_batch_normalization(base: Any) -> None:
    import keras

    backbones.freeze_below(base, 100)
    trainable = [number for number, layer in enumerate(base.layers) if layer.trainable and layer.weights]
    assert min(trainable) >= 100
    assert not any(isinstance(base.layers[number], keras.layers.BatchNormalization) for number in trainable)
    assert len(trainable) > 10


@pytest.mark.parametrize("name", MODULES)
def test_preprocessing_is_kerass_own(name: str) -> None:
    module = importlib.import_module(f"keras.applications.{MODULES[name]}")
    ours = np.asarray(backbones.preprocessing(CATALOGUE[name].preprocessing)(pictures()))
    np.testing.assert_allclose(ours, module.preprocess_input(pictures()), rtol=1e-5, atol=1e-5)


def test_multiplications_are_counted_as_published() -> None:
    """The MobileNetV2 paper (Sandler et al., 2018, table 4) gives 300 M for 1.0 at 224 pixels, the top included;
    ConvNeXt's (Liu et al., 2022, table 1) 4.5 G for the tiny one, whose 1x1 convolutions are products here."""
    base = backbones.build("MobileNetV2", 224, 1.0)
    assert backbones.multiplications(base) == pytest.approx(300e6, rel=0.02)
    assert 0.15 < backbones.multiplications(base, 98) / backbones.multiplications(base) < 0.5
    assert backbones.multiplications(backbones.build("ConvNeXtTiny", 224, 1.0)) == pytest.approx(4.5e9, rel=0.02)


def test_a_layer_is_named_in_four_ways(base: Any) -> None:
    number = {
        layer: backbones.layer_number(base, layer, "fine_tune.fine_tune_at")
        for layer in ("block_11_expand", 100, -54, 0.65, 0, 154, 0.0, 1.0)
    }
    assert number["block_11_expand"] == next(
        at for at, layer in enumerate(base.layers) if layer.name == "block_11_expand"
    )
    assert (number[-54], number[0.65]) == (100, 100)
    assert (backbones.layer_number(base, 1.0, "x"), backbones.layer_number(base, 1, "x")) == (154, 1)
    for wrong, said in (
        ("block_11_expanded", r"fine_tune\.fine_tune_at: received 'block_11_expanded'.*block_11_expand,"),
        (155, "must be -154 to 154"),
        (-155, "must be -154 to 154"),
        (1.5, "must be 0.0 to 1.0"),
    ):
        with pytest.raises(ConfigError, match=said):
            backbones.layer_number(base, wrong, "fine_tune.fine_tune_at")  # type: ignore[arg-type]
    assert catalogue.layer_number("a_name", 154) is None


def test_a_layer_that_is_called_twice_is_refused() -> None:
    import keras

    inputs = keras.Input((32, 32, 3))
    layer = keras.layers.Conv2D(3, 3, padding="same", name="shared")
    with pytest.raises(ConfigError, match="calls 'shared' more than once"):
        backbones.check_single_use(keras.Model(inputs, layer(layer(inputs))), "base.keras")
