"""TensorFlow's transfer-learning tutorial as one stand-alone script: what graft is measured against.

    python -m benchmarks.tutorial_script --archive ../shared/data/cats_and_dogs_filtered.zip --seed 1

The job that the tutorial describes, with nothing of graft in it: the photographs as folders, Keras's own
loader, MobileNetV2 with ImageNet weights behind augmentation layers, ten epochs of a new head with Adam,
then ten of the layers from 100 on with RMSprop at a tenth of the rate. TensorFlow keeps its own settings
for threads and operations, and no progress bar is drawn. Weights come from Keras's cache: set KERAS_HOME
to a folder that has them under models/ where there is no network.

Prints one JSON line: seconds of each part, accuracies as shares 0-1.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import keras

ARCHIVE = Path("../shared/data/cats_and_dogs_filtered.zip")
EPOCHS = 10  # of each of the two trainings
IMAGE_SIZE = 160  # pixels, both sides
BATCH_SIZE = 32
RATE = 1e-4  # of the first training; the second has a tenth of it
FINE_TUNE_AT = 100  # index of the first layer of the base that the second training changes


def run(archive: Path, epochs: int, seed: int, split_start_up: bool = False) -> dict[str, Any]:
    """The whole job; see the module. `split_start_up` also says how much of each fit was done once, see `_Clock`."""
    started = time.perf_counter()
    import keras
    import tensorflow as tf

    imported = time.perf_counter()
    keras.utils.set_random_seed(seed)
    with tempfile.TemporaryDirectory(prefix="tutorial-") as folder:
        train, val, test = _data_sets(tf, keras, archive, Path(folder), seed)
        loaded = time.perf_counter()

        base, model = _model(keras)
        _compile(keras, model, keras.optimizers.Adam(RATE))
        _, accuracy_before = model.evaluate(val, verbose=0)
        first, first_start_up, val_head = _fit(model, train, val, 0, epochs, split_start_up)

        base.trainable = True
        for layer in base.layers[:FINE_TUNE_AT]:
            layer.trainable = False
        # Without compiling anew Keras would go on training the head alone.
        _compile(keras, model, keras.optimizers.RMSprop(RATE / 10))
        second, second_start_up, val_tuned = _fit(model, train, val, epochs, 2 * epochs, split_start_up)
        _, test_accuracy = model.evaluate(test, verbose=0)
    seconds = {
        "import": imported - started,
        "data": loaded - imported,
        "first fit": first,
        "second fit": second,
        "total": time.perf_counter() - started,
    }
    if split_start_up:
        seconds |= {"first fit, start-up": first_start_up, "second fit, start-up": second_start_up}
    return {
        "seed": seed,
        "epochs": epochs,
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "val_before": accuracy_before,
        "val_head": val_head,
        "val": val_tuned,
        "test": test_accuracy,
    }


def _data_sets(tf: Any, keras: Any, archive: Path, folder: Path, seed: int) -> tuple[Any, Any, Any]:
    """Training, validation and test batches of (float32 [n, S, S, 3] of 0-255, int32 [n])."""
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(folder)
    top = next(path.parent for path in sorted(folder.rglob("validation")) if path.is_dir())

    def batches(split: str) -> Any:
        return keras.utils.image_dataset_from_directory(
            top / split,
            shuffle=True,
            seed=seed,
            batch_size=BATCH_SIZE,
            image_size=(IMAGE_SIZE, IMAGE_SIZE),
            verbose=False,
        )

    train, held_out = batches("train"), batches("validation")
    for_test = int(held_out.cardinality()) // 5
    # As in the tutorial these are drawn anew in each pass, so its test images are not held out for good.
    test, val = held_out.take(for_test), held_out.skip(for_test)
    return tuple(part.prefetch(tf.data.AUTOTUNE) for part in (train, val, test))  # type: ignore[return-value]


def _model(keras: Any) -> tuple[keras.Model, keras.Model]:
    """The frozen base, and the classifier from pixels of 0-255 to the probability of the second class."""
    shape = (IMAGE_SIZE, IMAGE_SIZE, 3)
    base = keras.applications.MobileNetV2(input_shape=shape, include_top=False, weights="imagenet")
    base.trainable = False
    pixels = keras.Input(shape)
    turned = keras.layers.RandomRotation(0.2)(keras.layers.RandomFlip("horizontal")(pixels))
    features = base(keras.applications.mobilenet_v2.preprocess_input(turned), training=False)
    pooled = keras.layers.Dropout(0.2)(keras.layers.GlobalAveragePooling2D()(features))
    return base, keras.Model(pixels, keras.layers.Dense(1, activation="sigmoid")(pooled))


def _compile(keras: Any, model: keras.Model, optimizer: Any) -> None:
    accuracy = keras.metrics.BinaryAccuracy(threshold=0.5, name="accuracy")
    model.compile(optimizer=optimizer, loss=keras.losses.BinaryCrossentropy(), metrics=[accuracy])


def _fit(
    model: keras.Model, train: Any, val: Any, start: int, end: int, split_start_up: bool
) -> tuple[float, float, float]:
    """Train epochs [start, end); seconds in all, seconds of it that came once, and the last validation accuracy."""
    clock = _clock() if split_start_up else None
    before = time.perf_counter()
    history = model.fit(
        train, validation_data=val, initial_epoch=start, epochs=end, verbose=0, callbacks=[clock] if clock else None
    )
    seconds = time.perf_counter() - before
    return seconds, clock.start_up() if clock else 0.0, history.history["val_accuracy"][-1]


def _clock() -> Any:
    """A callback that tells a fit's start-up (building and compiling graphs) from the epochs' own seconds.

    A first batch that takes longer than the others is taken for start-up by as much, in training and
    in validation. What an epoch must do before its first batch (filling the shuffle buffer) counts as
    start-up, too: many epochs extrapolated from one come out a little too short, never too long.
    """
    import keras

    class Clock(keras.callbacks.Callback):
        def __init__(self) -> None:
            super().__init__()
            # When the first epoch's batches ended, the moment before the first of them in front.
            self.ends: dict[str, list[float]] = {"train": [time.perf_counter()]}

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if "validation" not in self.ends:
                self.ends["train"].append(time.perf_counter())

        def on_test_begin(self, logs: Any = None) -> None:
            self.ends.setdefault("validation", [time.perf_counter()])

        def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
            self.ends["validation"].append(time.perf_counter())

        def start_up(self) -> float:
            return sum(start_up(ends) for ends in self.ends.values())

    return Clock()


def start_up(ends: list[float]) -> float:
    """By how many seconds the first batch took longer than a typical one; `ends` begins when the first one began."""
    taken = [after - before for before, after in itertools.pairwise(ends)]
    return max(0.0, taken[0] - statistics.median(taken[1:])) if len(taken) > 1 else 0.0


def main(arguments: list[str] | None = None) -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tutorial_script")
    parser.add_argument("--archive", type=Path, default=ARCHIVE, help="a zip with train/ and validation/ in one folder")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of each of the two trainings")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--split-start-up", action="store_true", help="with --epochs 1: tell graph building apart")
    given = parser.parse_args(arguments)
    found = run(given.archive, given.epochs, given.seed, given.split_start_up)
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
