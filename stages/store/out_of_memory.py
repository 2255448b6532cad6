"""Training that ran out of the device's memory goes on in a new process, with smaller batches and the same steps.

Each batch is cut into parts whose gradients Keras averages before it takes the step (`gradient_accumulation_steps`), so
that a step still sees as many images. A new process, because TensorFlow gives the device's memory back at its end only.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

from pydantic import BaseModel

from stages.core.errors import EnvironmentFault

PARTS = "GRAFT_BATCH_PARTS"  # how the new process is told
ACCUMULATION = "gradient_accumulation_steps"
S = TypeVar("S", bound=BaseModel)

log = logging.getLogger(__name__)


def in_parts(settings: S) -> S:
    """The settings of fine_tune that this process can train with: as they are, or with each batch cut into parts.

    They are what training.json and the model card then record.
    """
    parts = _parts()
    if parts == 1:
        return settings
    known: Any = settings
    phases = {
        name: phase.model_copy(update={"batch_size": max(1, phase.batch_size // parts)})
        for name, phase in (("head", known.head), ("tail", known.tail))
    }
    arguments = {**known.optimizer_arguments, ACCUMULATION: parts}
    return settings.model_copy(update={**phases, "optimizer_arguments": arguments})


def again_in_smaller_batches(largest: Callable[[], int]) -> Callable[[Callable[[], str]], Callable[[], str]]:
    """Decorates a stage's `main`: where TensorFlow runs out of memory, this process becomes one with half the batch.

    `largest` is the largest batch that params.yaml asks for. Raises EnvironmentFault where a batch is one image
    already, or where several devices train together, whose steps cannot be put together from parts.
    """

    def decorated(main: Callable[[], str]) -> Callable[[], str]:
        @wraps(main)
        def tried() -> str:
            try:
                return main()
            except Exception as error:
                if not _is_exhaustion(error):
                    raise
                said = str(error).splitlines()[0][:200]
            parts = 2 * _parts()
            if parts > largest():
                raise EnvironmentFault(f"out of memory with batches of one image ({said}); lower feature_extract.image_"
                                       "size, raise fine_tune.fine_tune_at, or use a larger device")  # fmt: skip
            if _replicas() > 1:
                raise EnvironmentFault(
                    f"out of memory on several devices ({said}); lower fine_tune.head.batch_size and "
                    "fine_tune.tail.batch_size"
                )
            log.warning("out of memory (%s); again in a new process, each batch in %d parts", said, parts)
            for handler in logging.getLogger().handlers:
                handler.flush()
            os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, PARTS: str(parts)})

        return tried

    return decorated


def _parts() -> int:
    given = os.environ.get(PARTS, "1")
    return int(given) if given.isascii() and given.isdigit() and int(given) > 0 else 1


def _is_exhaustion(error: BaseException) -> bool:
    if "tensorflow" not in sys.modules:
        return False
    import tensorflow as tf

    return isinstance(error, tf.errors.ResourceExhaustedError)


def _replicas() -> int:
    import tensorflow as tf

    return len(tf.config.list_logical_devices("GPU")) or 1
