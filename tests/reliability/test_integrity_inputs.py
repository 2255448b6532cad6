"""A flipped byte in what a stage reads, or in an exported model: found before it is used, named, exit 4."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from ruamel.yaml import YAML
from typer.testing import CliRunner

from commands.predict import classified
from commands.publish import publish
from flows.md5 import listing_bytes, md5_of_listing
from stages.core.errors import IntegrityError
from stages.store import exported_files, hashes, inputs, model_versions, process

FILES = ("activations-train-00000.npy", "base.weights.h5", "sub/trunk.json")


def flip(path: Path, at: int = -1) -> None:
    """Flip a bit, and keep size and mtime."""
    was = path.stat()
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What feature_extract wrote, as dvc.lock and DVC's cache record it, for fine_tune to read."""
    folder = tmp_path / "data/feature_extract"
    (folder / "sub").mkdir(parents=True)
    np.save(folder / FILES[0], np.arange(24, dtype=np.float32).reshape(4, 6))
    for name in FILES[1:]:
        (folder / name).write_bytes(name.encode() * 50)
    (folder / ".gitkeep").touch()
    md5s = {name: hashlib.md5((folder / name).read_bytes()).hexdigest() for name in FILES}
    listing = md5_of_listing(md5s)
    (tmp_path / ".dvc").mkdir()
    cached = tmp_path / ".dvc/cache/files/md5" / listing[:2] / listing[2:]
    cached.parent.mkdir(parents=True)
    cached.write_bytes(listing_bytes(md5s))
    stages = {
        "feature_extract": {"cmd": "x", "deps": ["stages/x.py"], "outs": ["data/feature_extract"]},
        "fine_tune": {"cmd": "x", "deps": ["data/feature_extract", "stages/y.py"], "outs": ["data/fine_tune"]},
        "evaluate": {"cmd": "x", "deps": ["data/feature_extract/base.weights.h5"], "outs": ["reports/evaluate"]},
    }
    out = {"path": "data/feature_extract", "hash": "md5", "md5": listing, "size": 1, "nfiles": 3}
    YAML().dump({"stages": stages}, tmp_path / "dvc.yaml")
    YAML().dump({"schema": "2.0", "stages": {"feature_extract": {"cmd": "x", "outs": [out]}}}, tmp_path / "dvc.lock")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_STAGE", "fine_tune")
    return folder


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_byte_is_named_before_the_stage_reads(
    project: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    inputs.check("fine_tune")
    flip(project / name)
    ran: list[str] = []
    with pytest.raises(SystemExit) as ended:
        process.run("fine_tune", lambda: ran.append("main") or "done")
    assert (ended.value.code, ran) == (4, [])
    said = " ".join(capsys.readouterr().err.split())
    assert f"fine_tune failed (exit 4): data/feature_extract/{name}: MD5 is" in said
    assert "graft verify --repair" in said


def test_only_what_the_stage_itself_reads_counts(project: Path) -> None:
    flip(project / FILES[0])
    inputs.check("evaluate")
    flip(project / "base.weights.h5")
    with pytest.raises(IntegrityError, match=r"base\.weights\.h5: MD5"):
        inputs.check("evaluate")


def test_what_was_whole_is_not_hashed_again_until_it_differs(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs.check("fine_tune")

    def never(*_: Any) -> Any:
        raise AssertionError("hashed again")

    with monkeypatch.context() as patched:
        patched.setattr(inputs.hashlib, "file_digest", never)
        inputs.check("fine_tune")
        flip(project / FILES[0])  # size and mtime as before: ctime tells
        with pytest.raises(AssertionError):
            inputs.check("fine_tune")
    inputs.MEMORY.write_text("{torn")
    with pytest.raises(IntegrityError):
        inputs.check("fine_tune")


def test_started_by_hand_a_stage_reads_what_it_is_given(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flip(project / FILES[0])
    monkeypatch.delenv("DVC_STAGE")
    inputs.check("fine_tune")


@pytest.mark.parametrize("cache", ["elsewhere", "gone", "torn"])
def test_where_the_cache_is_and_where_it_cannot_say(
    project: Path, tmp_path: Path, cache: str, caplog: pytest.LogCaptureFixture
) -> None:
    (listing,) = (tmp_path / ".dvc/cache").rglob("*.dir")
    flip(project / FILES[0])
    if cache == "elsewhere":
        shutil.move(tmp_path / ".dvc/cache", tmp_path / "kept")
        (tmp_path / ".dvc/config.local").write_text("[cache]\n    dir = ../kept\n['remote \"s\"']\n    url = /x%y\n")
        with pytest.raises(IntegrityError):
            inputs.check("fine_tune")
        return
    # Part of an output may be all that was pulled: without the listing nobody can tell.
    flip(listing) if cache == "torn" else listing.unlink()
    with caplog.at_level(logging.WARNING):
        inputs.check("fine_tune")
    assert "data/feature_extract is not as dvc.lock records it" in caplog.text


@pytest.mark.parametrize("text", ["", "a: [", "<<<<<<< HEAD\n", "stages: 3\n", "stages:\n  feature_extract: 3\n"])
def test_a_lock_that_cannot_be_read_is_dvcs_matter(project: Path, text: str) -> None:
    Path("dvc.lock").write_text(text)
    inputs.check("fine_tune")


# The exported model


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """What export writes, in shape, with its certificate."""
    folder = tmp_path / "export"
    names = ("saved_model/saved_model.pb", "saved_model/variables/variables.index", "model.tflite",
             "openvino/model.xml", "openvino/model.bin", "labels.txt")  # fmt: skip
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode() * 20)
    written = hashes.sha256_of_tree(folder)
    formats = ("saved_model", "litert", "openvino")
    certificate = {format_: {"published": True, "sha256": exported_files.of(format_, written)} for format_ in formats}
    assert len(set().union(*(one["sha256"] for one in certificate.values()))) == len(names)
    (folder / "certificate.json").write_text(json.dumps(certificate))
    return folder


@pytest.mark.parametrize(
    ("format_", "name"),
    [
        ("saved_model", "saved_model/variables/variables.index"),
        ("litert", "model.tflite"),
        ("litert", "labels.txt"),
        ("openvino", "openvino/model.bin"),
    ],
)
def test_predict_refuses_a_flipped_model_before_it_is_opened(model: Path, format_: str, name: str) -> None:
    assert exported_files.check(model, format_)
    flip(model / name)
    with pytest.raises(IntegrityError, match=f"{name}: other bytes than were certified"):
        list(classified([], model, format_))
    # A format without that file is still good.
    others = {"saved_model", "litert", "openvino"} - {format_} if name != "labels.txt" else set()
    assert all(exported_files.check(model, other) for other in others)


def test_a_missing_and_a_foreign_file_and_an_older_certificate(model: Path) -> None:
    (model / "saved_model/assets").mkdir()
    (model / "saved_model/assets/more.txt").touch()
    with pytest.raises(IntegrityError, match=r"assets/more\.txt: is not among the files that were certified"):
        exported_files.check(model, "saved_model")
    (model / "model.tflite").unlink()
    with pytest.raises(IntegrityError, match=r"model\.tflite: was certified, but is not there"):
        exported_files.check(model, "litert")
    (model / "certificate.json").write_text('{"litert": {"published": true}}')
    assert not exported_files.check(model, "litert")
    (model / "certificate.json").write_text("{")
    with pytest.raises(IntegrityError, match=r"certificate\.json: not readable"):
        exported_files.check(model, "litert")


def test_publish_checks_the_model_and_its_own_copy(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = typer.Typer()
    app.command()(publish)
    served = str(tmp_path / "served")

    copy = shutil.copyfile

    def copied(source: Any, target: Any, **more: Any) -> Any:
        copy(source, target, **more)
        if str(target).endswith("saved_model.pb"):
            flip(Path(target))
        return target

    with monkeypatch.context() as patched:
        patched.setattr(model_versions.shutil, "copyfile", copied)
        done = CliRunner().invoke(app, [served, "--model", str(model)])
    assert isinstance(done.exception, IntegrityError)
    assert "saved_model.pb: its copy has other bytes; nothing was published" in str(done.exception)
    assert list(Path(served).iterdir()) == []
    flip(model / "saved_model/saved_model.pb")
    done = CliRunner().invoke(app, [served, "--model", str(model)])
    assert isinstance(done.exception, IntegrityError)
    assert list(Path(served).iterdir()) == []
