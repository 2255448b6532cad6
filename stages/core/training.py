"""One phase of training: batches from stored tensors, best epoch kept, early stopping, rate reduction, resuming.

Imports Keras at the top: only fine_tune's `main` imports this module.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import keras
import numpy as np
import numpy.typing as npt

from stages.core.errors import ConfigError, DataRejected
from stages.core.mixing import Mixing

# The tensor of view `views[i]` of image `images[i]`, for epoch `epoch`: [n, *shape].
Take = Callable[[npt.NDArray[np.intp], npt.NDArray[np.intp], int], npt.NDArray[Any]]
# Called after each epoch with (metric name → value).
OnEpoch = Callable[[dict[str, float]], None]
# What Keras's callbacks count from epoch to epoch.
COUNTED = {
    "EarlyStopping": ("wait", "best", "best_epoch", "stopped_epoch"),
    "ReduceLROnPlateau": ("wait", "best", "cooldown_counter"),
}


@dataclass(frozen=True)
class Schedule:
    """Length and rate of one phase. Epochs count passes over the images, one view each."""

    epochs: int
    batch_size: int
    learning_rate: float  # the optimizer's
    stop_after: int  # epochs without a lower validation loss before stopping; 0 never stops
    reduce_after: int  # epochs without one before the rate is divided by `reduce_by`; 0 never reduces
    reduce_by: float
    decay: Literal["none", "cosine"] = "none"  # cosine: the rate falls to zero over `epochs`, step by step
    warm_up: float = 0.0  # epochs in which the rate rises from zero, step by step; needs decay: cosine
    optimizer: str = "Adam"  # a class of keras.optimizers
    arguments: Mapping[str, int | float | bool] = field(default_factory=dict)  # its own, without the learning rate
    loss_scaling: bool = False  # multiply the loss so that small gradients survive float16, by a factor that adapts


@dataclass(frozen=True)
class Outcome:
    """What a phase did. `best_epoch` counts from 1; 0 means the weights it started with were best."""

    epochs: int
    best_epoch: int
    val_loss: float
    val_accuracy: float
    trained_parameters: int


@dataclass(frozen=True)
class Saved:
    """A phase after one of its epochs: all that the next epoch depends on, in model and optimizer order."""

    logs: list[dict[str, float]]  # of every epoch so far, as given to `OnEpoch`
    best: tuple[int, float, float]  # epoch, its validation loss and accuracy
    callbacks: dict[str, dict[str, float | int | None]]  # class name → the fields that COUNTED names
    stopped: bool  # early stopping ended the phase with this epoch
    variables: list[npt.NDArray[Any]]  # the model's weights and the states of its random generators
    optimizer: list[npt.NDArray[Any]]  # moments, step and current learning rate
    best_weights: list[npt.NDArray[Any]]

    @property
    def epochs(self) -> int:
        """How many epochs have been trained."""
        return len(self.logs)


OnSaved = Callable[[Saved], None]


class Batches(keras.utils.PyDataset):
    """Batches of stored tensors: each epoch passes every image once, in a seeded order.

    Which of an image's K views an epoch sees rotates from a seeded start, so K epochs see all K.
    Inputs become float32 [n, *shape]; labels are int32 [n], or float32 [n, classes] of `mixed` batches.
    """

    def __init__(
        self,
        take: Take,
        labels: npt.NDArray[np.int32],
        views: int,
        batch_size: int,
        seed: int | None,
        shards: int = 1,
        mixing: Mixing | None = None,
    ) -> None:
        """`seed` None keeps the order and view 0 in every epoch, as validation wants.

        `mixing` needs a seed; seed, epoch and number of a batch decide how it is mixed.

        `shards` devices get equal parts of each batch, without which Keras cannot train on several:
        the batch size is rounded down to a multiple of it, and the first fewer-than-`shards` images
        of an epoch's order come again at its end.
        """
        super().__init__(workers=1)
        self.mixing = mixing
        batch_size = max(batch_size // shards, 1) * shards
        self._rows = -(-len(labels) // shards) * shards
        self._take, self._labels, self._views, self._batch_size, self._seed = take, labels, views, batch_size, seed
        self._first_view = np.zeros(len(labels), np.intp)
        if seed is not None:
            self._first_view = np.random.default_rng([seed, 0]).integers(0, views, len(labels)).astype(np.intp)
        self._epoch = -1
        self.on_epoch_end()

    def __len__(self) -> int:
        return -(-self._rows // self._batch_size)

    def __getitem__(self, number: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[Any]]:
        images = self._order[number * self._batch_size : (number + 1) * self._batch_size]
        epoch = 0 if self._seed is None else self._epoch
        views = (self._first_view[images] + epoch) % self._views
        inputs, labels = self._take(images, views, epoch).astype(np.float32), self._labels[images]
        if self.mixing is None:
            return inputs, labels
        assert self._seed is not None
        return self.mixing.apply(inputs, labels, np.random.default_rng([self._seed, 2, self._epoch, number]))

    def on_epoch_end(self) -> None:
        """Draw the next epoch's order."""
        self.go_to(self._epoch + 1)

    def go_to(self, epoch: int) -> None:
        """Be where `epoch` calls of `on_epoch_end` lead."""
        self._epoch = epoch
        self._order = np.arange(len(self._labels))
        if self._seed is not None:
            np.random.default_rng([self._seed, 1, self._epoch]).shuffle(self._order)
        self._order = np.resize(self._order, self._rows)


class BestEpoch(keras.callbacks.Callback):
    """Keeps the weights of the epoch with the lowest validation loss, the start counted as epoch 0."""

    def __init__(self, best: tuple[int, float, float], weights: list[npt.NDArray[Any]]) -> None:
        """`best` is (epoch, validation loss, validation accuracy) of `weights`."""
        super().__init__()
        self.best, self.weights = best, weights

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Compare this epoch with the best so far."""
        assert logs is not None
        if logs["val_loss"] < self.best[1]:
            self.best = (epoch + 1, logs["val_loss"], logs["val_accuracy"])
            self.weights = self.model.get_weights()

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:
        """Put the best weights back."""
        self.model.set_weights(self.weights)


class SaveEachEpoch(keras.callbacks.Callback):
    """Hands out a `Saved` after each epoch, and puts back what one says of Keras's callbacks.

    Last in the list: those callbacks forget everything when training begins, and count before this one saves.
    """

    def __init__(
        self,
        saved: Saved | None,
        on_saved: OnSaved | None,
        logs: list[dict[str, float]],
        best: BestEpoch,
        others: list[keras.callbacks.Callback],
    ) -> None:
        super().__init__()
        self._saved, self._on_saved, self._logs, self._best = saved, on_saved, logs, best
        self._counting = {type(other).__name__: other for other in others if type(other).__name__ in COUNTED}

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        """Let the callbacks count on from where they were."""
        if self._saved is not None:
            for name, fields in self._saved.callbacks.items():
                vars(self._counting[name]).update(fields)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Save, unless the loss is no number: the last good epoch stays."""
        if self._on_saved is None or not _is_finite(self._logs[-1]):
            return
        counted = {
            name: {field: getattr(other, field) for field in COUNTED[name]} for name, other in self._counting.items()
        }
        self._on_saved(
            Saved(
                logs=list(self._logs),
                best=self._best.best,
                callbacks=counted,
                stopped=self.model.stop_training,
                variables=[keras.ops.convert_to_numpy(variable) for variable in self.model.variables],
                optimizer=[keras.ops.convert_to_numpy(variable) for variable in self.model.optimizer.variables],
                best_weights=self._best.weights,
            )
        )


def fit(
    model: keras.Model,
    train: Batches,
    val: Batches,
    schedule: Schedule,
    on_epoch: OnEpoch,
    saved: Saved | None = None,
    on_saved: OnSaved | None = None,
    by_batch: bool = False,
    loss: keras.losses.Loss | None = None,
) -> Outcome:
    """Train `model` in place and leave it with the weights of its best epoch.

    Call it anew for each phase: it compiles, which is what makes a change of `trainable` take effect.
    From `saved` it goes on with the epoch after, as if it had never stopped; with a phase's last
    epoch it trains nothing and only leaves everything as that phase did. `on_epoch` hears of new
    epochs alone. `by_batch` hands the model one batch after the other, which on a CPU is two to three
    times as fast as `Model.fit` on a PyDataset and gives the same weights up to rounding; on a GPU `fit`
    prepares batches while others train. `loss` is cross-entropy unless given. Raises DataRejected where the
    loss is not finite, ConfigError for arguments that the optimizer does not take.
    """
    model.compile(
        optimizer=optimizer(schedule, len(train)),
        loss=loss or keras.losses.SparseCategoricalCrossentropy(),
        metrics=[keras.metrics.MeanMetricWrapper(_hits, name="accuracy")],
        jit_compile=False,
    )
    steps = Steps(model, mixed=train.mixing is not None) if by_batch else None
    if saved is None:
        start = steps.evaluate(val) if steps else model.evaluate(val, verbose=0, return_dict=True)
        best = BestEpoch((0, start["loss"], start["accuracy"]), model.get_weights())
    else:
        _put_back(model, saved)
        train.go_to(saved.epochs)
        best = BestEpoch(saved.best, saved.best_weights)
    start_loss, done = best.best[1], saved.epochs if saved else 0
    history = list(saved.logs) if saved else []

    def report(epoch: int, logs: dict[str, float]) -> None:
        rate = float(keras.ops.convert_to_numpy(model.optimizer.learning_rate))
        history.append({**logs, "learning_rate": rate})
        on_epoch(history[-1])

    callbacks = [best, keras.callbacks.LambdaCallback(on_epoch_end=report), keras.callbacks.TerminateOnNaN()]
    if schedule.reduce_after:
        callbacks.append(
            keras.callbacks.ReduceLROnPlateau(
                monitor="val_loss", factor=1 / schedule.reduce_by, patience=schedule.reduce_after, min_delta=0.0
            )
        )
    if schedule.stop_after:
        callbacks.append(keras.callbacks.EarlyStopping(monitor="val_loss", patience=schedule.stop_after))
    callbacks.append(SaveEachEpoch(saved, on_saved, history, best, callbacks))
    last = done if saved and saved.stopped else schedule.epochs
    if steps:
        _fit_by_batch(steps, model, train, val, range(done, last), callbacks)
    else:
        model.fit(
            train, validation_data=val, initial_epoch=done, epochs=last, callbacks=callbacks, verbose=0, shuffle=False
        )
    broken = [number for number, logs in enumerate(history, 1) if not _is_finite(logs)]
    if broken or not np.isfinite(start_loss):
        raise DataRejected(
            f"the loss became NaN or infinite in epoch {0 if not np.isfinite(start_loss) else broken[0]} "
            f"at learning rate {schedule.learning_rate:g}; "
            "lower it (fine_tune.head.learning_rate, fine_tune.tail.learning_rate)"
            + ", or set fine_tune.precision: float32"
            * schedule.loss_scaling
        )
    trained = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
    return Outcome(len(history), *best.best, trained)


def optimizer(schedule: Schedule, steps: int) -> keras.optimizers.Optimizer:
    """The schedule's optimizer, for epochs of `steps` steps. Raises ConfigError for arguments it does not take.

    With loss scaling it skips a step whose gradients are not finite, and halves the factor; a `loss_scale_factor` of
    its own is a fixed factor in its place.
    """
    rate: Any = schedule.learning_rate
    if schedule.decay == "cosine":
        rising = round(schedule.warm_up * steps)
        falling = max(1, schedule.epochs * steps - rising)
        rate = keras.optimizers.schedules.CosineDecay(
            0.0 if rising else rate, falling, warmup_target=rate if rising else None, warmup_steps=rising
        )
    try:
        found = getattr(keras.optimizers, schedule.optimizer)(rate, **schedule.arguments)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"fine_tune.optimizer_arguments: {schedule.optimizer} does not take {dict(schedule.arguments)}: {error}"
        ) from error
    adapts = schedule.loss_scaling and "loss_scale_factor" not in schedule.arguments
    return keras.optimizers.LossScaleOptimizer(found) if adapts else found


def _fit_by_batch(
    steps: Steps,
    model: keras.Model,
    train: Batches,
    val: Batches,
    epochs: range,
    callbacks: list[keras.callbacks.Callback],
) -> None:
    """What `Model.fit` does, without the tf.data pipeline that it puts before the model."""
    chain = keras.callbacks.CallbackList(callbacks, model=model)
    model.stop_training = False
    chain.on_train_begin()
    for epoch in epochs:
        chain.on_epoch_begin(epoch)
        means = _Means()
        for number in range(len(train)):
            chain.on_train_batch_begin(number)
            inputs, labels = train[number]
            logs = steps.train(inputs, labels)
            means.add(logs, len(labels))
            chain.on_train_batch_end(number, logs)
            if model.stop_training:
                break
        train.on_epoch_end()
        found = steps.evaluate(val)
        chain.on_epoch_end(epoch, means.values() | {f"val_{name}": value for name, value in found.items()})
        if model.stop_training:
            break
    chain.on_train_end()


class Steps:
    """A compiled model's steps in TensorFlow, each traced once for batches of every length.

    `Model.train_on_batch` traces anew for an epoch's shorter last batch; of a deep tail that takes seconds.
    """

    def __init__(self, model: keras.Model, mixed: bool = False) -> None:
        """With `mixed` the labels to train on are float32 [n, classes]; to evaluate they are int32 [n] always."""
        import tensorflow as tf

        _build_optimizer(model)
        inputs = tf.TensorSpec((None, *model.input_shape[1:]), tf.float32)
        hard = tf.TensorSpec((None,), tf.int32)
        soft = tf.TensorSpec((None, model.output_shape[-1]), tf.float32)

        def figures(images: Any, labels: Any, training: bool) -> dict[str, Any]:
            probabilities = model(images, training=training)
            loss = sum(model.losses, model.loss(labels, probabilities))
            return {"loss": loss, "accuracy": keras.ops.mean(_hits(labels, probabilities))}

        def train(images: Any, labels: Any) -> dict[str, Any]:
            with tf.GradientTape() as tape:
                logs = figures(images, labels, training=True)
                loss = model.optimizer.scale_loss(logs["loss"])  # `apply` divides by the scale
            gradients = tape.gradient(loss, model.trainable_variables)
            model.optimizer.apply(gradients, model.trainable_variables)
            return logs

        self._train = tf.function(train, input_signature=[inputs, soft if mixed else hard], autograph=False)
        self._look = tf.function(partial(figures, training=False), input_signature=[inputs, hard], autograph=False)

    def train(self, inputs: npt.NDArray[np.float32], labels: npt.NDArray[Any]) -> dict[str, float]:
        """One step of the optimizer; loss and accuracy of the batch before it."""
        return {name: float(value) for name, value in self._train(inputs, labels).items()}

    def evaluate(self, val: Batches) -> dict[str, float]:
        """What `Model.evaluate` returns."""
        means = _Means()
        for number in range(len(val)):
            inputs, labels = val[number]
            means.add({name: float(value) for name, value in self._look(inputs, labels).items()}, len(labels))
        return means.values()


def _hits(labels: Any, probabilities: Any) -> Any:
    """Float [n], 1 where the likeliest class is the label, or of a mixed image the class with the largest share."""
    ops = keras.ops
    if len(labels.shape) == 2 and labels.shape[-1] != 1:
        labels = ops.argmax(labels, axis=-1)
    own = ops.cast(ops.reshape(labels, (-1,)), "int32")
    return ops.cast(ops.equal(ops.cast(ops.argmax(probabilities, axis=-1), "int32"), own), "float32")


class _Means:
    """Metrics over images, from those of batches."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._images = 0

    def add(self, logs: dict[str, Any], images: int) -> None:
        for name, value in logs.items():
            self._sums[name] = self._sums.get(name, 0.0) + float(value) * images
        self._images += images

    def values(self) -> dict[str, float]:
        return {name: value / self._images for name, value in self._sums.items()}


def _is_finite(logs: dict[str, float]) -> bool:
    return bool(np.isfinite(logs["loss"] + logs["val_loss"]))


def _build_optimizer(model: keras.Model) -> None:
    """Make the optimizer's variables. A LossScaleOptimizer that is built twice would have two of each."""
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)


def _put_back(model: keras.Model, saved: Saved) -> None:
    """Give a compiled model and its optimizer the values that `saved` holds."""
    _build_optimizer(model)
    for variable, value in zip(model.variables, saved.variables, strict=True):
        variable.assign(value)
    for variable, value in zip(model.optimizer.variables, saved.optimizer, strict=True):
        variable.assign(value)
