"""The head of two classes with one sigmoid: what a sigmoid is, in the shape every reader knows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.usefixtures("tensorflow")

RANDOM = np.random.default_rng(5)
FEATURES = (3 * RANDOM.normal(size=(40, 8))).astype(np.float32)
LABELS = RANDOM.integers(0, 2, 40).astype(np.int32)


def test_one_logit_is_trained_and_two_probabilities_come_out() -> None:
    from stages.core import classifier

    head = classifier.head(8, 2, 0.0, 1, units=[4], l2=0.01, activation="sigmoid")
    found = np.asarray(head(FEATURES))
    assert found.shape == (40, 2)
    np.testing.assert_allclose(found.sum(1), 1.0, atol=1e-6)
    assert [weight.shape for weight in head.trainable_weights] == [(8, 4), (4,), (4, 1), (1,)]
    kernel, bias = head.get_layer("logit").get_weights()
    hidden = np.maximum(FEATURES @ head.get_layer("hidden_1").get_weights()[0], 0)
    sigmoid = 1 / (1 + np.exp(-(hidden @ kernel + bias)[:, 0].astype(np.float64)))
    np.testing.assert_allclose(found[:, 1], sigmoid, atol=1e-6)
    squares = sum(float((weight.numpy() ** 2).sum()) for weight in head.trainable_weights)
    assert float(sum(head.losses)) == pytest.approx(0.01 * squares, rel=1e-5)  # biases are 0 at first


@pytest.mark.parametrize("scale", [1.0, 40.0])
def test_its_loss_and_gradient_are_binary_cross_entropys(scale: float) -> None:
    """Also where the model is sure of what is wrong: Keras's from the logit, as from 1 - p nothing would be left."""
    import keras
    import tensorflow as tf

    from stages.core import classifier, objective

    head = classifier.head(8, 2, 0.0, 1, activation="sigmoid")
    kernel, bias = head.trainable_weights
    kernel.assign(scale * kernel)
    with tf.GradientTape() as tape:
        loss = objective.loss(0.0, 0.0, None)(LABELS, head(FEATURES))
    gradient = tape.gradient(loss, kernel.value)
    with tf.GradientTape() as tape:
        tape.watch(kernel.value)
        logits = FEATURES @ kernel.value + bias.value
        reference = keras.losses.BinaryCrossentropy(from_logits=True)(LABELS[:, None].astype(np.float32), logits)
    expected = tape.gradient(reference, kernel.value)
    assert float(loss) == pytest.approx(float(reference), rel=1e-5)
    np.testing.assert_allclose(gradient, expected, rtol=1e-3, atol=1e-5)


def test_training_moves_the_logit_alone_and_separates_two_classes() -> None:
    from stages.core import classifier, training

    head = classifier.head(8, 2, 0.0, 1, activation="sigmoid")
    fixed = head.get_layer("probabilities").get_weights()
    labels = (FEATURES[:, 0] > 0).astype(np.int32)
    plan = training.Schedule(30, 8, 0.1, 0, 0, 3.0)

    def batches(seed: int | None) -> training.Batches:
        return training.Batches(lambda images, views, epoch: FEATURES[images], labels, 1, 8, seed)

    outcome = training.fit(head, batches(1), batches(None), plan, lambda logs: None, by_batch=True)
    assert outcome.val_accuracy == 1.0
    assert outcome.trained_parameters == 9
    assert np.array_equal(head.get_layer("probabilities").get_weights()[0], fixed[0])
    assert fixed[0].tolist() == [[0.0, 1.0]]


def test_it_is_saved_read_in_safe_mode_and_rebuilt(tmp_path: Path) -> None:
    from stages.core import classifier
    from stages.store import models

    head = classifier.head(8, 2, 0.2, 1, units=[4], activation="sigmoid")
    models.save(head, tmp_path / "head.keras")
    read = models.load(tmp_path / "head.keras")
    assert np.array_equal(read.predict(FEATURES, verbose=0), head.predict(FEATURES, verbose=0))
    rebuilt = classifier.head(8, 2, 0.0, 0, units=[4], activation="sigmoid")
    rebuilt.set_weights(read.get_weights())
    assert np.array_equal(rebuilt.predict(FEATURES, verbose=0), head.predict(FEATURES, verbose=0))
