"""A tiny classifier in every format that can be written here: `python -m tests.exported_model FOLDER …`.

A process of its own, as TensorFlow numbers what it traces. Each folder gets the model and labels.txt; beside the
folders lie pixels.npy, read, and expected.npy, the model's own answers to it. A folder named `hostile` gets a model
whose classes are tests.hostile_labels, and which names class k of an image whose pixels are all GREY[k].
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.store import onnx_model
from tests.hostile_labels import LABELS

ROOT = Path(__file__).parents[1]
SIDE, CLASSES = 16, ["cat", "wire fox terrier", "dög\n2"]
GREY = np.linspace(0, 255, len(LABELS)).round().astype(np.uint8)
NO_ONNX = onnx_model.missing()
NAMES = ["saved_model", "keras", "litert", "litert_int8", "openvino", *([] if NO_ONNX else ["onnx"])]
FORMATS = [*NAMES, *([pytest.param("onnx", marks=pytest.mark.skip(reason=NO_ONNX))] if NO_ONNX else [])]


def write(*folders: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.exported_model", *map(str, folders)],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""


def main() -> None:
    from stages.store import tensorflow_runtime

    tensorflow_runtime.start(1, 0)
    import keras

    folders = [Path(name) for name in sys.argv[1:]]
    examples = np.load(folders[0].parent / "pixels.npy")
    keras.utils.set_random_seed(3)
    pixels = keras.Input((SIDE, SIDE, 3), name="pixels")
    x = keras.layers.Rescaling(1 / 127.5, -1.0)(pixels)
    x = keras.layers.Conv2D(8, 3, strides=2, activation="relu")(x)
    x = keras.layers.Flatten()(x)  # so that it sees whether a picture is turned
    large = keras.initializers.VarianceScaling(6.0)  # so that another picture is another answer
    x = keras.layers.Dense(len(CLASSES), activation="softmax", kernel_initializer=large)(x)
    model = keras.Model(pixels, x)
    for folder in folders:
        if folder.name == "hostile":
            _every_format(_by_grey(pixels), LABELS, folder, examples)
        else:
            _every_format(model, CLASSES, folder, examples)
    np.save(folders[0].parent / "expected.npy", model.predict(examples.astype(np.float32), verbose=0))


def _every_format(model: Any, classes: list[str], folder: Path, examples: np.ndarray) -> None:
    from stages.core import labels
    from stages.store import exported

    for format_ in NAMES:
        exported.write(format_, model, classes, folder, examples)
    (folder / "labels.txt").write_text(labels.text(classes), encoding="utf-8")


def _by_grey(pixels: Any) -> Any:
    """The class whose GREY is the nearest to the mean m: -(m - g)^2 is the largest where 2 m g - g^2 is."""
    import keras

    mean = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / 255)(pixels))
    answer = keras.layers.Dense(len(GREY), activation="softmax")
    model = keras.Model(pixels, answer(mean))
    grey = 1000.0 * GREY[None].astype(np.float32) / 255
    answer.set_weights([np.repeat(2 * grey, 3, axis=0) / 3, -(grey[0] ** 2) / 1000])
    return model


if __name__ == "__main__":
    main()
