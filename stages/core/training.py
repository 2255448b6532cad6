"""One phase of training: batches from stored tensors, best epoch kept, early stopping, rate reduction.

Imports Keras at the top: only fine_tune's `main` imports this module.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from stages.core.errors import DataRejected

# The tensor of view `views[i]` of image `images[i]`, for epoch `epoch`: [n, *shape].
Take = Callable[[npt.NDArray[np.intp], npt.NDArray[np.intp], int], npt.NDArray[Any]]
# Called after each epoch with (metric name → value).
OnEpoch = Callable[[dict[str, float]], None]


@dataclass(frozen=True)
class Schedule:
    """Length and rate of one phase. Epochs count passes over the images, one view each."""

    epochs: int
    batch_size: int
    learning_rate: float  # Adam's
    stop_after: int  # epochs without a lower validation loss before stopping; 0 never stops
    reduce_after: int  # epochs without one before the rate is divided by `reduce_by`; 0 never reduces
    reduce_by: float


@dataclass(frozen=True)
class Outcome:
    """What a phase did. `best_epoch` counts from 1; 0 means the weights it started with were best."""

    epochs: int
    best_epoch: int
    val_loss: float
    val_accuracy: float
    trained_parameters: int


class Batches(keras.utils.PyDataset):
    """Batches of stored tensors: each epoch passes every image once, in a seeded order.

    Which of an image's K views an epoch sees rotates from a seeded start, so K epochs see all K.
    Inputs become float32 [n, *shape]; labels are int32 [n].
    """

    def __init__(self, take: Take, labels: npt.NDArray[np.int32], views: int, batch_size: int, seed: int | None):
        """`seed` None keeps the order and view 0 in every epoch, as validation wants."""
        super().__init__(workers=1)
        self._take, self._labels, self._views, self._batch_size, self._seed = take, labels, views, batch_size, seed
        self._first_view = np.zeros(len(labels), np.intp)
        if seed is not None:
            self._first_view = np.random.default_rng([seed, 0]).integers(0, views, len(labels)).astype(np.intp)
        self._epoch = -1
        self.on_epoch_end()

    def __len__(self) -> int:
        return -(-len(self._labels) // self._batch_size)

    def __getitem__(self, number: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
        images = self._order[number * self._batch_size : (number + 1) * self._batch_size]
        epoch = 0 if self._seed is None else self._epoch
        views = (self._first_view[images] + epoch) % self._views
        return self._take(images, views, epoch).astype(np.float32), self._labels[images]

    def on_epoch_end(self) -> None:
        """Draw the next epoch's order."""
        self._epoch += 1
        self._order = np.arange(len(self._labels))
        if self._seed is not None:
            np.random.default_rng([self._seed, 1, self._epoch]).shuffle(self._order)


class BestEpoch(keras.callbacks.Callback):
    """Keeps the weights of the epoch with the lowest validation loss, the start counted as epoch 0."""

    def __init__(self, loss: float, accuracy: float, weights: list[npt.NDArray[Any]]) -> None:
        super().__init__()
        self.epochs = 0
        self.best = (0, loss, accuracy)
        self._weights = weights

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Compare this epoch with the best so far."""
        assert logs is not None
        self.epochs = epoch + 1
        if logs["val_loss"] < self.best[1]:
            self.best = (epoch + 1, logs["val_loss"], logs["val_accuracy"])
            self._weights = self.model.get_weights()

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:
        """Put the best weights back."""
        self.model.set_weights(self._weights)


def fit(
    model: keras.Model, train: Batches, val: Batches, schedule: Schedule, on_epoch: OnEpoch, jit: bool = False
) -> Outcome:
    """Train `model` in place and leave it with the weights of its best epoch.

    Call it anew for each phase: it compiles, which is what makes a change of `trainable` take effect.
    """
    model.compile(
        optimizer=keras.optimizers.Adam(schedule.learning_rate),
        loss=keras.losses.SparseCategoricalCrossentropy(),
        metrics=["accuracy"],
        jit_compile=jit,
    )
    loss, accuracy = model.evaluate(val, verbose=0)
    best = BestEpoch(loss, accuracy, model.get_weights())

    def report(epoch: int, logs: dict[str, float]) -> None:
        on_epoch({**logs, "learning_rate": float(keras.ops.convert_to_numpy(model.optimizer.learning_rate))})

    callbacks = [best, keras.callbacks.LambdaCallback(on_epoch_end=report), keras.callbacks.TerminateOnNaN()]
    if schedule.reduce_after:
        callbacks.append(
            keras.callbacks.ReduceLROnPlateau(
                monitor="val_loss", factor=1 / schedule.reduce_by, patience=schedule.reduce_after, min_delta=0.0
            )
        )
    if schedule.stop_after:
        callbacks.append(keras.callbacks.EarlyStopping(monitor="val_loss", patience=schedule.stop_after))
    history = model.fit(
        train, validation_data=val, epochs=schedule.epochs, callbacks=callbacks, verbose=0, shuffle=False
    ).history
    losses = [loss, *(sum(pair) for pair in zip(history.get("loss", []), history.get("val_loss", []), strict=True))]
    broken = [number for number, value in enumerate(losses) if not np.isfinite(value)]
    if broken:
        raise DataRejected(
            f"the loss became NaN or infinite in epoch {broken[0]} at learning rate {schedule.learning_rate:g}; "
            "lower it (fine_tune.head.learning_rate, fine_tune.tail.learning_rate)"
        )
    return Outcome(best.epochs, *best.best, sum(int(np.prod(weight.shape)) for weight in model.trainable_weights))
