"""Training on mixed batches: seeded by epoch and batch, resumable, traced once, with a meaningful accuracy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from stages.core.mixing import Mixing

pytestmark = pytest.mark.usefixtures("tensorflow")

RANDOM = np.random.default_rng(0)
LABELS = (np.arange(44) % 3).astype(np.int32)
MAPS = RANDOM.normal(size=(44, 4, 4, 3)).astype(np.float32)
MAPS[np.arange(44), :, :, LABELS] += 2.0  # learnable
BOTH = Mixing(0.4, 1.0, 3)


def batches(mixing: Mixing | None, seed: int | None = 1) -> Any:
    from stages.core import training

    return training.Batches(lambda images, views, epoch: MAPS[images], LABELS, 1, 16, seed, mixing=mixing)


def every(data: Any) -> list[tuple[np.ndarray, np.ndarray]]:
    return [data[number] for number in range(len(data))]


def trained(
    mixing: Mixing | None,
    by_batch: bool,
    saved: Any = None,
    smoothing: float = 0.0,
    dropout: float = 0.2,
    first: int = 0,
) -> tuple[list[np.ndarray], list[dict[str, float]], list[Any]]:
    """A small net after four epochs: (variables, logs, states)."""
    import keras

    from stages.core import objective, training

    keras.utils.set_random_seed(3)
    layers = [keras.layers.Flatten(), keras.layers.Dropout(dropout), keras.layers.Dense(3, "softmax")]
    model = keras.Sequential([keras.Input((4, 4, 3)), *layers])
    plan = training.Schedule(4, 16, 0.05, 0, 1, 2.0)
    logs: list[dict[str, float]] = []
    states: list[Any] = []
    train = batches(mixing)
    train.go_to(first)
    training.fit(
        model, train, batches(None, None), plan, logs.append, saved, states.append, by_batch,
        objective.loss(smoothing, 0.0, None, mixing is not None),
    )  # fmt: skip
    return [variable.numpy() for variable in model.variables], logs, states


def test_a_batch_is_decided_by_seed_epoch_and_number() -> None:
    one, other = batches(BOTH), batches(BOTH)
    firsts = []
    for epoch in range(3):
        for number in reversed(range(len(one))):  # in whatever order they are asked for
            assert all(map(np.array_equal, one[number], every(other)[number]))
        firsts.append(one[0][1])
        one.on_epoch_end()
        other.go_to(epoch + 1)
    assert not np.array_equal(firsts[0], firsts[1])
    assert not np.array_equal(one[0][0], one[1][0])
    assert not np.array_equal(batches(BOTH, 2)[0][0], batches(BOTH, 1)[0][0])


def test_mixing_changes_neither_order_nor_what_is_mixed() -> None:
    plain, mixed = batches(None), batches(Mixing(1.0, 0.0, 3))
    for (inputs, labels), (blend, shares) in zip(every(plain), every(mixed), strict=True):
        assert labels.dtype == np.int32
        assert shares.dtype == np.float32
        assert shares.shape == (len(labels), 3)
        assert (shares[np.arange(len(labels)), labels] > 0).all()  # each keeps a part of itself
        assert blend.min() >= inputs.min() - 1e-5
        assert blend.max() <= inputs.max() + 1e-5


@pytest.mark.parametrize("by_batch", [True, False])
def test_resumed_after_any_epoch_it_ends_with_the_same_bits(by_batch: bool) -> None:
    variables, logs, states = trained(BOTH, by_batch)
    assert len(states) == 4
    for state in (states[0], states[2]):
        again, later, _ = trained(BOTH, by_batch, state)
        assert all(np.array_equal(a, b) for a, b in zip(variables, again, strict=True))
        assert later == logs[state.epochs :]
    other, _, _ = trained(None, by_batch)
    assert not all(np.array_equal(a, b) for a, b in zip(variables, other, strict=True))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_fit_and_batch_by_batch_learn_alike_from_mixed_batches(smoothing: float) -> None:
    _, one, _ = trained(BOTH, True, None, smoothing, dropout=0.0, first=1)
    _, other, _ = trained(BOTH, False, None, smoothing, dropout=0.0)  # Keras looks at a batch and starts with epoch 1
    for a, b in zip(one, other, strict=True):
        for name in a:
            assert a[name] == pytest.approx(b[name], rel=1e-3, abs=1e-5), name
    # Of a batch's mixed images most can be told by their larger part; validation's are not mixed.
    assert one[-1]["accuracy"] > 0.6
    assert one[-1]["val_accuracy"] > 0.9


def test_accuracy_counts_the_class_with_the_largest_share() -> None:
    from stages.core import training

    probabilities = np.array([[0.7, 0.2, 0.1], [0.1, 0.2, 0.7], [0.4, 0.5, 0.1]], np.float32)
    shares = np.array([[0.6, 0.4, 0.0], [0.45, 0.0, 0.55], [0.9, 0.1, 0.0]], np.float32)
    assert np.asarray(training._hits(shares, probabilities)).tolist() == [1.0, 1.0, 0.0]
    assert np.asarray(training._hits(np.array([0, 2, 1], np.int32), probabilities)).tolist() == [1.0, 1.0, 1.0]
    assert np.asarray(training._hits(np.array([[1], [2], [1]], np.int32), probabilities)).tolist() == [0.0, 1.0, 1.0]


def test_a_step_is_traced_once_for_batches_of_every_length() -> None:
    import keras

    from stages.core import objective, training

    model = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Flatten(), keras.layers.Dense(3, "softmax")])
    model.compile(optimizer="sgd", loss=objective.loss(0.0, 0.0, None, mixed=True))
    steps = training.Steps(model, mixed=True)
    lengths = {len(labels) for inputs, labels in every(batches(BOTH)) if steps.train(inputs, labels)}
    assert lengths == {16, 12}
    assert steps._train.experimental_get_tracing_count() == 1


def test_a_scaled_loss_gives_the_same_steps() -> None:
    """Keras divides gradients by loss_scale_factor, so the loss must have been multiplied by it."""
    import keras

    from stages.core import training

    found = []
    for arguments in ({}, {"loss_scale_factor": 1024.0}):
        keras.utils.set_random_seed(3)
        model = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Flatten(), keras.layers.Dense(3, "softmax")])
        plan = training.Schedule(2, 16, 0.05, 0, 0, 2.0, optimizer="SGD", arguments=arguments)
        training.fit(model, batches(None), batches(None, None), plan, lambda logs: None, by_batch=True)
        found.append(model.get_weights())
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
