"""The map of what speaks for a class is Grad-CAM: as TensorFlow differentiates it, and as the picture was made."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from stages.core import backbones, classifier, grad_cam

pytestmark = pytest.mark.usefixtures("tensorflow")


@pytest.fixture(scope="module")
def base(tensorflow: Any) -> Any:
    """Of 96 pixels, with a feature map of 3 x 3."""
    found = backbones.build("MobileNetV2", 96, 0.35)
    _disturb(found, 5)
    return found


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (2, 96, 96, 3)).astype(np.float32)


def _disturb(model: Any, seed: int) -> None:
    """Random biases and statistics too, else a forgotten one would not be missed."""
    random = np.random.default_rng(seed)
    model.set_weights([weight + random.normal(0, 0.05, weight.shape) ** 2 for weight in model.get_weights()])


def _by_tape(model: Any, features: np.ndarray, score: Any) -> np.ndarray:
    """Grad-CAM as its article has it, of one feature map [h, w, c], with TensorFlow's gradients."""
    import tensorflow as tf

    tensor = tf.constant(features[None])
    with tf.GradientTape() as tape:
        tape.watch(tensor)
        value = score(tf.reduce_mean(tensor, (1, 2)))
    weights = tape.gradient(value, tensor).numpy()[0].mean((0, 1))
    found = np.maximum(features @ weights, 0)
    return np.asarray(found / max(found.max(), 1e-30))


def _logit(head: Any, number: int) -> Any:
    import keras

    last = head.layers[-1]
    before = keras.Model(head.input, last.input)
    return lambda pooled: (before(pooled) @ last.kernel + last.bias)[0, number]


@pytest.mark.parametrize("units", [[], [24], [32, 16]])
def test_it_is_the_articles_with_tensorflows_gradients(base: Any, pixels: np.ndarray, units: list[int]) -> None:
    head = classifier.head(1280, 4, dropout=0.3, seed=1, units=units)
    _disturb(head, 6)
    model = classifier.from_pixels(base, "tf", head)
    features = np.asarray(grad_cam.feature_map(model)(pixels))
    assert features.shape == (2, 3, 3, 1280)
    seen = set()
    for image in features:
        for number in range(4):
            found = grad_cam.heat_map(image, model.get_layer("head"), number)
            np.testing.assert_allclose(found, _by_tape(model, image, _logit(head, number)), atol=2e-5)
            assert found.dtype == np.float32
            assert found.shape == (3, 3)
            seen.add(found.tobytes())
    assert len(seen) > 4, "the maps tell images and classes apart"


def test_with_one_dense_layer_it_is_cam(pixels: np.ndarray) -> None:
    """Zhou et al.'s map is the kernel's column of the class, applied at each place."""
    head = classifier.head(5, 3, dropout=0.0, seed=2)
    _disturb(head, 7)
    features = np.random.default_rng(3).normal(size=(4, 6, 5)).astype(np.float32)
    for number in range(3):
        cam = np.maximum(features.astype(np.float64) @ head.get_weights()[0][:, number].astype(np.float64), 0)
        found = grad_cam.heat_map(features, head, number)
        np.testing.assert_allclose(found, cam / cam.max(), atol=1e-7)
        assert found.max() == 1


@pytest.mark.parametrize(("row", "column"), [(0, 0), (0, 3), (3, 0), (3, 3)])
@pytest.mark.parametrize("form", ["channels_last", "channels_first"])
def test_the_map_peaks_where_the_answer_comes_from(row: int, column: int, form: str) -> None:
    """A network that sees brightness in one corner of the picture and nothing else.

    Its feature map has two channels: brightness there, brightness elsewhere, which no class listens to.
    """
    import keras

    first = form == "channels_first"
    inputs = keras.Input((3, 32, 32) if first else (32, 32, 3))
    channels_last = keras.layers.Permute((2, 3, 1))(inputs) if first else inputs
    mean = keras.layers.AveragePooling2D(8, data_format="channels_last")(channels_last)[..., :1]
    corner = np.zeros((1, 4, 4, 1), np.float32)
    corner[0, row, column] = 1
    both = keras.layers.Concatenate()([mean * corner, mean * (1 - corner)])
    base = keras.Model(inputs, keras.layers.Permute((3, 1, 2))(both) if first else both)
    head = classifier.head(2, 2, dropout=0.0, seed=0)
    head.set_weights([np.array([[-1.0, 1.0], [0.0, 0.0]]), np.zeros(2)])
    pixels = keras.Input((32, 32, 3))
    entered = keras.layers.Permute((3, 1, 2))(pixels) if first else pixels
    pooled = keras.layers.GlobalAveragePooling2D(name="pool", data_format=form)(base(entered))
    model = keras.Model(pixels, head(pooled))

    bright = np.full((1, 32, 32, 3), 200.0, np.float32)
    (features,) = np.asarray(grad_cam.feature_map(model)(bright))
    assert features.shape == (4, 4, 2)
    expected = np.zeros((4, 4))
    expected[row, column] = 1
    assert np.array_equal(grad_cam.heat_map(features, head, 1), expected)
    assert not grad_cam.heat_map(features, head, 0).any(), "nothing speaks for the other class"


@pytest.mark.parametrize("units", [[], [6]])
def test_a_single_sigmoid_speaks_for_one_class_and_against_the_other(units: list[int]) -> None:
    import keras

    tensor = pooled = keras.Input((5,))
    for width in units:
        tensor = keras.layers.Dense(width, activation="relu")(tensor)
    head = keras.Model(pooled, keras.layers.Dense(1, activation="sigmoid", use_bias=False)(tensor))
    features = np.random.default_rng(4).normal(size=(3, 3, 5)).astype(np.float32)
    one, other = (grad_cam.heat_map(features, head, number) for number in (1, 0))
    np.testing.assert_allclose(one, _by_tape(head, features, lambda pooled: _logit_of_one(head, pooled)), atol=1e-5)
    np.testing.assert_allclose(other, _by_tape(head, features, lambda pooled: -_logit_of_one(head, pooled)), atol=1e-5)
    assert not (one * other).any()
    assert (one + other).any()


def test_the_two_classes_of_a_sigmoid_head_are_explained_by_its_logit() -> None:
    from stages.core import classifier

    head = classifier.head(5, 2, 0.2, 3, units=[6], activation="sigmoid")
    features = np.random.default_rng(4).normal(size=(3, 3, 5)).astype(np.float32)

    def logit(pooled: Any) -> Any:
        import tensorflow as tf

        shares = head(pooled)[0]
        return tf.math.log(shares[1]) - tf.math.log(shares[0])

    one, other = (grad_cam.heat_map(features, head, number) for number in (1, 0))
    np.testing.assert_allclose(one, _by_tape(head, features, logit), atol=1e-5)
    np.testing.assert_allclose(other, _by_tape(head, features, lambda pooled: -logit(pooled)), atol=1e-5)
    assert (one + other).any()


def _logit_of_one(head: Any, pooled: Any) -> Any:
    import tensorflow as tf

    share = head(pooled)[0, 0]
    return tf.math.log(share) - tf.math.log(1 - share)


def test_another_head_is_refused_not_guessed() -> None:
    import keras

    pooled = keras.Input((5,))
    bent = keras.layers.Dense(3)(keras.layers.Dense(4, activation="tanh")(pooled))
    with pytest.raises(ValueError, match="a head of Dense, Dense: no gradient is known"):
        grad_cam.gradient(keras.Model(pooled, bent), np.zeros(5), 0)
    normed = keras.layers.Dense(3)(keras.layers.BatchNormalization()(keras.layers.Dense(4)(pooled)))
    with pytest.raises(ValueError, match="a head of Dense, BatchNormalization, Dense"):
        grad_cam.gradient(keras.Model(pooled, normed), np.zeros(5), 0)


def test_the_overlay_colours_what_is_hot_and_leaves_the_rest_grey() -> None:
    pixels = np.random.default_rng(5).integers(0, 256, (40, 40, 3)).astype(np.uint8)
    heat = np.zeros((2, 2), np.float32)
    heat[0, 1] = 1
    drawn = grad_cam.overlay(pixels, heat)
    assert drawn.dtype == np.uint8
    assert drawn.shape == (40, 40, 3)
    redness = drawn[..., 0].astype(int) - drawn[..., 2]
    assert redness[:8, 32:].min() > 100
    assert not redness[32:, :8].any()
    nearly = heat + np.float32(1e-6)
    assert np.array_equal(grad_cam.overlay(pixels, np.clip(nearly, 0, 1)), drawn), "the last bits do not show"
