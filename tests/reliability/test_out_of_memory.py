"""Row 57: TensorFlow runs out of the device's memory. Raised artificially: a CPU has no such device."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.stages.test_fine_tune_resume import TAIL, Workspace, features  # noqa: F401

pytestmark = pytest.mark.slow

# Runs out of memory in the tail as long as a batch is larger than FITS images.
EXHAUSTED = """
import os, sys
from stages.store import process
from stages import fine_tune
FITS = {fits}

def smaller_device():
    import tensorflow as tf
    from stages.core import training
    fit = training.fit

    def tried(model, train, *more, **named):
        if train._batch_size > FITS and named.get("loss") is not None and len(model.input_shape) == 4:
            raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor with shape[16,2,2,32]")
        return fit(model, train, *more, **named)

    training.fit = tried

start = fine_tune.tensorflow_runtime.start
def started(*arguments, **named):
    device = start(*arguments, **named)
    smaller_device()
    return device
fine_tune.tensorflow_runtime.start = started
sys.stderr.write(f"process {{os.getpid()}} begins\\n")
process.run("fine_tune", fine_tune.main)
"""


def test_it_goes_on_in_a_new_process_with_smaller_batches_and_records_them(
    features: Path, tmp_path: Path  # noqa: F811
) -> None:
    work = Workspace(tmp_path / "work", features, from_scratch=False)
    _, printed = (process := work.start(EXHAUSTED.format(fits=8))).communicate(timeout=400)
    assert process.returncode == 0, printed
    assert printed.count("begins") == 2  # with 16 images, with 8
    assert len({line for line in printed.splitlines() if line.endswith("begins")}) == 1  # DVC goes on waiting for it
    assert "out of memory (OOM when allocating tensor" in printed
    assert "again in a new process, each batch in 2 parts" in printed
    record = json.loads(work.files()["data/fine_tune/training.json"])
    assert record["settings"]["tail"]["batch_size"] == TAIL["batch_size"] // 2
    assert record["settings"]["optimizer_arguments"] == {"gradient_accumulation_steps": 2}
    assert record["phases"]["tail"]["val_accuracy"] > 0.5  # of three classes
    assert not list(work.folder.glob("*/.*.partial"))


def test_batches_of_one_image_that_do_not_fit_end_it(features: Path, tmp_path: Path) -> None:  # noqa: F811
    work = Workspace(tmp_path / "work", features, from_scratch=False, tail={**TAIL, "batch_size": 1},
                     head={"epochs": 1, "learning_rate": 0.1, "batch_size": 1})  # fmt: skip
    _, printed = (process := work.start(EXHAUSTED.format(fits=0))).communicate(timeout=400)
    assert process.returncode == 5
    assert "fine_tune failed (exit 5): out of memory with batches of one image" in printed
    assert work.files() == {}


def test_steps_in_parts_are_the_steps_of_whole_batches(tensorflow: object) -> None:
    """The very weights, up to rounding: the parts' gradients are averaged before the step."""
    import keras
    import numpy as np

    from stages.core import training

    def trained(batch: int, **arguments: int) -> np.ndarray:
        keras.utils.set_random_seed(1)
        model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3, activation="softmax")])
        inputs = np.random.default_rng(0).normal(size=(32, 6)).astype(np.float32)
        labels = (inputs.sum(1) > 0).astype(np.int32)
        batches = [
            training.Batches(lambda images, views, epoch: inputs[images], labels, 1, batch, seed) for seed in (3, None)
        ]
        schedule = training.Schedule(3, batch, 0.05, 0, 0, 3.0, "none", 0.0, "Adam", arguments)
        training.fit(model, *batches, schedule, lambda logs: None, by_batch=True)
        return np.concatenate([weight.ravel() for weight in model.get_weights()])

    whole, parts = trained(16), trained(4, gradient_accumulation_steps=4)
    assert not np.allclose(whole, trained(4), atol=1e-2)
    assert np.allclose(whole, parts, atol=1e-4)
