"""Checkpoint files: what is read back is what was written, and nothing else is believed."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.store import checkpoints
from stages.store.checkpoints import Checkpoints, fingerprint

pytestmark = pytest.mark.usefixtures("tensorflow")
PRINT = "0" * 64


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the files of the stage `s` go."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / ".graft" / "checkpoints" / "s"


def state(epochs: int = 2, **changes: Any) -> Any:
    from stages.core.training import Saved

    values: dict[str, Any] = {
        "logs": [{"loss": 1 / 3, "val_loss": 0.1, "learning_rate": 1e-3}] * epochs,
        "best": (1, 0.1, 0.9),
        "callbacks": {"EarlyStopping": {"wait": 1, "best": None}},
        "stopped": False,
        "variables": [np.arange(6, dtype=np.float32).reshape(2, 3), np.array([7, 8], np.uint32)],
        "optimizer": [np.array(5, np.int64)],
        "best_weights": [],
    }
    return Saved(**{**values, **changes})


def test_what_is_read_back_is_what_was_written(folder: Path) -> None:
    from dataclasses import asdict

    Checkpoints("s", PRINT).save("head", state(1))
    Checkpoints("s", PRINT).save("head", state(2))
    read = Checkpoints("s", PRINT).load("head")
    assert read is not None
    assert read.epochs == 2
    np.testing.assert_equal(asdict(read), asdict(state(2)))
    assert [array.dtype for array in read.variables] == [np.float32, np.uint32]
    assert [path.name for path in folder.iterdir()] == ["head.npz"]


def test_nothing_saved_is_nothing_said(caplog: pytest.LogCaptureFixture) -> None:
    assert Checkpoints("s", PRINT).load("head") is None
    assert not caplog.records


def signed(payload: bytes) -> bytes:
    """A file whose checksum fits."""
    return checkpoints.MAGIC + hashlib.sha256(payload).hexdigest().encode() + b"\n" + payload


def damage(name: str, path: Path) -> None:
    data = path.read_bytes()
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 1
    # Pickled data with a fitting checksum: the checksum is no signature, so numpy must refuse it.
    evil = path.with_name("evil")
    with evil.open("wb") as file:
        np.savez(file, state=np.array([{"a": 1}], dtype=object))
    pickled = evil.read_bytes()
    evil.unlink()
    path.write_bytes(
        {
            "empty": b"",
            "cut in the header": data[:40],
            "cut short": data[:-1],
            "zeros at the end": data[:-100] + bytes(100),
            "one bit": bytes(flipped),
            "longer": data + b"x",
            "foreign": b"\x93NUMPY" + data,
            "pickle": signed(pickled),
            "nothing, signed": signed(b""),
            "no zip, signed": signed(b"PK\x03\x04" + bytes(50)),
        }[name]
    )


@pytest.mark.parametrize(
    "name",
    [
        "empty",
        "cut in the header",
        "cut short",
        "zeros at the end",
        "one bit",
        "longer",
        "foreign",
        "pickle",
        "nothing, signed",
        "no zip, signed",
    ],
)
def test_a_damaged_file_is_not_believed_and_said_so(name: str, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    Checkpoints("s", PRINT).save("from_scratch", state())
    damage(name, folder / "from_scratch.npz")
    assert Checkpoints("s", PRINT).load("from_scratch") is None
    assert "is not used" in caplog.text
    assert "from scratch starts from zero" in caplog.text
    assert not list(folder.iterdir())


def test_another_fingerprint_or_phase_is_not_resumed(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    Checkpoints("s", PRINT).save("head", state())
    (folder / "tail.npz").write_bytes((folder / "head.npz").read_bytes())
    kept = Checkpoints("s", PRINT)
    assert kept.load("head") is not None
    assert kept.load("tail") is None
    assert Checkpoints("s", "1" * 64).load("head") is None
    assert "of other data, settings, code" in caplog.text
    assert not list(folder.iterdir())


def test_where_a_phase_starts_anew_those_after_it_go_too(folder: Path) -> None:
    first = Checkpoints("s", PRINT)
    for phase in ("head", "tail", "from_scratch"):
        first.save(phase, state())
    damage("one bit", folder / "tail.npz")
    (folder / ".tail.npz.partial").write_bytes(b"half")
    again = Checkpoints("s", PRINT)
    assert again.load("head") is not None
    assert again.load("tail") is None
    assert [path.name for path in folder.iterdir()] == ["head.npz"]
    again.save("tail", state())
    assert again.load("from_scratch") is None
    assert sorted(path.name for path in folder.iterdir()) == ["head.npz", "tail.npz"]
    again.clear()
    assert not folder.exists()


def test_a_disk_that_refuses_costs_the_checkpoint_only(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    kept = Checkpoints("s", PRINT)
    kept.save("head", state(1))

    def full(*arguments: Any, **arrays: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    kept.save("head", state(2))
    monkeypatch.undo()
    monkeypatch.chdir(folder.parents[2])
    assert "no checkpoint of head, epoch 2" in caplog.text
    assert [path.name for path in folder.iterdir()] == ["head.npz"]
    read = Checkpoints("s", PRINT).load("head")
    assert read is not None
    assert read.epochs == 1


def test_the_fingerprint_names_settings_data_code_and_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    data = tmp_path / "data"
    data.mkdir()
    (data / "a.npy").write_bytes(b"1")
    prints = [fingerprint({"seed": 1}, data, "CPU"), fingerprint({"seed": 2}, data, "CPU")]
    prints.append(fingerprint({"seed": 1}, data, "NVIDIA H200"))
    assert fingerprint({"seed": 1}, data, "CPU") == prints[0]
    (data / "a.npy").write_bytes(b"2")
    prints.append(fingerprint({"seed": 1}, data, "CPU"))
    (data / "b.npy").write_bytes(b"")
    prints.append(fingerprint({"seed": 1}, data, "CPU"))
    edited = tmp_path / "checkpoints.py"
    edited.write_text("# edited")
    monkeypatch.setattr(checkpoints.__spec__, "origin", str(edited))
    prints.append(fingerprint({"seed": 1}, data, "CPU"))
    monkeypatch.setattr(checkpoints, "version", lambda name: "0")
    prints.append(fingerprint({"seed": 1}, data, "CPU"))
    assert len(set(prints)) == len(prints)
