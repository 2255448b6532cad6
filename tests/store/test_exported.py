"""Every format says what the model says, to a process without project code; the same model is the same bytes."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stages.core.errors import EnvironmentFault
from stages.store import exported, hashes

SIDE, CLASSES = 16, ["cat", "wire fox terrier", "dog"]
# A process for each writing, as TensorFlow numbers what it traces.
WRITE = """
import sys
from pathlib import Path
import numpy as np
from stages.store import exported, tensorflow_runtime
tensorflow_runtime.start(1, 0)
import keras
keras.utils.set_random_seed(3)
pixels = keras.Input((16, 16, 3), name="pixels")
x = keras.layers.Rescaling(1 / 127.5, -1.0)(pixels)
x = keras.layers.Conv2D(8, 3, strides=2, activation="relu")(x)
x = keras.layers.GlobalAveragePooling2D()(x)
model = keras.Model(pixels, keras.layers.Dense(3, activation="softmax", kernel_initializer="he_normal")(x))
examples = np.load(Path(sys.argv[1]).parent / "pixels.npy")
for folder in map(Path, sys.argv[1:]):
    for format_ in exported.PLACES:
        exported.write(format_, model, ["cat", "wire fox terrier", "dog"], folder, examples)
pixels = np.load(folder.parent / "pixels.npy").astype(np.float32)
np.save(folder.parent / "expected.npy", model.predict(pixels, verbose=0))
"""


@pytest.fixture(scope="module")
def pictures() -> list[tuple[bytes, np.ndarray]]:
    """Files and the pixels in them, 40: more than one batch, and one that is not full."""
    random = np.random.default_rng(0)
    found = []
    for _ in range(40):
        pixels = np.clip(random.integers(0, 256, 3) + random.integers(-60, 60, (SIDE, SIDE, 3)), 0, 255).astype(
            np.uint8
        )
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        found.append((file.getvalue(), pixels))
    return found


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, pictures: list[tuple[bytes, np.ndarray]]) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    np.save(folder / "pixels.npy", np.stack([pixels for _, pixels in pictures]))
    root = Path(__file__).parents[2]
    for name in ("one", "two"):
        done = subprocess.run(
            [sys.executable, "-c", WRITE, str(folder / name)], cwd=root, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout == ""
    return folder


@pytest.mark.parametrize("format_", exported.PLACES)
def test_a_clean_process_gives_the_models_answers(
    written: Path,
    pictures: list[tuple[bytes, np.ndarray]],
    format_: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = np.load(written / "expected.npy")
    path = written / "one" / exported.PLACES[format_]
    with exported.questions(tmp_path / "asked", iter(pictures), len(pictures), SIDE) as asked:
        answers, seconds = exported.answers(format_, path, asked)
    assert answers.shape == expected.shape
    assert np.abs(answers - expected).max() < (0.05 if format_ == "litert_int8" else 1e-5)
    assert seconds > 0
    assert exported.size(path) > 1000
    assert list(tmp_path.iterdir()) == []


def test_the_same_model_is_the_same_bytes(written: Path) -> None:
    one, two = (hashes.sha256_of_tree(written / name) for name in ("one", "two"))
    assert one == two
    assert {*exported.PLACES.values()} - {"saved_model"} <= set(one)


def test_labels_lie_where_openvinos_tools_look(written: Path) -> None:
    code = (
        "import json, openvino, sys; m = openvino.Core().read_model(sys.argv[1]); "
        "print(json.dumps(m.get_rt_info(['model_info', 'labels']).value))"
    )
    path = str(written / "one/openvino/model.xml")
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(done.stdout) == "cat wire_fox_terrier dog"


def test_what_does_not_run_is_said(written: Path, pictures: list[tuple[bytes, np.ndarray]], tmp_path: Path) -> None:
    broken = tmp_path / "model.tflite"
    broken.write_bytes(b"no model")
    with (
        exported.questions(tmp_path / "asked", iter(pictures), len(pictures), SIDE) as asked,
        pytest.raises(EnvironmentFault, match=r"model\.tflite: the exported model does not run in a clean process"),
    ):
        exported.answers("litert", broken, asked)
