"""Every format says what the model says, to a process without project code; the same model is the same bytes."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from stages.core import labels
from stages.core.errors import ConfigError, EnvironmentFault
from stages.export import ExportParams
from stages.store import exported, hashes, onnx_model, params
from tests import exported_model
from tests.exported_model import CLASSES, FORMATS, GREY, NAMES, SIDE
from tests.hostile_labels import LABELS

MEDIAPIPE = os.environ.get("GRAFT_MEDIAPIPE_PYTHON", "")  # its package does not fit graft's pins


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
    exported_model.write(folder / "one")
    exported_model.write(folder / "two", folder / "hostile")
    return folder


@pytest.mark.parametrize("format_", FORMATS)
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
    assert {exported.PLACES[name] for name in NAMES} - {"saved_model"} <= set(one)


def test_labels_lie_where_openvinos_tools_look(written: Path) -> None:
    code = (
        "import json, openvino, sys; m = openvino.Core().read_model(sys.argv[1]); "
        "print(json.dumps(m.get_rt_info(['model_info', 'labels']).value))"
    )
    path = str(written / "one/openvino/model.xml")
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, timeout=240, check=True)
    assert json.loads(done.stdout) == "cat wire_fox_terrier dög_2"


@pytest.mark.parametrize("name", ["litert", "litert_int8"])
def test_labels_lie_in_the_zip_behind_a_litert_model(written: Path, name: str) -> None:
    with zipfile.ZipFile(written / "one" / exported.PLACES[name]) as appended:
        assert appended.testzip() is None
        (entry,) = appended.infolist()
        assert (entry.filename, entry.compress_type) == ("labels.txt", zipfile.ZIP_STORED)  # it is mapped, not read
        assert appended.read(entry) == (written / "one/labels.txt").read_bytes()
    model = (written / "one" / exported.PLACES[name]).read_bytes()
    assert b"TFLITE_METADATA" in model
    assert b"M001" in model


@pytest.mark.skipif(not MEDIAPIPE, reason="GRAFT_MEDIAPIPE_PYTHON names no Python that has mediapipe")
@pytest.mark.parametrize("name", ["litert", "litert_int8"])
def test_mediapipe_reads_a_litert_models_labels_and_answers_with_them(written: Path, name: str) -> None:
    code = """
import json, sys
import mediapipe, numpy
from mediapipe.tasks.python import BaseOptions, vision
options = vision.ImageClassifierOptions(base_options=BaseOptions(model_asset_path=sys.argv[1]))
with vision.ImageClassifier.create_from_options(options) as classifier:
    pixels = numpy.ascontiguousarray(numpy.load(sys.argv[2])[0])
    found = classifier.classify(mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=pixels))
print(json.dumps({one.category_name: one.score for one in found.classifications[0].categories}))
"""
    command = [MEDIAPIPE, "-I", "-c", code, str(written / "one" / exported.PLACES[name]), str(written / "pixels.npy")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
    scores = json.loads(done.stdout)
    expected = np.load(written / "expected.npy")[0]
    assert set(scores) == {labels.one_line(label) for label in CLASSES}
    assert np.abs([scores[labels.one_line(label)] for label in CLASSES] - expected).max() < 0.05


def test_labels_lie_in_the_metadata_of_a_keras_file_which_loads_in_safe_mode(written: Path, tensorflow: object) -> None:
    import keras

    with zipfile.ZipFile(written / "one/model.keras") as parts:
        metadata = json.loads(parts.read("metadata.json"))
    assert metadata["labels"] == CLASSES
    assert metadata["keras_version"] == keras.__version__
    assert keras.saving.load_model(written / "one/model.keras", safe_mode=True).output_shape == (None, len(CLASSES))


@pytest.mark.skipif(bool(exported_model.NO_ONNX), reason=exported_model.NO_ONNX)
def test_labels_lie_in_the_metadata_of_an_onnx_file(written: Path) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(written / "one/model.onnx", providers=["CPUExecutionProvider"])
    assert json.loads(session.get_modelmeta().custom_metadata_map["labels"]) == CLASSES
    (taken,), (given,) = session.get_inputs(), session.get_outputs()
    assert (taken.name, taken.shape, taken.type) == ("pixels", ["batch", SIDE, SIDE, 3], "tensor(float)")
    assert (given.name, given.shape) == ("probabilities", ["batch", len(CLASSES)])


def test_hostile_labels_are_text_in_every_format(written: Path, tensorflow: Any) -> None:
    """Each is read as others would: by the format's own reader, or from where its specification has it."""
    import openvino

    folder = written / "hostile"
    loaded = tensorflow.saved_model.load(str(folder / "saved_model"))
    pixels = np.broadcast_to(GREY[:, None, None, None], (len(GREY), SIDE, SIDE, 3)).astype(np.float32)
    named = loaded.signatures["pixels"](pixels=tensorflow.constant(pixels))["label"].numpy()
    assert [label.decode() for label in named] == LABELS
    with zipfile.ZipFile(folder / "model.keras") as parts:
        assert json.loads(parts.read("metadata.json"))["labels"] == LABELS
    for name in ("model.tflite", "model_int8.tflite"):
        with zipfile.ZipFile(folder / name) as appended:
            assert appended.namelist() == ["labels.txt"]
            lines = appended.read("labels.txt").decode().split("\n")
        assert lines == [*map(labels.one_line, LABELS), ""]
    found = openvino.Core().read_model(folder / "openvino/model.xml").get_rt_info(["model_info", "labels"]).value
    assert found.split(" ") == ["_".join(label.split()) for label in LABELS]
    tree = ElementTree.parse(folder / "openvino/model.xml")  # it is whole XML, and no label is a tag of it
    assert [node.get("value") for node in tree.iter("labels")] == [found]
    assert not list(tree.iter("script"))
    if not exported_model.NO_ONNX:
        import onnx

        properties = {one.key: one.value for one in onnx.load(str(folder / "model.onnx")).metadata_props}
        assert json.loads(properties["labels"]) == LABELS
    # Nothing was written beside the formats, nor run.
    assert {path.name for path in folder.iterdir()} == {Path(exported.PLACES[name]).parts[0] for name in NAMES} | {
        "labels.txt"
    }
    assert not [path for path in written.rglob("*") if "pwned" in path.name]


def test_an_absent_extra_is_said_before_any_stage_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (exported_model.ROOT / "recipes/digits.yaml").read_text().replace("export: {}", "export: {formats: [onnx]}")
    (tmp_path / "params.yaml").write_text(text)
    monkeypatch.setattr(onnx_model, "find_spec", lambda name: None if name == "tf2onnx" else True)
    with pytest.raises(ConfigError, match=r"export\.formats: 'onnx' needs .*; tf2onnx is not installed: pip install"):
        params.read_all(tmp_path / "params.yaml")
    monkeypatch.setattr(onnx_model, "find_spec", lambda name: True)
    assert params.read_all(tmp_path / "params.yaml")["export"].model_dump()["formats"] == ["onnx"]
    assert "onnx" not in ExportParams().formats


def test_what_does_not_run_is_said(written: Path, pictures: list[tuple[bytes, np.ndarray]], tmp_path: Path) -> None:
    broken = tmp_path / "model.tflite"
    broken.write_bytes(b"no model")
    with (
        exported.questions(tmp_path / "asked", iter(pictures), len(pictures), SIDE) as asked,
        pytest.raises(EnvironmentFault, match=r"model\.tflite: the exported model does not run in a clean process"),
    ):
        exported.answers("litert", broken, asked)
