"""The stage with formats that are a file each, but for what a test has a converter do half way through.

    GRAFT_TEST_CONVERTERS='{"litert": "os.abort()"}' python -m tests.reliability.scripted_converters

runs export so in the current folder, without TensorFlow. By CHILD the processes of optional formats do the same.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from stages import export
from stages.core import errors, temperature
from stages.store import conversion, exported, models, process, saved_model, tensorflow_runtime
from tests.exportable import SIDE

DOES = "GRAFT_TEST_CONVERTERS"  # JSON: Python code by format, with the names of NAMES and of `written`'s arguments
NAMES = {
    one.__name__.split(".")[-1]: one for one in (ctypes, errors, exported, json, os, signal, subprocess, sys, time)
}
CHILD = (
    "import sys; sys.path[:] = sys.argv[2:]; from tests.reliability import scripted_converters as scripted; "
    "scripted.install(); from stages.store import conversion; conversion.serve(sys.argv[1])"
)


class Model:
    """What is loaded in place of a Keras model."""

    input_shape = (None, SIDE, SIDE, 3)
    divided: float | None = None

    def count_params(self) -> int:
        return 2**20


def written(format_: str, model: Any, classes: list[str], folder: Path, examples: Any, silent: Any) -> Path:
    """In place of exported._write."""
    place = folder / exported.PLACES[format_]
    if format_ == "saved_model":
        place.mkdir()
        place = place / "saved_model.pb"
    place.parent.mkdir(exist_ok=True)
    place.write_bytes(format_.encode())
    if format_ == "openvino":
        place.with_suffix(".bin").write_bytes(b"weights")
    with silent():
        exec(json.loads(os.environ.get(DOES, "{}")).get(format_, ""), {"__name__": format_, **NAMES, **locals()})
    return folder / exported.PLACES[format_]


def answered(*_: Any) -> Any:
    """In place of exported.answers: what the evaluated model said."""
    return np.array([row["probabilities"] for row in export._tested(None)], np.float32), 0.001


def install() -> None:
    stand_ins: Any = {
        exported: {"_write": written, "answers": answered},
        saved_model: {"smoke": lambda *_: 0.0},
        models: {"load": lambda _: Model()},
        temperature: {"divide_logits": lambda model, heat: setattr(model, "divided", heat)},
        tensorflow_runtime: {"start": lambda *_, **__: "CPU"},
        conversion: {"CHILD": CHILD},
    }
    for module, names in stand_ins.items():
        for name, stand_in in names.items():
            setattr(module, name, stand_in)


if __name__ == "__main__":
    install()
    process.run("export", export.main)
