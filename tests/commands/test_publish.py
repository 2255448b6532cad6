"""A published model is whole, numbered as model servers want it, and answers over their protocol."""

from __future__ import annotations

import base64
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn.datasets
import typer
from typer.testing import CliRunner

from commands.predict import classified
from commands.publish import publish
from stages.core import images
from stages.core.errors import ConfigError
from stages.store import model_versions
from tests import exported_model
from tests.exported_model import ROOT, SIDE
from tests.golden_images import every_kind

KSERVE = os.environ.get("GRAFT_KSERVE_PYTHON", "")  # its package does not fit graft's pins: see docs/export.md
PHOTOGRAPH = Path(sklearn.datasets.__file__).parent / "images/china.jpg"  # 640 x 427


def command(*arguments: str) -> str:
    app = typer.Typer()
    app.command()(publish)
    done = CliRunner().invoke(app, list(arguments))
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """What export writes, in shape."""
    (tmp_path / "export/saved_model/variables").mkdir(parents=True)
    for name in ("saved_model/saved_model.pb", "saved_model/variables/variables.index", "labels.txt", "MODEL_CARD.md"):
        (tmp_path / "export" / name).write_text(name)
        (tmp_path / "export" / name).chmod(0o444)  # as DVC links what it caches
    return tmp_path / "export"


def test_versions_count_up_and_hold_the_model_and_what_belongs_to_it(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "served/flowers"
    assert command(str(folder), "--model", str(model)).split() == [str(folder / "1")]
    (folder / "notes").mkdir()
    (folder / "0007").mkdir()
    assert command(str(folder), "--model", str(model)).split() == [str(folder / "8")]
    files = {path.relative_to(folder / "8").as_posix() for path in (folder / "8").rglob("*") if path.is_file()}
    assert files == {"saved_model.pb", "variables/variables.index", "assets.extra/labels.txt",
                     "assets.extra/MODEL_CARD.md"}  # fmt: skip
    assert os.access(folder / "8/saved_model.pb", os.W_OK)
    said = command(str(folder), "--model", str(model), "--version", "3")
    assert f"{folder / '3'}\n" in said
    assert "take the highest version unless told otherwise: 8" in said
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []


def test_a_version_is_never_changed_and_a_failure_leaves_nothing(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "served"
    command(str(folder), "--model", str(model))
    with pytest.raises(ConfigError, match=r"served/1: exists; .* choose one above 1"):
        command(str(folder), "--model", str(model), "--version", "1")
    with pytest.raises(ConfigError, match="no exported SavedModel there; run dvc repro"):
        command(str(folder), "--model", str(tmp_path))

    def full(source: str, target: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(model_versions.shutil, "copyfile", full)
    with pytest.raises(OSError, match="No space left"):
        model_versions.add(model / "saved_model", [model / "labels.txt"], folder, None)
    assert [path.name for path in folder.iterdir()] == ["1"]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A real model, and the folder of its versions 2 and 10: names sorted as texts would serve 2."""
    folder = tmp_path_factory.mktemp("published")
    picture = images.decode_resized(PHOTOGRAPH.read_bytes(), SIDE)
    np.save(folder / "pixels.npy", np.stack([picture, picture]))
    exported_model.write(folder / "export")
    (folder / "served/flowers/2").mkdir(parents=True)
    command(str(folder / "served/flowers"), "--model", str(folder / "export"), "--version", "10")
    return folder / "export", folder / "served/flowers"


def post(address: str, content: Any) -> tuple[int, dict[str, Any]]:
    data = json.dumps(content).encode()
    request = urllib.request.Request(address, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def answered(address: str, process: subprocess.Popen[str], deadline: float) -> dict[str, Any]:
    """The model's status, as soon as the server is there."""
    while True:
        try:
            with urllib.request.urlopen(address, timeout=30) as answer:
                found: dict[str, Any] = json.loads(answer.read())
                return found
        except OSError:
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.2)


@pytest.mark.parametrize(
    ("kind", "python"),
    [
        pytest.param("http", sys.executable, id="stand-in"),
        pytest.param("kserve", KSERVE, id="kserve", marks=pytest.mark.skipif(
            not KSERVE, reason="GRAFT_KSERVE_PYTHON names no Python that has kserve and tensorflow")),
    ],
)  # fmt: skip
def test_a_photograph_posted_to_a_server_gets_the_answer_of_graft_predict(
    published: tuple[Path, Path], kind: str, python: str, tmp_path: Path
) -> None:
    model, folder = published
    turned = tmp_path / "turned.jpg"
    turned.write_bytes(every_kind()["JPEG, EXIF 6"])
    wanted = list(classified([PHOTOGRAPH, turned], model, "openvino"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment["TF_CPP_MIN_LOG_LEVEL"] = "3"
    arguments = [python, "-I", str(ROOT / "tests/model_server.py"), kind, str(folder), str(port)]
    process = subprocess.Popen(
        arguments, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        base = f"http://127.0.0.1:{port}/v1/models/flowers"
        status = answered(base, process, time.monotonic() + 300)
        if kind == "http":
            assert status == {"model_version_status": [{"version": "10", "state": "AVAILABLE"}]}
        else:
            assert status == {"name": "flowers", "ready": True}
        encoded = [{"b64": base64.b64encode(file.read_bytes()).decode()} for file in (PHOTOGRAPH, turned)]
        for instances in (encoded, [{"image_bytes": one} for one in encoded]):
            code, found = post(f"{base}:predict", {"instances": instances})
            assert code == 200, found
            for row, expected in zip(found["predictions"], wanted, strict=True):
                assert row["label"] == expected["label"].replace("\\u000a", "\n")
                assert np.abs(np.array(row["probabilities"]) - list(expected["probabilities"].values())).max() < 0.02
                assert row["probability"] == pytest.approx(max(row["probabilities"]))
        assert wanted[0]["probabilities"] != pytest.approx(wanted[1]["probabilities"], abs=0.05)
        code, _ = post(f"{base}:predict", {"instances": [{"b64": base64.b64encode(b"no picture").decode()}]})
        assert code >= 400
        assert post(f"{base}:predict", {"instances": encoded[:1]})[0] == 200  # and it serves on
    finally:
        process.terminate()
        process.communicate(timeout=120)
