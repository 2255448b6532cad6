"""A power cut keeps what was synced, and of the rest any part: what a name leads to is on the disk before the name."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.kill_points import Bench, Forks, Goal
from benchmarks.shim import Ask, Call, read
from benchmarks.tiny_pipeline import Tiny
from benchmarks.warm import Warm
from flows import lock_file, mending, run_cache

ROOT = Path(__file__).parents[2]


def unsynced_at_rename(calls: list[Call], source: str, target: str) -> set[str]:
    """Files below `source` that a power cut right after its rename to `target` may leave without their bytes."""
    dirty: set[str] = set()
    for call in calls:
        if call.name == "rename" and call.path.endswith(target):
            return {path for path in dirty if source in path}
        if call.name in ("open", "write", "truncate", "link", "mkdir"):
            dirty.add(call.path)
        elif call.name == "fsync":
            dirty.discard(call.path)
        elif call.name == "unlink":
            dirty = {path for path in dirty if path != call.path and not path.startswith(f"{call.path}/")}
    raise AssertionError(f"{target} was never put in place")


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["download", "split"])
def test_an_output_is_synced_before_it_has_its_name(
    stage: str, tiny: Tiny, warm_stages: dict[str, Warm], tmp_path: Path
) -> None:
    bench = Bench(tiny.goal(stage, with_lock=False), Forks(warm_stages[stage]), tmp_path)
    assert bench.writes()
    calls = read(tmp_path / "writes.log")
    written = {call.path for call in calls if call.name == "write" and f".{stage}.partial" in call.path}
    assert len(written) >= 2
    assert unsynced_at_rename(calls, f".{stage}.partial", f"data/{stage}") == set()
    # And the name itself, before the stage says that it is done.
    renamed = next(place for place, call in enumerate(calls) if call.path.endswith(f"/data/{stage}"))
    assert any(call.name == "fsync" and call.path.endswith("/data") for call in calls[renamed:])


def test_a_write_that_is_not_synced_is_found() -> None:
    """The check itself can fail."""
    calls = [Call("open", 0, "/w/.a.partial/x", None), Call("write", 9, "/w/.a.partial/x", None)]
    rename = Call("rename", 0, "/w/data/a", "/w/.a.partial")
    assert unsynced_at_rename([*calls, rename], ".a.partial", "data/a") == {"/w/.a.partial/x"}
    synced = [*calls, Call("fsync", 0, "/w/.a.partial/x", None)]
    assert unsynced_at_rename([*synced, rename], ".a.partial", "data/a") == set()
    assert unsynced_at_rename([*synced, calls[1], rename], ".a.partial", "data/a") == {"/w/.a.partial/x"}


CHECKPOINT = """
import numpy as np
from types import SimpleNamespace
from stages.store.checkpoints import Checkpoints

# The fields of stages.core.training.Saved, without the TensorFlow that its module loads.
lists = {"variables": [np.ones(3)], "optimizer": [], "best_weights": [], "logs": []}
saved = SimpleNamespace(**lists, best=(0, 0.0, 0.0), callbacks={}, stopped=False, epochs=1)
Checkpoints("fine_tune", "print").save("head", saved)
"""


def test_a_checkpoint_and_a_memo_entry_are_synced_before_they_have_their_names(library: Path, tmp_path: Path) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    memo = "from pathlib import Path\nfrom stages.store.memo_files import MemoFolder\n" \
           "MemoFolder(Path('memo')).write('entry', [b'x' * 9])\n"  # fmt: skip
    for program, source, target in ((CHECKPOINT, ".head.npz.partial", "/head.npz"), (memo, ".partial", "memo/entry")):
        log = tmp_path / "writes.log"
        log.unlink(missing_ok=True)
        more = Ask().environment(library, "stages.store", folder, log)
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT), **more},
            capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert unsynced_at_rename(read(log), source, target) == set()


@pytest.mark.slow
def test_a_torn_dvc_lock_is_the_previous_version_and_the_next_run_makes_it_whole(
    toy_goal: Goal, warm_dvc: Warm, tmp_path: Path
) -> None:
    """DVC syncs nothing and writes in place: any beginning of dvc.lock may be what is there after a power cut."""
    import shutil

    folder = tmp_path / "project"
    shutil.copytree(toy_goal.before.parent / "after", folder, symlinks=True)
    run, log = Forks(warm_dvc, ["repro"]), tmp_path / "log"
    assert toy_goal.lock is not None
    at_size = toy_goal.lock.index("size: 12002") + 8  # DVC takes the cut number for the size and keeps it
    mended = 0
    for size in (0, 10, toy_goal.lock.index("stages:") + 8, at_size, at_size + 4, len(toy_goal.lock) - 1):
        (folder / "dvc.lock").write_text(toy_goal.lock[:size])
        code, said = run.run(folder, toy_goal.variables(folder), None, log)
        assert code == 0, said
        assert (folder / "dvc.lock").read_text() == toy_goal.lock, size
        mended += "mended:" in said
    assert mended >= 5
    assert "Running stage" not in said, "what was made is in DVC's cache"


def test_the_last_committed_dvc_lock_takes_a_torn_ones_place(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        who = ["-c", "user.name=Test", "-c", "user.email=test@example.com"]
        subprocess.run(["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True)

    path = tmp_path / "dvc.lock"
    committed = "schema: '2.0'\nstages:\n  a:\n    cmd: x\n"
    path.write_text(committed)
    git("init", "-q")
    git("add", "-A")
    git("commit", "-q", "-m", "Start")
    assert not lock_file.mend(tmp_path, thoroughly=True)
    for torn in (committed[:-5], "", committed + "  b:\n    cmd: y\n    outs:\n    - path: z\n      md5: 0a.dir\n"):
        path.write_text(torn)
        assert lock_file.mend(tmp_path), torn
        assert path.read_text() == committed
    path.write_text("schema: '2.0'\nstages:\n")
    assert not lock_file.mend(tmp_path), "its end is that of a line"
    assert lock_file.mend(tmp_path, thoroughly=True)
    assert path.read_text() == committed


@pytest.mark.parametrize("end", ["\n", "", "\n  b:\n    outs:\n    - md5: 0a\n"])
def test_the_middle_of_a_merge_is_no_torn_file(end: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "dvc.lock"
    text = f"stages:\n<<<<<<< HEAD\n  a:\n=======\n  b:\n>>>>>>> other{end}"
    path.write_text(text)
    assert not lock_file.mend(tmp_path, thoroughly=True)
    assert path.read_text() == text
    with contextlib.chdir(tmp_path):
        assert mending.main() == 1
    assert "dvc.lock holds the conflict marks of a merge: git checkout --ours dvc.lock" in capsys.readouterr().err


def test_what_a_kill_left_in_the_run_cache_goes_whatever_the_clock_says(tmp_path: Path) -> None:
    """Its time lies in the future where the clock was set back since. In others' caches it stays while it is new."""
    (tmp_path / ".dvc" / "tmp").mkdir(parents=True)
    own, others = tmp_path / ".dvc" / "cache" / "runs", tmp_path.parent / f"{tmp_path.name}-others"
    for runs in (own, others):
        for key, age in {"aa/one": -86_400, "bb/two": 86_400}.items():
            (runs / key).mkdir(parents=True)
            (runs / key / "cut.tmp").write_bytes(b"half")
            for path in (runs / key / "cut.tmp", runs / key):
                os.utime(path, (time.time() + age,) * 2)
    assert run_cache.mend(tmp_path)
    assert list(own.glob("??/*")) == []
    assert not run_cache.mend(tmp_path)
    assert run_cache.mend(tmp_path, others)
    assert [path.name for path in others.glob("??/*")] == ["two"]
