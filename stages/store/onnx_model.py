"""ONNX files, for which Keras needs packages that graft itself does not: the extra `onnx`."""

from __future__ import annotations

import json
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from stages.core import onnx_graph

if TYPE_CHECKING:
    import keras

OPSET = 15  # tf2onnx 1.17's own choice, named so that another version of it writes the same
PACKAGES = ("onnx", "tf2onnx", "onnxruntime")  # Keras's exporter, what it calls, and what answers


def missing(packages: tuple[str, ...] = PACKAGES) -> str:
    """What to do about packages that are not installed; empty where all are. Imports none of them."""
    absent = [name for name in packages if find_spec(name) is None]
    if not absent:
        return ""
    verb = "is" if len(absent) == 1 else "are"
    return (
        f"'onnx' needs {', '.join(packages)}; {', '.join(absent)} {verb} not installed: "
        "pip install -c constraints.txt '.[onnx]', or choose another format"
    )


def write(model: keras.Model, classes: list[str], path: Path) -> None:
    """Export a model with one input and one output; the labels are JSON in the file's metadata, as `labels`."""
    import numpy as np
    import onnx

    model(np.zeros((1, *model.input_shape[1:]), np.float32))  # Keras exports only what has been called
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras asks NumPy for a name that NumPy 2 has no more
        model.export(str(path), format="onnx", verbose=False, opset_version=OPSET)
    found = onnx.load(str(path))
    onnx_graph.canonical(found)
    onnx.helper.set_model_props(
        found, {"labels": json.dumps(classes), "task": "image-classification", "pixels": "RGB, upright, 0 to 255"}
    )
    onnx.checker.check_model(found)
    path.write_bytes(found.SerializeToString(deterministic=True))
