"""Starts TensorFlow: quietly, with a fixed thread count, deterministic operations and every GPU there is."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from stages.store import keras_import


def start(threads: int, seed: int, training: bool = False) -> str:
    """Import TensorFlow, seed Python, NumPy and Keras, and return what will compute.

    That is `CPU`, a GPU's name, or where several train `2 x NVIDIA H200 (mirrored)`; see `strategy`.

    To predict, `threads` share each operation. To train, each operation gets one thread and
    `threads` operations run at once: a backward pass has independent ones, and no sum is split among
    threads, so the count does not change the trained bytes.
    """
    # What goes wrong still raises; the rest would bury the stage's own lines.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    for name in ("tensorflow", "absl"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with silent_stderr():
        with keras_import.lean():
            import keras
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(1 if training else threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads if training else 1)
        tf.config.experimental.enable_op_determinism()
        keras.utils.set_random_seed(seed)
        gpus = tf.config.list_physical_devices("GPU")
        names = [tf.config.experimental.get_device_details(gpu).get("device_name", "GPU") for gpu in gpus]
    return described(names, training)


def described(gpus: Sequence[str], training: bool) -> str:
    """What computes on a machine with these GPUs: all of them to train, the first to predict."""
    if training and len(gpus) > 1:
        return " + ".join(f"{gpus.count(name)} x {name}" for name in dict.fromkeys(gpus)) + " (mirrored)"
    return gpus[0] if gpus else "CPU"


def capabilities() -> list[tuple[int, int] | None]:
    """The compute capability of each GPU, as (8, 0); None where TensorFlow does not know it."""
    import tensorflow as tf

    details = map(tf.config.experimental.get_device_details, tf.config.list_physical_devices("GPU"))
    return [found.get("compute_capability") for found in details]


def strategy(devices: Sequence[str] | None = None) -> Any:
    """The tf.distribute strategy to build and train in the scope of: mirrored where there are several devices.

    `devices` are TensorFlow's names; None is all GPUs. Each of `num_replicas_in_sync` replicas then
    computes an equal part of every batch, which keeps its size; one device trains as without a strategy.
    """
    import tensorflow as tf

    if devices is None:
        devices = [device.name for device in tf.config.list_logical_devices("GPU")]
    return tf.distribute.MirroredStrategy(list(devices)) if len(devices) > 1 else tf.distribute.get_strategy()


@contextmanager
def silent_stderr() -> Iterator[None]:
    """Hide what the C++ libraries print while they load: their log level is not yet set by then.

    An import that fails still raises; only the chatter is lost.
    """
    sys.stderr.flush()
    saved = os.dup(2)
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(null)
        os.close(saved)
