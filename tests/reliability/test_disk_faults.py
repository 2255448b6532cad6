"""Disk full, failing, read-only, out of descriptors or memory: an output is old or new, exit 5 says what to do."""

from __future__ import annotations

import errno
import os
import re
import resource
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks.kill_points import Bench, Forks, Goal
from benchmarks.shim import Ask, read
from benchmarks.tiny_pipeline import Tiny
from benchmarks.warm import Warm
from stages.core.errors import EnvironmentFault, IntegrityError
from stages.store import documents, machine_faults, outputs
from stages.store.hashes import sha256_of_tree
from stages.store.tensor_memo import TensorMemo

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


@pytest.fixture
def bench(tiny: Tiny, warm_stages: dict[str, Warm], tmp_path: Path) -> Bench:
    """split, with an output of an earlier run in place, that is told from the new one."""
    goal = tiny.goal("split", with_lock=False).over_old(tmp_path / "before")
    return Bench(goal, Forks(warm_stages["split"]), tmp_path / "run")


def left_whole(bench: Bench, ask: Ask) -> str:
    """Break split; assert that it says exit 5, leaves the old output as it was and then succeeds; what it said."""
    seen: list[dict[str, str]] = []
    tried = bench.broken(ask, lambda checkout: seen.append(sha256_of_tree(checkout / "data" / "split")))
    assert tried.why == [], ask
    assert seen == [bench.goal.old["data/split"]], ask
    assert tried.code == 5, tried.said
    assert "split failed (exit 5): " in tried.said
    assert "Traceback" not in tried.said
    return tried.said


def test_the_disk_is_full_after_so_many_bytes(bench: Bench, tiny: Tiny) -> None:
    rows, written = 0, 0  # bytes: rows on their way, in a file without a name; after it the output
    bench.writes()
    for call in read(bench.folder / "writes.log"):
        rows += call.bytes * (".partial" not in call.path)
        written += call.bytes * (".split.partial" in call.path)
    said = left_whole(bench, Ask(room=rows // 2, calls="write"))
    assert re.search(r"a file in .*/attempt: No space left on device; [\d,]+ bytes are free there", said), said
    holder = 200  # bytes at most, in the lock's file
    for room in (rows + holder, rows + written // 2, rows + written - 100):
        said = left_whole(bench, Ask(room=room, calls="write"))
        assert re.search(r"data/split \(data/\.split\.partial/split\.\w+\): No space left on device: it needs "
                         r"more than the [\d,]+ bytes there were, and DVC's cache as many", said), said  # fmt: skip


@pytest.mark.parametrize(
    ("number", "calls", "at", "advice"),
    [
        (errno.EIO, "write", 4, "Input/output error; the disk may be failing"),
        (errno.EIO, "fsync", 1, "Input/output error; the disk may be failing"),
        (errno.EIO, "rename", 1, "Input/output error; the disk may be failing"),
        (errno.EDQUOT, "write", 4, "Disk quota exceeded: it needs"),
        (errno.EROFS, "open", 3, "Read-only file system; mount the file system writable"),
        (errno.EACCES, "open", 2, "Permission denied; let this user write there"),
        (errno.EMFILE, "open", 3, "Too many open files; raise the limit on open files"),
        (errno.EACCES, "mkdir", 2, "Permission denied; let this user write there"),
    ],
)
def test_a_call_fails(bench: Bench, number: int, calls: str, at: int, advice: str) -> None:
    """The first of its kind that has to do with the output, or its lock."""
    said = left_whole(bench, Ask(at=at, do=str(number), calls=calls))
    assert advice in said
    assert "data/" in said


@pytest.mark.parametrize("more", [0, 1, 16])  # MiB than what was mapped at the start
def test_little_memory(bench: Bench, more: int) -> None:
    """RLIMIT_AS; benchmarks/disk_sweep.py has larger sizes, at which libraries may end the process by a signal."""
    said = left_whole(bench, Ask(memory=more))
    assert re.search(r"out of memory \(.*; at most [\d,]+ bytes were resident, its limit is [\d,]+ bytes\); free", said)


# Fills the memory with what the error's traceback keeps alive.
GREEDY = """
import resource
from pathlib import Path
from stages.store import process

def main():
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + 2**25,) * 2)
    held = None
    for size in (2**20, 2**16, 2**12, *range(1024, 0, -8)):  # each kind of block that Python and malloc have
        try:
            while True:
                held = (held, bytes(size))
        except MemoryError as error:
            last = error
    raise last

process.run("greedy", main)
"""


def test_a_stage_without_a_byte_left_can_still_say_so(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", GREEDY], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 5, done.stderr
    assert "greedy failed (exit 5): out of memory (MemoryError; " in done.stderr
    assert "Traceback" not in done.stderr


def test_c_code_that_could_not_even_say_so_is_out_of_memory_under_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    error = SystemError("<function f at 0x7f8c> returned NULL without setting an exception")
    limits = {"now": resource.RLIM_INFINITY}
    monkeypatch.setattr(machine_faults.resource, "getrlimit", lambda _: (limits["now"], limits["now"]))
    assert machine_faults.of(error) is None
    limits["now"] = 2**30
    assert "out of memory (<function f" in str(machine_faults.of(error))
    assert machine_faults.of(SystemError("unknown opcode")) is None


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("disk I/O error", "Input/output error; the disk may be failing"),
        ("database or disk is full", "No space left on device; "),
        ("attempt to write a readonly database", "Read-only file system; mount the file system writable"),
        ("unable to open database file", "Permission denied; let this user write there"),
    ],
)
def test_sqlites_words_for_a_disk(said: str, advice: str) -> None:
    """DVCLive opens DVC's databases in fine_tune; the real errors are swept by benchmarks/disk_sweep.py."""
    assert advice in str(machine_faults.of(sqlite3.OperationalError(said)))
    assert machine_faults.of(sqlite3.OperationalError("no such table: Cache")) is None
    assert machine_faults.of(RuntimeError(said)) is None


def test_dvc_with_a_read_only_cache(toy_goal: Goal, warm_dvc: Warm, tmp_path: Path) -> None:
    """DVC fails; the command again, once it may write, comes to what it would have come to."""
    checkout, run, log = tmp_path / "checkout", Forks(warm_dvc, ["repro"]), tmp_path / "log"
    shutil.copytree(toy_goal.before, checkout, symlinks=True)
    cache = checkout / ".dvc" / "cache"
    cache.mkdir(exist_ok=True)
    before = sha256_of_tree(cache)
    if subprocess.run(["mount", "--bind", cache, cache], capture_output=True).returncode:
        pytest.skip("mounting a file system needs root, or CAP_SYS_ADMIN")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", cache], check=True)
        code, said = run.run(checkout, toy_goal.variables(checkout), None, log)
        assert code != 0
        assert "Read-only file system" in said
        assert sha256_of_tree(cache) == before
    finally:
        subprocess.run(["umount", "-l", cache], check=True)
    code, said = run.run(checkout, toy_goal.variables(checkout), None, log)
    assert code == 0, said
    assert (checkout / "dvc.lock").read_text() == toy_goal.lock
    assert {out: sha256_of_tree(checkout / out) for out in toy_goal.made} == toy_goal.made


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 256 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a file system needs root, or CAP_SYS_ADMIN")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_really_full_disk(small_disk: Path) -> None:
    """As above with the kernel's own ENOSPC, and libraries that write by themselves: h5py says why in words alone."""
    import h5py

    target = small_disk / "data" / "stage"
    target.mkdir(parents=True)
    (target / "old").write_text("old")

    def fill(by_h5py: bool) -> None:
        with outputs.replacing(target) as (out,):
            if by_h5py:
                with h5py.File(out / "weights.h5", "w") as file:
                    file["x"] = np.zeros(10**6, np.uint8)
            (out / "big").write_bytes(bytes(10**6))

    for by_h5py, name in ((False, "big"), (True, "weights.h5")):
        with pytest.raises(EnvironmentFault, match=rf"stage \(.*{name}\): No space left on device: it needs more than"):
            fill(by_h5py)
        assert [path.name for path in target.iterdir()] == ["old"]
        assert [path.name for path in target.parent.iterdir()] == ["stage"]
    with outputs.replacing(target) as (out,):
        (out / "new").write_text("new")
    assert [path.name for path in target.iterdir()] == ["new"]


def test_memory_that_is_not_there_is_exit_5_not_a_defect(tmp_path: Path) -> None:
    """A limit on address space, met inside the stage."""
    code = (
        "import resource\nimport numpy as np\nfrom stages.store import process\n"
        "def main():\n"
        "    resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31))\n"
        "    return str(np.ones(2**33, np.uint8).sum())\n"
        "process.run('work', main)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 5, done.stderr
    expected = (
        r"work failed \(exit 5\): out of memory \(Unable to allocate 8.*its limit is 2,147,483,648 bytes\); "
        r"free some memory or raise its limit"
    )
    assert re.match(expected, done.stderr), done.stderr


def test_a_file_that_cannot_be_read_is_no_damaged_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit 4 says that bytes are wrong; where they could not be read, nothing says so."""
    path = tmp_path / "classes.json"
    path.write_text("[")
    with pytest.raises(IntegrityError) as damaged:
        documents.read(path)
    assert machine_faults.of(damaged.value) is None

    def fails(*_: object, **__: object) -> str:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    monkeypatch.setattr(Path, "read_text", fails)
    with pytest.raises(IntegrityError) as unread:
        documents.read(path)
    assert f"{path}: Input/output error; the disk may be failing" in str(machine_faults.of(unread.value))


def test_a_defect_stays_a_defect(tmp_path: Path) -> None:
    for error in (ValueError("no"), OSError("no errno"), FileNotFoundError(errno.ENOENT, "gone", "x"), KeyError("k")):
        assert machine_faults.of(error) is None
        with pytest.raises(type(error)), outputs.replacing(tmp_path / "out"):
            raise error


MEMO = """
import sys
import numpy as np
from pathlib import Path
from stages.store.hashes import sha256_of_tree
from stages.store.tensor_memo import TensorMemo

memo = TensorMemo(Path("memo"), (4,), np.float32)
number = int(sys.argv[1])
memo.add([bytes([number]) * 32], np.full((1, 4), number, np.float32))
memo.close()
"""


@pytest.mark.parametrize("ask", [Ask(at=2, do=str(errno.ENOSPC), sticky=True), Ask(at=4, do=str(errno.EIO)), Ask(at=3)],
                         ids=["full", "failing", "killed"])  # fmt: skip
def test_the_memo_survives(ask: Ask, library: Path, tmp_path: Path) -> None:
    """What was kept before is there, what was being written is whole or not there."""
    for number in (1, 2):
        more = ask.environment(library, "TensorMemo", tmp_path, tmp_path.parent / "memo.log") if number == 2 else {}
        done = subprocess.run(
            [sys.executable, "-c", MEMO, str(number)], cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), **more}, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == (-9 if more and ask.do == "kill" else 0), done.stderr
    found = {}
    for positions, rows in TensorMemo(tmp_path / "memo", (4,), np.float32).take([bytes([n]) * 32 for n in (1, 2)]):
        found.update(zip((positions + 1).tolist(), rows.tolist(), strict=True))
    assert found[1] == [1.0] * 4
    assert found.get(2, [2.0] * 4) == [2.0] * 4
