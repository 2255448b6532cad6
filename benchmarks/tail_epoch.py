"""What does an epoch of the tail cost beside one of the whole graph with the same layers frozen?

    python -m benchmarks.tail_epoch [--quick]

Both train the layers from recipes/cats_and_dogs.yaml's `fine_tune_at` on, with its batch size and rate, one on
activations at the cut as fine_tune does, one from pixels as plain Keras does; validation included, 4 images to
10 of training as in the tutorial. In turn, in one process that was started as fine_tune starts its own; the
first epoch of each training builds graphs and is not counted. Random inputs and weights: the cost does not
depend on them.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from ruamel.yaml import YAML

from benchmarks.progress import tell

if TYPE_CHECKING:
    import keras

RECIPE = Path(__file__).parent.parent / "recipes" / "cats_and_dogs.yaml"
BOUND = 0.40
ROUNDS, QUICK_ROUNDS = 5, 3
IMAGES, QUICK_IMAGES = 640, 160  # of training; multiples of the batch size
VAL_SHARE = 0.4  # images of validation, of those of training
EPOCHS = 3  # of a training; all but the first are counted
CLASSES = 2
SEED = 1
THREADS = 2


@dataclass(frozen=True)
class Job:
    """What both sides train."""

    backbone: str
    alpha: float
    image_size: int  # pixels
    cut_at: int
    fine_tune_at: int
    batch_size: int
    learning_rate: float  # Adam's
    dropout: float
    images: int  # of training


@dataclass(frozen=True)
class Inputs:
    """Random tensors: [n, *shape] and int32 [n]."""

    train: npt.NDArray[Any]
    train_labels: npt.NDArray[np.int32]
    val: npt.NDArray[Any]
    val_labels: npt.NDArray[np.int32]


def job(quick: bool) -> Job:
    """The recipe's settings."""
    recipe = YAML(typ="safe").load(RECIPE.read_text())
    extract, tune = recipe["feature_extract"], recipe["fine_tune"]
    return Job(
        backbone=extract["backbone"],
        alpha=extract["alpha"],
        image_size=extract["image_size"],
        cut_at=extract["cut_at"],
        fine_tune_at=tune["fine_tune_at"],
        batch_size=tune["tail"]["batch_size"],
        learning_rate=tune["tail"]["learning_rate"],
        dropout=tune.get("dropout", 0.2),
        images=QUICK_IMAGES if quick else IMAGES,
    )


def measure(quick: bool) -> dict[str, Any]:
    """The figure: the median round's ratio of seconds."""
    from stages.store import tensorflow_runtime

    device = tensorflow_runtime.start(THREADS, SEED, training=True)
    work = job(quick)
    base, name, cut = _frozen_base(work)
    activations = _random_inputs(work, base.layers[cut].output.shape[1:], np.float16)
    pixels = _random_inputs(work, base.input_shape[1:], np.uint8)
    rounds = []
    for number in range(QUICK_ROUNDS if quick else ROUNDS):
        load = round(os.getloadavg()[0], 2)
        taken: dict[str, list[float]] = {}
        # Another one goes first each time, because the later one finds warmer caches.
        for side in ("tail", "whole graph")[:: 1 if number % 2 == 0 else -1]:
            train, inputs = (train_tail, activations) if side == "tail" else (train_whole_graph, pixels)
            taken[side] = _durations(train(work, inputs))
        rounds.append({"load before": load, **{side: statistics.median(times) for side, times in taken.items()}})
        tell(f"round {number + 1}: tail {rounds[-1]['tail']:.2f} s, whole graph {rounds[-1]['whole graph']:.2f} s")
    value = statistics.median(one["tail"] / one["whole graph"] for one in rounds)
    return {
        "figure": "A tail epoch ÷ a full-graph epoch with the same layers frozen",
        "bound": f"<= {BOUND:.2f}",
        "value": value,
        "passed": value <= BOUND,
        "details": {
            "rounds": len(rounds),
            "tail, s": statistics.median(one["tail"] for one in rounds),
            "whole graph, s": statistics.median(one["whole graph"] for one in rounds),
            "per round, s": [{key: round(number, 4) for key, number in one.items()} for one in rounds],
            "images": {"train": len(pixels.train), "val": len(pixels.val)},
            "cut": f"layer {cut} ({base.layers[cut].name})",
            "backbone": f"{name} {work.alpha:g} at {work.image_size} pixels",
            "batch size": work.batch_size,
            "device": device,
        },
    }


def train_tail(work: Job, inputs: Inputs) -> list[float]:
    """Phase 2 as stages/fine_tune runs it, from activations; when each epoch ended, in seconds of the clock.

    The one place to change when fine_tune builds or trains its tail otherwise.
    """
    from stages.core import backbones, classifier, training

    base, name, cut = _frozen_base(work)
    backbones.multiply_matrices(base)
    tail = backbones.tail(base, backbones.CATALOGUE[name].preprocessing, cut)
    model = classifier.from_activations(tail, _head(work, tail.output_shape[-1]), halves=True)
    ends: list[float] = []
    training.fit(
        model,
        training.Batches(lambda images, _views, _epoch: inputs.train[images], inputs.train_labels, 1,
                         work.batch_size, SEED),
        training.Batches(lambda images, _views, _epoch: inputs.val[images], inputs.val_labels, 1,
                         work.batch_size, None),
        training.Schedule(EPOCHS, work.batch_size, work.learning_rate, 0, 0, 3.0),
        lambda _logs: ends.append(time.perf_counter()),
        by_batch=True,
    )  # fmt: skip
    return ends


def train_whole_graph(work: Job, inputs: Inputs) -> list[float]:
    """The same layers from pixels in plain Keras; when each epoch ended, in seconds of the clock."""
    import keras

    base, name, _ = _frozen_base(work)
    pixels = keras.Input(base.input_shape[1:])
    rescaled = getattr(keras.applications, _module(name)).preprocess_input(pixels)
    features = keras.layers.GlobalAveragePooling2D()(base(rescaled))
    model = keras.Model(pixels, _head(work, base.output_shape[-1])(features))
    model.compile(
        optimizer=keras.optimizers.Adam(work.learning_rate),
        loss=keras.losses.SparseCategoricalCrossentropy(),
        metrics=["accuracy"],
    )
    ends: list[float] = []
    model.fit(
        inputs.train,
        inputs.train_labels,
        batch_size=work.batch_size,
        validation_data=(inputs.val, inputs.val_labels),
        validation_batch_size=work.batch_size,
        epochs=EPOCHS,
        verbose=0,
        callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: ends.append(time.perf_counter()))],
    )
    return ends


def _module(backbone: str) -> str:
    """Keras's module of a base: MobileNetV2 → mobilenet_v2."""
    return {"MobileNet": "mobilenet", "MobileNetV2": "mobilenet_v2"}[backbone]


def _frozen_base(work: Job) -> tuple[keras.Model, str, int]:
    """A fresh base with the layers below `fine_tune_at` frozen, its name in the catalogue, and where it is cut."""
    from stages.core import backbones

    base = backbones.build(work.backbone, work.image_size, work.alpha)
    backbones.freeze_below(base, work.fine_tune_at)
    return base, work.backbone, backbones.deepest_cut(base, work.cut_at)


def _head(work: Job, features: int) -> keras.Model:
    from stages.core import classifier

    return classifier.head(features, CLASSES, work.dropout, SEED)


def _random_inputs(work: Job, shape: Sequence[int], dtype: npt.DTypeLike) -> Inputs:
    """Tensors as feature_extract stores them: activations fp16, pixels uint8."""
    generator = np.random.default_rng(SEED)

    def some(count: int) -> npt.NDArray[Any]:
        if np.issubdtype(dtype, np.integer):
            return generator.integers(0, 256, (count, *shape)).astype(dtype)
        return generator.standard_normal((count, *shape), np.float32).astype(dtype)

    def labels(count: int) -> npt.NDArray[np.int32]:
        return generator.integers(0, CLASSES, count).astype(np.int32)

    held_out = round(VAL_SHARE * work.images)
    return Inputs(some(work.images), labels(work.images), some(held_out), labels(held_out))


def _durations(ends: Sequence[float]) -> list[float]:
    """Seconds of each epoch but the first."""
    return [after - before for before, after in itertools.pairwise(ends)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print one JSON line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tail_epoch")
    parser.add_argument("--quick", action="store_true", help="fewer images and rounds")
    given = parser.parse_args(arguments)
    sys.stdout.write(json.dumps(measure(given.quick)) + "\n")


if __name__ == "__main__":
    main()
