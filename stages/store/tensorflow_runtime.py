"""Starts TensorFlow: quietly, with a fixed thread count and deterministic operations."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


def start(threads: int, seed: int, training: bool = False) -> str:
    """Import TensorFlow, seed Python, NumPy and Keras, and return the device that will compute.

    To predict, `threads` share each operation. To train, each operation gets one thread and
    `threads` operations run at once: a backward pass has independent ones, which is faster, and no
    sum is split among threads, so the count does not change the trained bytes.
    """
    # What goes wrong still raises; the rest would bury the stage's own lines.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    for name in ("tensorflow", "absl"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with _silent_stderr():
        import keras
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(1 if training else threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads if training else 1)
        tf.config.experimental.enable_op_determinism()
        keras.utils.set_random_seed(seed)
        gpus = tf.config.list_physical_devices("GPU")
        names = [tf.config.experimental.get_device_details(gpu).get("device_name", "GPU") for gpu in gpus]
    return ", ".join(names) or "CPU"


@contextmanager
def _silent_stderr() -> Iterator[None]:
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
