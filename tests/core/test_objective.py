"""The losses against their definitions, and what they are for."""

from __future__ import annotations

import numpy as np
import pytest

pytestmark = pytest.mark.usefixtures("tensorflow")

RANDOM = np.random.default_rng(3)
LABELS = RANDOM.integers(0, 4, 50).astype(np.int32)
PROBABILITIES = RANDOM.dirichlet([0.5] * 4, 50).astype(np.float32).clip(1e-4, 1)
PROBABILITIES /= PROBABILITIES.sum(1, keepdims=True)
OWN = PROBABILITIES[np.arange(50), LABELS]


def value(smoothing: float = 0.0, focusing: float = 0.0, weights: list[float] | None = None) -> float:
    from stages.core import objective

    return float(objective.loss(smoothing, focusing, weights)(LABELS, PROBABILITIES))


def test_without_anything_it_is_kerass_own() -> None:
    import keras

    from stages.core import objective

    assert isinstance(objective.loss(0.0, 0.0, None), keras.losses.SparseCategoricalCrossentropy)
    assert value() == pytest.approx(-np.log(OWN).mean(), rel=1e-5)
    assert value(weights=[1.0] * 4) == pytest.approx(value(), rel=1e-5)


def test_smoothing_is_kerass_of_one_hot_labels() -> None:
    import keras

    reference = keras.losses.CategoricalCrossentropy(label_smoothing=0.1)
    assert value(smoothing=0.1) == pytest.approx(float(reference(np.eye(4)[LABELS], PROBABILITIES)), rel=1e-5)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focusing_is_kerass_focal_loss(gamma: float) -> None:
    import keras

    reference = keras.losses.CategoricalFocalCrossentropy(alpha=1.0, gamma=gamma)
    assert value(focusing=gamma) == pytest.approx(float(reference(np.eye(4)[LABELS], PROBABILITIES)), rel=1e-4)


def test_weights_multiply_each_classs_images() -> None:
    weights = [0.5, 1.0, 2.0, 4.0]
    assert value(weights=weights) == pytest.approx((-np.log(OWN) * np.array(weights)[LABELS]).mean(), rel=1e-5)


def test_balanced_classes_weigh_alike() -> None:
    from stages.core import objective

    labels = np.array([0] * 90 + [1] * 9 + [3], np.int32)
    weights = objective.balanced(labels, 4)
    assert weights == pytest.approx([100 / 360, 100 / 36, 0.0, 25.0])
    assert [weights[label] * (labels == label).sum() for label in (0, 1, 3)] == pytest.approx([25.0] * 3)


@pytest.mark.parametrize("kind", [(0.1, 0.0, None), (0.0, 0.5, None), (0.1, 2.0, [1.0, 2.0, 3.0, 4.0])])
def test_the_gradient_is_finite_where_the_model_is_sure(kind: tuple[float, float, list[float] | None]) -> None:
    import tensorflow as tf

    from stages.core import objective

    logits = tf.Variable([[50.0, 0.0, 0.0, 0.0], [0.0, 50.0, 0.0, 0.0]])
    with tf.GradientTape() as tape:
        loss = objective.loss(*kind)(tf.constant([0, 2]), tf.nn.softmax(logits))
    assert np.isfinite(float(loss))
    assert np.isfinite(tape.gradient(loss, logits).numpy()).all()


KINDS = [(0.0, 0.0, None), (0.1, 0.0, None), (0.0, 2.0, None), (0.1, 0.5, [0.5, 1.0, 2.0, 4.0])]


@pytest.mark.parametrize("kind", KINDS)
def test_a_mixed_images_loss_is_that_of_each_class_times_its_share(
    kind: tuple[float, float, list[float] | None],
) -> None:
    from stages.core import objective

    mixed, plain = objective.loss(*kind, mixed=True), objective.loss(*kind)
    others = RANDOM.integers(0, 4, 50).astype(np.int32)
    for share in (0.0, 0.3, 1.0):
        labels = (share * np.eye(4)[LABELS] + (1 - share) * np.eye(4)[others]).astype(np.float32)
        expected = share * float(plain(LABELS, PROBABILITIES)) + (1 - share) * float(plain(others, PROBABILITIES))
        assert float(mixed(labels, PROBABILITIES)) == pytest.approx(expected, rel=1e-5)
    # Validation's labels stay numbers.
    assert float(mixed(LABELS, PROBABILITIES)) == float(plain(LABELS, PROBABILITIES))


def test_keras_has_the_same_of_shares_with_smoothing() -> None:
    import keras

    from stages.core import objective

    labels = RANDOM.dirichlet([1.0] * 4, 50).astype(np.float32)
    reference = keras.losses.CategoricalCrossentropy(label_smoothing=0.1)
    found = float(objective.loss(0.1, 0.0, None, mixed=True)(labels, PROBABILITIES))
    assert found == pytest.approx(float(reference(labels, PROBABILITIES)), rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_of_a_mixed_image_is_finite_where_the_model_is_sure(
    kind: tuple[float, float, list[float] | None],
) -> None:
    import tensorflow as tf

    from stages.core import objective

    logits = tf.Variable([[50.0, 0.0, 0.0, 0.0], [0.0, 50.0, 0.0, 0.0]])
    with tf.GradientTape() as tape:
        loss = objective.loss(*kind, mixed=True)(tf.constant([[0.5, 0.5, 0, 0], [0, 1.0, 0, 0]]), tf.nn.softmax(logits))
    assert np.isfinite(float(loss))
    assert np.isfinite(tape.gradient(loss, logits).numpy()).all()
