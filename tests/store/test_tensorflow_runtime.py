"""What computes, and training on several devices at once: two logical processors stand in for two GPUs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from stages.store.tensorflow_runtime import described

ROOT = Path(__file__).parents[2]
TRAIN = """
import json, os, sys
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import numpy as np
import tensorflow as tf
count, images = int(sys.argv[1]), int(sys.argv[2])
processor = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(processor, [tf.config.LogicalDeviceConfiguration()] * count)
from stages.store import tensorflow_runtime
tensorflow_runtime.start(2, 1, training=True)
import keras
from stages.core import training
random = np.random.default_rng(0)
rows = random.normal(size=(images, 6, 6, 2)).astype(np.float32)
labels = (rows.mean((1, 2, 3)) > 0).astype(np.int32)
strategy = tensorflow_runtime.strategy([f"CPU:{number}" for number in range(count)])
take = lambda images, views, epoch: rows[images]
shards = strategy.num_replicas_in_sync

class Seen(keras.layers.Layer):
    sizes = set()
    def call(self, inputs):
        if tf.distribute.in_cross_replica_context():
            return inputs
        part = tf.distribute.get_replica_context().replica_id_in_sync_group
        tf.py_function(lambda part, size: self.sizes.add((int(part), int(size))), [part, tf.shape(inputs)[0]], [])
        return inputs

with strategy.scope():
    keras.utils.set_random_seed(1)
    inputs = keras.Input((6, 6, 2))
    layer = Seen()(inputs) if images % 2 else inputs
    layer = keras.layers.Conv2D(8, 3, activation="relu")(layer)
    if images % 2:
        layer = keras.layers.Dropout(0.1, seed=1)(keras.layers.BatchNormalization(momentum=0.5)(layer))
    outputs = keras.layers.Dense(2, "softmax")(keras.layers.GlobalAveragePooling2D()(layer))
    model = keras.Model(inputs, outputs)
    outcome = training.fit(
        model,
        training.Batches(take, labels, 1, 8, 1, shards),
        training.Batches(take, labels, 1, 8, None, shards),
        training.Schedule(5, 8, 0.05, 0, 0, 3.0),
        lambda logs: None,
    )
weights = [float(number) for weight in model.get_weights() for number in weight.ravel()]
print(json.dumps([shards, outcome.val_loss, outcome.val_accuracy, weights, sorted(Seen.sizes)]))
"""


@pytest.mark.parametrize(
    ("gpus", "training", "text"),
    [
        ([], True, "CPU"),
        (["NVIDIA H200"], True, "NVIDIA H200"),
        (["NVIDIA H200"] * 2, True, "2 x NVIDIA H200 (mirrored)"),
        (["A", "B", "A"], True, "2 x A + 1 x B (mirrored)"),
        (["NVIDIA H200"] * 2, False, "NVIDIA H200"),
    ],
)
def test_the_device_is_said_as_people_do(gpus: list[str], training: bool, text: str) -> None:
    assert described(gpus, training) == text


def trained(*runs: tuple[int, int]) -> list[list]:
    """Train on (devices, images) each, all at once; [shards, val loss, val accuracy, weights, (device, rows)s]."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", TRAIN, *map(str, run)],
            env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for run in runs
    ]  # fmt: skip
    results = []
    for process in processes:
        out, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        results.append(json.loads(out.splitlines()[-1]))
    return results


def test_two_devices_learn_what_one_does() -> None:
    one, two = trained((1, 40), (2, 40))
    assert [one[0], two[0]] == [1, 2]
    assert two[1] == pytest.approx(one[1], abs=1e-3)
    assert two[2] >= 0.8
    assert two[3] == pytest.approx(one[3], abs=1e-2)


def test_what_does_not_divide_evenly_is_still_shared_evenly() -> None:
    """41 images in batches of 8 leave one over, for three devices of 2 each; empty parts would break it."""
    ((shards, loss, accuracy, _, sizes),) = trained((3, 41))
    assert shards == 3
    assert loss < 1
    assert accuracy >= 0.8
    assert sizes == [[0, 2], [1, 2], [2, 2]]
