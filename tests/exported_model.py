"""A tiny classifier in every format that can be written here: `python -m tests.exported_model FOLDER …`.

A process of its own, as TensorFlow numbers what it traces. Each folder gets the model and labels.txt; beside the
folders lie pixels.npy, read, and expected.npy, the model's own answers to it.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from stages.store import onnx_model

ROOT = Path(__file__).parents[1]
SIDE, CLASSES = 16, ["cat", "wire fox terrier", "dög\n2"]
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
    from stages.core import labels
    from stages.store import exported, tensorflow_runtime

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
        for format_ in NAMES:
            exported.write(format_, model, CLASSES, folder, examples)
        (folder / "labels.txt").write_text(labels.text(CLASSES), encoding="utf-8")
    np.save(folders[0].parent / "expected.npy", model.predict(examples.astype(np.float32), verbose=0))


if __name__ == "__main__":
    main()
