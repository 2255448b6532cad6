"""`graft predict` and the SavedModel's own decoding, on every kind of file, in every format."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from commands.predict import Format, classified
from stages.core import images
from stages.core.errors import ConfigError, IntegrityError
from stages.store import exported, onnx_model, runtimes
from tests import exported_model
from tests.core.test_golden_images import DIFFERENT, REFUSED
from tests.exported_model import CLASSES, FORMATS, ROOT, SIDE
from tests.golden_images import every_kind

KINDS = every_kind()
TAKEN = [kind for kind in KINDS if kind not in {**DIFFERENT, **REFUSED}]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    np.save(folder / "pixels.npy", np.stack([images.decode_resized(data, SIDE) for data in KINDS.values()]))
    exported_model.write(folder / "model")
    return folder / "model"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("golden")
    found = {kind: folder / f"{number:02}.{kind.split(',')[0].lower()}" for number, kind in enumerate(KINDS)}
    for kind, file in found.items():
        file.write_bytes(KINDS[kind])
    return found


@pytest.fixture(scope="module")
def from_bytes(written: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """What the SavedModel answers in a clean process to the bytes of the kinds it takes."""
    pictures = [(KINDS[kind], images.decode_resized(KINDS[kind], SIDE)) for kind in TAKEN]
    with exported.questions(tmp_path_factory.mktemp("asked") / "it", iter(pictures), len(TAKEN), SIDE) as asked:
        answers, _ = exported.answers("saved_model", written / "saved_model", asked)
    return dict(zip(TAKEN, answers, strict=True))


@pytest.mark.usefixtures("tensorflow")
@pytest.mark.parametrize("format_", FORMATS)
def test_every_format_answers_as_the_savedmodel_does_from_bytes(
    written: Path, files: dict[str, Path], from_bytes: dict[str, np.ndarray], format_: str
) -> None:
    rows = dict(zip(files, classified(list(files.values()), written, format_), strict=True))
    assert not [row for row in rows.values() if "error" in row]  # graft's own decoder takes every kind
    answers = {kind: np.array(list(row["probabilities"].values())) for kind, row in rows.items()}
    gaps = {kind: float(np.abs(answers[kind] - from_bytes[kind]).max()) for kind in TAKEN}
    bound = 0.06 if format_ == "litert_int8" else 0.02
    assert max(gaps.values()) < bound, gaps
    # The bound tells pictures apart: turned the wrong way, or in other colours, the answer is another.
    assert np.abs(answers["JPEG, turned by XMP alone"] - answers["JPEG, EXIF 6"]).max() < bound
    stored_otherwise = [np.abs(answers[f"JPEG, EXIF {turn}"] - answers["JPEG, EXIF 1"]).max() for turn in range(2, 9)]
    assert min(stored_otherwise) > bound


def test_a_folder_and_a_bad_file_are_answered_by_the_command(
    written: Path, files: dict[str, Path], from_bytes: dict[str, np.ndarray], tmp_path: Path
) -> None:
    kinds = ["JPEG, CMYK", "JPEG, EXIF 6", "PNG, 16-bit RGB", "PNG, RGBA", "PNG, palette with transparency"]
    for kind in kinds:
        (tmp_path / files[kind].name).write_bytes(KINDS[kind])
    (tmp_path / "zz.png").write_bytes(b"no picture")
    done = subprocess.run(
        [sys.executable, "-m", "commands", "predict", str(tmp_path), "--model", str(written), "--format", "openvino",
         "--json"],
        cwd=ROOT, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines()]
    wanted = [from_bytes[kind] for kind in sorted(kinds, key=lambda kind: files[kind].name)]
    assert "not_an_image" in rows.pop()["error"]
    assert len(rows) == len(wanted)
    for row, answer in zip(rows, wanted, strict=True):
        assert list(row["probabilities"]) == ["cat", "wire fox terrier", "dög\\u000a2"]
        assert np.abs(np.array(list(row["probabilities"].values())) - answer).max() < 0.02
        assert CLASSES.index(re.sub(r"\\u000a", "\n", row["label"])) == int(answer.argmax())


def test_the_command_knows_every_format() -> None:
    assert {format_.value for format_ in Format} == set(exported.PLACES) == set(exported.ASK)


def test_onnx_without_its_runtime_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_model, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="--format: 'onnx' needs onnxruntime; onnxruntime is not installed"):
        runtimes.opened("onnx", tmp_path)


@pytest.mark.skipif(bool(exported_model.NO_ONNX), reason=exported_model.NO_ONNX)
def test_what_is_no_onnx_model_is_said(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no model")
    with pytest.raises(IntegrityError, match=r"model\.onnx: not a model that export wrote"):
        runtimes.opened("onnx", tmp_path)
