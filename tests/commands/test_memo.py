"""graft memo: what it shows and removes, whom it asks, and that runs only lose time by it."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import typer

from commands import memo
from stages.core.errors import ConfigError, EnvironmentFault
from stages.store.memo import Memo
from stages.store.tensor_memo import TensorMemo

ROOT = Path(__file__).parents[2]
SCHEMA = pa.schema([("image_id", pa.string()), ("width", pa.int32())])
DAY = 24 * 60 * 60.0


def key(number: int) -> bytes:
    return hashlib.sha256(bytes([number])).digest()


def keep(kind: str, fingerprint: str, number: int = 1) -> None:
    """One row in a file of its own."""
    if kind == "measurements":
        rows = pa.Table.from_pylist([{"image_id": key(number).hex(), "width": number}], schema=SCHEMA)
        Memo(memo.PLACE / kind / fingerprint, SCHEMA).add(rows)
    else:
        with TensorMemo(memo.PLACE / kind / fingerprint, (100,), np.uint8) as rows_kept:
            rows_kept.add([key(number)], np.full((1, 100), number, np.uint8))


def kept() -> list[str]:
    return sorted(path.relative_to(memo.PLACE).as_posix() for path in memo.PLACE.rglob("*") if path.is_file())


def aged(path: Path, days: float) -> None:
    then = time.time() - days * DAY
    os.utime(path, (then, then))


def shown(capsys: pytest.CaptureFixture[str], **options: Any) -> dict[str, Any]:
    memo.memo(as_json=True, **options)
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with three kinds, one of them in two versions."""
    monkeypatch.chdir(tmp_path)
    keep("measurements", "0" * 16)
    keep("features", "1" * 16)
    keep("features", "1" * 16, number=2)
    keep("features", "2" * 16)
    keep("something", "3" * 16)
    return tmp_path


def test_what_is_kept_is_shown(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (old,) = Path(memo.PLACE, "features", "2" * 16).iterdir()
    aged(old, 400)
    answer = shown(capsys)
    assert answer["place"] == str(root / ".graft" / "memo")
    kinds = {one["kind"]: one for one in answer["kinds"]}
    assert {kind: (one["fingerprints"], one["files"]) for kind, one in kinds.items()} == {
        "features": (2, 3), "measurements": (1, 1), "something": (1, 1),
    }  # fmt: skip
    assert kinds["features"]["purpose"] == "what the frozen network made of each image and view"
    assert kinds["features"]["bytes"] == sum(path.stat().st_size for path in Path(memo.PLACE, "features").rglob("*.*"))
    assert answer["total"]["bytes"] == sum(one["bytes"] for one in kinds.values())
    assert answer["total"]["files"] == 5
    assert answer["total"]["last_used"] == max(one["last_used"] for one in kinds.values())
    memo.memo()
    text = capsys.readouterr().out.splitlines()
    assert text[0] == str(root / ".graft" / "memo")
    assert [line.split()[0] for line in text[1:]] == ["kind", "features", "measurements", "something", "total"]
    assert "not known to this version" in text[4]
    assert len(kept()) == 5


def test_use_makes_a_file_young(capsys: pytest.CaptureFixture[str]) -> None:
    for path in memo.PLACE.rglob("*.*"):
        aged(path, 10)
    assert shown(capsys, older_than="9")["total"]["files"] == 5
    assert Memo(memo.PLACE / "measurements" / ("0" * 16), SCHEMA).read().num_rows == 1
    answers = list(TensorMemo(memo.PLACE / "features" / ("2" * 16), (100,), np.uint8).take([key(1)]))
    assert len(answers) == 1
    old = shown(capsys, older_than="9")
    assert {one["kind"]: one["files"] for one in old["kinds"]} == {"features": 2, "something": 1}


def test_a_merged_file_of_measurements_is_as_young_as_its_last_use(capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(2, 20):
        keep("measurements", "0" * 16, number)
    reader = Memo(memo.PLACE / "measurements" / ("0" * 16), SCHEMA)
    assert reader.read().num_rows == 19
    (merged,) = Path(memo.PLACE, "measurements", "0" * 16).iterdir()
    aged(merged, 10)
    assert shown(capsys, older_than="9")["total"]["files"] == 1
    reader.read()
    assert shown(capsys, older_than="9")["total"]["files"] == 0


def test_clear_removes_everything_and_only_the_memo(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / ".graft" / "checkpoints").mkdir()
    (root / ".graft" / "memo" / "notes.txt").write_text("mine")
    for path in memo.PLACE.rglob("*.rows"):
        aged(path, -1)  # from a machine whose clock is ahead
    memo.memo(clear=True, yes=True)
    assert capsys.readouterr().out.startswith("removed 5 files, ")
    assert sorted(path.name for path in (root / ".graft").rglob("*")) == ["checkpoints", "memo", "notes.txt"]
    memo.memo(clear=True)
    assert capsys.readouterr().out == f"{root}/.graft/memo: nothing to remove\n"
    memo.memo()
    assert capsys.readouterr().out == f"{root}/.graft/memo\nnothing is kept\n"
    keep("features", "1" * 16)
    assert len(kept()) == 2, "and a run goes on"


def test_clear_by_kind_and_age(capsys: pytest.CaptureFixture[str]) -> None:
    (old,) = Path(memo.PLACE, "features", "2" * 16).iterdir()
    aged(old, 8)
    (other,) = Path(memo.PLACE, "something", "3" * 16).iterdir()
    aged(other, 8)
    answer = shown(capsys, kinds=["features"], older_than="7.5", clear=True, yes=True)
    assert answer["removed"] == {"files": 1, "bytes": answer["total"]["bytes"]}
    assert not old.parent.exists()
    assert len(kept()) == 4
    assert shown(capsys, kinds=["something", "measurements"], clear=True, yes=True)["removed"]["files"] == 2
    assert [name.split("/")[0] for name in kept()] == ["features", "features"]


def test_a_terminal_is_asked(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[str] = []
    answers = [False, True]

    def confirm(text: str, err: bool) -> bool:
        asked.append(text)
        return answers.pop(0)

    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(typer, "confirm", confirm)
    memo.memo(clear=True)
    assert len(kept()) == 5
    assert "nothing was removed" in capsys.readouterr().err
    memo.memo(clear=True)
    assert not kept()
    assert "Remove 5 files, " in asked[0]
    assert asked[0].endswith(f"from {memo.PLACE.resolve()}?")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"kinds": ["feature"]}, "received kind 'feature'; must be one of features, measurements, pixels, something"),
        ({"kinds": ["../checkpoints"], "clear": True, "yes": True}, "received kind '../checkpoints'; must be one of"),
        ({"older_than": "a week"}, "--older-than: received 'a week'; must be a number of days, 0 or more"),
        ({"older_than": "-1"}, "received '-1'"),
        ({"older_than": "nan"}, "received 'nan'"),
        ({"older_than": "inf"}, "received 'inf'"),
        ({"yes": True}, "--yes: received without --clear"),
        ({"clear": True}, "there is no terminal to ask on; add --yes"),
    ],
)
def test_wrong_requests_remove_nothing(options: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False, raising=False)
    with pytest.raises(ConfigError) as error:
        memo.memo(**options)
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert len(kept()) == 5


def test_a_place_without_a_project_is_an_error_and_one_without_a_memo_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="run graft from the project's root"):
        memo.memo(clear=True, yes=True)
    Path("dvc.yaml").touch()
    memo.memo(kinds=["pixels"])
    assert "nothing is kept" in capsys.readouterr().out
    assert not memo.PLACE.exists()


def test_a_run_that_reads_and_writes_meanwhile_only_loses_time(caplog: pytest.LogCaptureFixture) -> None:
    folder = memo.PLACE / "features" / ("1" * 16)
    running = TensorMemo(folder, (100,), np.uint8)
    answers = running.take([key(1), key(2)])
    first = next(answers)
    running.add([key(3)], np.full((1, 100), 3, np.uint8))
    partial = folder / f".{1:016x}.partial"
    with partial.open("xb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # as a run holds it while it writes
        memo.memo(clear=True, yes=True)
        assert kept() == [f"features/{'1' * 16}/{partial.name}"]
    assert (first[1] == int(first[0][0]) + 1).all()
    assert list(answers) == []
    running.close()
    ((_, rows),) = running.take([key(1), key(2), key(3)])
    assert (rows == 3).all()
    assert not caplog.messages
    memo.memo(clear=True, yes=True)
    assert not kept(), "its writer is gone"


def test_links_are_cleared_to_their_end_and_no_further(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A kind on another disk is the memo's, what its files link to is not."""
    (root / "disk").mkdir()
    (memo.PLACE / "features").rename(root / "disk" / "features")
    (memo.PLACE / "features").symlink_to(root / "disk" / "features")
    (root / "photographs").mkdir()
    (root / "photographs" / "1.jpg").write_bytes(b"mine")
    (memo.PLACE / "features" / "link").symlink_to(root / "photographs")
    assert shown(capsys, kinds=["features"])["total"]["files"] == 3
    memo.memo(clear=True, yes=True)
    assert not list((root / "disk").rglob("*.rows"))
    assert (root / "photographs" / "1.jpg").exists()


def test_what_cannot_be_removed_is_said_and_the_rest_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    unlink = Path.unlink

    def refusing(path: Path, missing_ok: bool = False) -> None:
        if path.suffix == ".parquet":
            raise PermissionError(1, "Operation not permitted", str(path))
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", refusing)
    with pytest.raises(EnvironmentFault, match=r"1 file could not be removed; the first: .*Operation not permitted"):
        memo.memo(clear=True, yes=True)
    assert [Path(name).suffix for name in kept()] == [".parquet"]


def test_the_console_script(root: Path) -> None:
    def graft(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "commands", "memo", *arguments],
            cwd=root, env={"PYTHONPATH": str(ROOT)}, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=240,
        )  # fmt: skip

    refused = graft("--clear")
    assert refused.returncode == 2
    assert refused.stderr.startswith("graft: --clear: would remove 5 files, ")
    assert refused.stderr.count("\n") == 1
    assert len(kept()) == 5
    done = graft("features", "--clear", "--yes", "--older-than", "0")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("removed 3 files, ")
    assert len(kept()) == 2
