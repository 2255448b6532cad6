"""A tiny real fine-tune: it learns, keeps its best epoch, and touches only what it may."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from stages.core.errors import DataRejected

pytestmark = pytest.mark.usefixtures("tensorflow")

SIDE, CLASSES, IMAGES = 32, 3, 48
WEIGHTS = Path(__file__).parents[2] / "pretraining" / "mobilenet_v2_0.35_96_letters.weights.h5"


@pytest.fixture(scope="module")
def stripes() -> tuple[np.ndarray, np.ndarray]:
    """Pictures of three kinds: stripes across, stripes down, a bright middle. uint8 [48, 32, 32, 3]."""
    random = np.random.default_rng(0)
    labels = np.arange(IMAGES) % CLASSES
    pictures = random.integers(0, 60, (IMAGES, SIDE, SIDE, 3))
    wave = (np.arange(SIDE) // 4 % 2) * 150
    for number, label in enumerate(labels):
        if label == 0:
            pictures[number] += wave[None, :, None]
        elif label == 1:
            pictures[number] += wave[:, None, None]
        else:
            pictures[number, 8:24, 8:24] += 150
    return pictures.astype(np.uint8), labels.astype(np.int32)


def schedule(**changes: Any) -> Any:
    from stages.core import training

    values = {"epochs": 4, "batch_size": 16, "learning_rate": 0.01}
    never = {"stop_after": 0, "reduce_after": 0, "reduce_by": 3.0}
    return training.Schedule(**{**values, **never, **changes})


def build(seed: int = 3) -> tuple[Any, Any, Any]:
    """(base, head, tail classifier with the layers from 100 trainable)."""
    import keras

    from stages.core import backbones, classifier

    keras.utils.set_random_seed(seed)
    base = backbones.build("MobileNetV2", SIDE, 0.35)
    # From random weights nothing reaches the head: frozen BatchNormalization does not rescale it.
    base.load_weights(WEIGHTS)
    head = classifier.head(1280, CLASSES, 0.2, seed)
    backbones.freeze_below(base, 100)
    return base, head, classifier.from_activations(backbones.tail(base, "tf", 97), head)


def batches(tensors: np.ndarray, labels: np.ndarray, seed: int | None = 1) -> Any:
    from stages.core import training

    return training.Batches(lambda images, views, epoch: tensors[images], labels, 1, 16, seed)


def stored(base: Any, pictures: np.ndarray) -> np.ndarray:
    from stages.core import backbones

    return np.asarray(backbones.trunk(base, "tf", 97)(pictures.astype(np.float32))[0]).astype(np.float16)


def test_the_tail_learns_while_frozen_layers_and_statistics_stay_bit_equal(stripes: Any) -> None:
    import keras

    from stages.core import classifier, training

    pictures, labels = stripes
    base, head, model = build()
    activations = stored(base, pictures)
    frozen_before = [weight.numpy() for layer in base.layers[:100] for weight in layer.weights]
    norms = [layer for layer in base.layers if isinstance(layer, keras.layers.BatchNormalization)]
    norms_before = [weight.numpy() for layer in norms for weight in layer.weights]
    late_before = base.get_layer("Conv_1").get_weights()[0]
    seen: list[dict[str, float]] = []

    train, val = batches(activations, labels), batches(activations, labels, None)
    outcome = training.fit(model, train, val, schedule(epochs=6, learning_rate=0.003), seen.append)

    assert seen[0]["loss"] > seen[-1]["loss"]
    assert outcome.epochs == len(seen) == 6
    assert outcome.val_loss == min(logs["val_loss"] for logs in seen)
    assert all(map(np.array_equal, frozen_before, [w.numpy() for layer in base.layers[:100] for w in layer.weights]))
    assert all(map(np.array_equal, norms_before, [w.numpy() for layer in norms for w in layer.weights]))
    assert not np.array_equal(late_before, base.get_layer("Conv_1").get_weights()[0])
    # From pixels the shipped model answers what the trained tail does, within fp16 rounding of the activations.
    whole = np.asarray(classifier.from_pixels(base, "tf", head)(pictures.astype(np.float32), training=False))
    np.testing.assert_allclose(whole, np.asarray(model(activations.astype(np.float32), training=False)), atol=0.02)
    np.testing.assert_allclose(whole.sum(1), 1.0, atol=1e-5)


def test_twice_the_same_seed_gives_the_same_bits(stripes: Any) -> None:
    import keras

    from stages.core import training

    pictures, labels = stripes
    results = []
    for _ in range(2):
        base, _, model = build()
        keras.utils.set_random_seed(5)
        activations = stored(base, pictures)
        train, val = batches(activations, labels), batches(activations, labels, None)
        training.fit(model, train, val, schedule(), lambda logs: None)
        results.append(model.get_weights())
    assert all(map(np.array_equal, *results))


def test_the_best_epoch_is_kept_even_if_it_is_the_start(stripes: Any) -> None:
    from stages.core import training

    pictures, labels = stripes
    base, _, model = build()
    before = model.get_weights()
    val = batches(stored(base, pictures), labels, None)
    # Trained on wrong labels, every epoch is worse than the start.
    wrong = batches(stored(base, pictures), (labels + 1) % CLASSES)
    outcome = training.fit(model, wrong, val, schedule(epochs=2, learning_rate=0.05), lambda logs: None)
    assert (outcome.best_epoch, outcome.epochs) == (0, 2)
    assert all(map(np.array_equal, before, model.get_weights()))


def test_stopping_and_reducing_follow_their_patience(stripes: Any) -> None:
    from stages.core import training

    pictures, labels = stripes
    base, _, model = build()
    val = batches(stored(base, pictures), labels, None)
    wrong = batches(stored(base, pictures), (labels + 1) % CLASSES)
    rates: list[float] = []
    plan = schedule(epochs=20, learning_rate=0.08, stop_after=4, reduce_after=1, reduce_by=2.0)
    outcome = training.fit(model, wrong, val, plan, lambda logs: rates.append(float(logs["learning_rate"])))
    assert outcome.epochs < 20
    assert rates[0] == pytest.approx(0.08)
    assert min(rates) <= 0.04


def test_a_loss_that_is_not_finite_is_refused(stripes: Any) -> None:
    from stages.core import training

    pictures, labels = stripes
    base, _, model = build()
    activations = stored(base, pictures).astype(np.float32)
    broken = np.where(np.arange(IMAGES)[:, None, None, None] == 7, np.nan, activations)
    with pytest.raises(DataRejected, match="NaN or infinite in epoch 1 "):
        training.fit(model, batches(broken, labels), batches(activations, labels, None), schedule(), lambda logs: None)


def test_an_epoch_passes_every_image_once_and_k_epochs_every_view() -> None:
    from stages.core import training

    asked: list[tuple[int, int]] = []

    def take(images: np.ndarray, views: np.ndarray, epoch: int) -> np.ndarray:
        asked.extend(zip(images.tolist(), views.tolist(), strict=True))
        return np.zeros((len(images), 1))

    train = training.Batches(take, np.arange(10, dtype=np.int32), views=3, batch_size=4, seed=1)
    orders = []
    for _ in range(3):
        start = len(asked)
        for number in range(len(train)):
            inputs, labels = train[number]
            assert inputs.dtype == np.float32
            assert labels.tolist() == [image for image, _ in asked[-len(labels) :]]
        orders.append([image for image, _ in asked[start:]])
        train.on_epoch_end()
    assert all(sorted(order) == list(range(10)) for order in orders)
    assert orders[0] != orders[1]
    assert sorted(asked) == [(image, view) for image in range(10) for view in range(3)]


def dense(saved: Any = None, epochs: int = 9) -> tuple[list[np.ndarray], Any, list[dict[str, float]], list[Any]]:
    """A tiny net with dropout on noisy data: the rate drops and it stops early. (variables, outcome, logs, saved)."""
    import keras

    from stages.core import training

    keras.utils.set_random_seed(3)
    random = np.random.default_rng(0)
    rows, labels = random.normal(size=(40, 6)).astype(np.float32), random.integers(0, 3, 40).astype(np.int32)
    layers = [keras.Input((6,)), keras.layers.Dense(8, "relu"), keras.layers.Dropout(0.4), keras.layers.Dense(3)]
    model = keras.Sequential([*layers, keras.layers.Softmax()])
    views = training.Batches(lambda images, views, epoch: rows[images] + views[:, None], labels, 3, 16, 1)
    val = training.Batches(lambda images, views, epoch: rows[images], random.permutation(labels), 1, 16, None)
    plan = schedule(epochs=epochs, learning_rate=0.1, stop_after=3, reduce_after=1, reduce_by=2.0)
    logs: list[dict[str, float]] = []
    states: list[Any] = []
    outcome = training.fit(model, views, val, plan, logs.append, saved, states.append)
    variables = [variable.numpy() for variable in model.variables]
    return variables, outcome, logs, states


@pytest.mark.parametrize("epochs", [3, 9], ids=["runs to its last epoch", "stops early"])
def test_resumed_after_any_epoch_it_ends_with_the_same_bits(epochs: int) -> None:
    from dataclasses import asdict

    variables, outcome, logs, states = dense(epochs=epochs)
    assert len(states) == len(logs) == outcome.epochs
    assert (outcome.epochs < epochs) == (epochs == 9) == states[-1].stopped
    assert logs[-1]["learning_rate"] < logs[0]["learning_rate"]
    for state in states:
        again, outcome_again, later, later_states = dense(state, epochs)
        assert outcome_again == outcome
        assert later == logs[state.epochs :]
        assert all(np.array_equal(a, b) for a, b in zip(variables, again, strict=True))
        for expected, got in zip(states[state.epochs :], later_states, strict=True):
            np.testing.assert_equal(asdict(got), asdict(expected))


def test_an_epoch_whose_loss_is_no_number_is_not_saved(stripes: Any) -> None:
    from stages.core import training

    pictures, labels = stripes
    base, _, model = build()
    activations = stored(base, pictures).astype(np.float32)
    # The third epoch sees one broken picture.
    train = training.Batches(
        lambda images, views, epoch: activations[images] * (np.nan if epoch == 3 else 1.0), labels, 1, 16, 1
    )
    states: list[Any] = []
    with pytest.raises(DataRejected, match="NaN or infinite in epoch 3 "):
        training.fit(
            model, train, batches(activations, labels, None), schedule(), lambda logs: None, None, states.append
        )
    assert [state.epochs for state in states] == [1, 2]


def test_shards_get_equal_parts_of_every_batch() -> None:
    from stages.core import training

    train = training.Batches(
        lambda images, views, epoch: images[:, None], np.arange(11, dtype=np.int32), 1, 5, seed=1, shards=2
    )
    batches_of = [train[number][1].tolist() for number in range(len(train))]
    assert [len(batch) for batch in batches_of] == [4, 4, 4]
    passed = [label for batch in batches_of for label in batch]
    assert sorted(passed[:11]) == list(range(11))
    assert passed[11] == passed[0]
    few = training.Batches(lambda images, views, epoch: images[:, None], np.arange(2, dtype=np.int32), 1, 2, None, 5)
    assert few[0][1].tolist() == [0, 1, 0, 1, 0]


@pytest.mark.parametrize("decay", ["none", "cosine"])
def test_batch_by_batch_is_what_fit_does(stripes: tuple[np.ndarray, np.ndarray], decay: str) -> None:
    """Up to rounding: the graphs are two, and one sums metrics over batches, the other over images."""
    from stages.core import training

    pictures, labels = stripes
    # 40 images in batches of 16: the last one is short.
    found = []
    for by_batch in (False, True):
        base, _, model = build()
        tensors = stored(base, pictures)
        logs: list[dict[str, float]] = []
        train, val = batches(tensors[:40], labels[:40]), batches(tensors[20:], labels[20:], None)
        plan = schedule(decay=decay, epochs=3, stop_after=3, learning_rate=1e-4)
        outcome = training.fit(model, train, val, plan, logs.append, by_batch=by_batch)
        found.append((model.get_weights(), logs, outcome))
    (weights, logs, outcome), (other_weights, other_logs, other_outcome) = found
    # Adam's steps have the rate's size however small the gradient, so rounding may turn some around.
    for one, other in zip(weights, other_weights, strict=True):
        np.testing.assert_allclose(one, other, atol=9 * 2 * 1e-4)
    assert [list(one) for one in logs] == [list(one) for one in other_logs]
    for one, other in zip(logs, other_logs, strict=True):
        # Not the accuracies: of an untrained head the two most likely classes are near ties.
        for name in ("loss", "val_loss", "learning_rate"):
            assert one[name] == pytest.approx(other[name], rel=0.02, abs=1e-9)
    assert (outcome.epochs, outcome.best_epoch) == (other_outcome.epochs, other_outcome.best_epoch)
    rates = [one["learning_rate"] for one in logs]
    assert rates == pytest.approx([1e-4] * 3 if decay == "none" else [0.75e-4, 0.25e-4, 0.0], abs=1e-8)


def test_one_by_one_convolutions_are_the_same_as_products(stripes: tuple[np.ndarray, np.ndarray]) -> None:
    from stages.core import backbones, training

    pictures, labels = stripes
    found = []
    for products in (False, True):
        base, _, model = build()
        if products:
            backbones.multiply_matrices(base)
        tensors = stored(base, pictures)
        training.fit(
            model, batches(tensors, labels), batches(tensors, labels, None), schedule(epochs=1), lambda _: None
        )
        found.append(model.predict(tensors.astype(np.float32), verbose=0))
    np.testing.assert_allclose(found[0], found[1], atol=2e-3)


@pytest.mark.parametrize("rows", [1, 2, 3, 8])
def test_a_tail_run_in_halves_gives_the_same_probabilities_and_gradients(rows: int) -> None:
    import keras
    import tensorflow as tf

    from stages.core import backbones, classifier

    base, head, whole = build()
    halves = classifier.from_activations(backbones.tail(base, "tf", 97), head, halves=True)
    generator = np.random.default_rng(rows)
    activations = generator.standard_normal((rows, *whole.input_shape[1:]), np.float32)
    labels = generator.integers(0, CLASSES, rows)

    def probabilities_and_gradients(model: Any) -> list[np.ndarray]:
        with tf.GradientTape() as tape:
            found = model(activations, training=False)
            loss = keras.ops.mean(keras.losses.sparse_categorical_crossentropy(labels, found))
        return [found.numpy(), *(gradient.numpy() for gradient in tape.gradient(loss, whole.trainable_weights))]

    for one, other in zip(probabilities_and_gradients(whole), probabilities_and_gradients(halves), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5 * max(1.0, float(np.abs(one).max())))


def test_a_head_of_several_layers_is_held_small_and_told_apart_by_its_seed(stripes: Any) -> None:
    from stages.core import classifier

    head = classifier.head(8, 3, 0.5, 1, units=[16, 4], l2=0.01)
    assert [layer.name for layer in head.layers[1:]] == [
        "dropout_1", "hidden_1", "dropout_2", "hidden_2", "dropout", "probabilities",
    ]  # fmt: skip
    assert [weight.shape for weight in head.weights] == [(8, 16), (16,), (16, 4), (4,), (4, 3), (3,)]
    squares = sum(float((layer.kernel.numpy() ** 2).sum()) for layer in head.layers if layer.weights)
    assert float(sum(head.losses)) == pytest.approx(0.01 * squares, rel=1e-5)
    same, other = (classifier.head(8, 3, 0.5, seed, units=[16, 4]) for seed in (1, 2))
    assert all((a.numpy() == b.numpy()).all() for a, b in zip(head.weights, same.weights, strict=True))
    assert not (head.weights[0].numpy() == other.weights[0].numpy()).all()
    assert [layer.name for layer in classifier.head(8, 3, 0.5, 1).layers] == ["pooled", "dropout", "probabilities"]


def test_every_optimizer_by_name_trains_with_its_own_arguments(stripes: Any) -> None:
    import keras

    from stages.core import classifier, objective, training
    from stages.core.optimizers import EVERY, OPTIMIZERS, SWITCHES, Optimizer

    names = get_args(Optimizer)
    assert names == tuple(OPTIMIZERS)
    left_out = {
        "learning_rate",
        "name",
        "kwargs",
        "use_ema",
        "ema_momentum",
        "ema_overwrite_frequency",
        "gradient_accumulation_steps",
    }
    for name, own in OPTIMIZERS.items():
        takes = inspect.signature(getattr(keras.optimizers, name)).parameters
        assert {*own, *EVERY} == set(takes) - left_out, name
        switches = {one for one, about in takes.items() if isinstance(about.default, bool)} - left_out
        assert switches == {*own, *EVERY} & set(SWITCHES), name
    kinds = [kind for kind in vars(keras.optimizers).values() if isinstance(kind, type)]
    of_keras = {kind.__name__ for kind in kinds if issubclass(kind, keras.optimizers.Optimizer)}
    assert set(names) <= of_keras
    assert of_keras - set(names) <= {"Optimizer", "LossScaleOptimizer", "MultiOptimizer", "Muon", "ScheduleFreeAdamW"}
    features = np.random.default_rng(0).normal(size=(IMAGES, 8)).astype(np.float32)
    labels = stripes[1]
    for name in names:
        head = classifier.head(8, CLASSES, 0.0, 1)
        whole = {"clipnorm": 1, **{one: True for one in SWITCHES if one in OPTIMIZERS[name]}}  # YAML has 1, not 1.0
        if name == "SGD":
            whole["momentum"] = 0.9  # Keras's nesterov needs it
        plan = schedule(epochs=1, learning_rate=0.05, optimizer=name, arguments=whole)
        fitted = batches(features, labels), batches(features, labels, None)
        training.fit(head, *fitted, plan, lambda logs: None, loss=objective.loss(0.1, 0.0, None), by_batch=True)
        assert type(head.optimizer).__name__ == name
        assert head.optimizer.clipnorm == 1.0
        assert all(np.isfinite(weight).all() for weight in head.get_weights())
        assert int(head.optimizer.iterations) == 3


def test_a_value_the_optimizer_does_not_take_is_named() -> None:
    from stages.core import training
    from stages.core.errors import ConfigError

    with pytest.raises(ConfigError, match=r"fine_tune\.optimizer_arguments: SGD does not take \{'momentum': 7\.0\}"):
        training.optimizer(schedule(optimizer="SGD", arguments={"momentum": 7.0}), 3)


def test_the_rate_rises_and_then_falls() -> None:
    from stages.core import training

    plan = schedule(epochs=4, learning_rate=0.1, decay="cosine", warm_up=1.5)
    rates = [float(training.optimizer(plan, 10)._learning_rate(step)) for step in range(41)]
    assert rates[0] == 0.0
    assert rates[15] == pytest.approx(0.1)
    assert rates[:16] == sorted(rates[:16])
    assert rates[15:] == sorted(rates[15:], reverse=True)
    assert rates[40] == pytest.approx(0.0, abs=1e-6)
    plain = schedule(epochs=4, learning_rate=0.1, decay="cosine")
    assert float(training.optimizer(plain, 10)._learning_rate(0)) == pytest.approx(0.1)
