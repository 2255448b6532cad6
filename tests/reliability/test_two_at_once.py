"""Two runs at once, and locks whose holder is gone: one writer per output, and no file to delete by hand."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from benchmarks.kill_points import Goal
from flows import checkout, lock_file, mending, rwlock
from stages.core.errors import Busy
from stages.store import outputs, writer_lock
from stages.store.hashes import sha256_of_tree
from tests.waiting import wait_for

ROOT = Path(__file__).parents[2]
# A stage that waits, its folder half written, until a file tells it to go on.
STAGE = """
import sys, time
from pathlib import Path
from stages.store import outputs, process, writer_lock

def main():
    with outputs.replacing(Path("data/out")) as (out,):
        (out / "first").write_text(sys.argv[1])
        Path(f"started-{sys.argv[1]}").touch()
        while not Path("go").exists():
            time.sleep(0.02)
        (out / "second").write_text(sys.argv[1])
    return "done"

writer_lock.held.__wrapped__.__defaults__ = (float(sys.argv[2]),)
process.run("work", main)
"""


def started(folder: Path, name: str, wait: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", STAGE, name, str(wait)], cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_a_second_writer_of_an_output_is_refused_or_waits(tmp_path: Path) -> None:
    with started(tmp_path, "one", 0) as one:
        assert wait_for((tmp_path / "started-one").exists, 60)
        with started(tmp_path, "two", 0) as two:
            _, said = two.communicate(timeout=60)
        assert two.returncode == 6
        holder = rf"pid {one.pid} on {re.escape(socket.gethostname())} since .*Run again when that has ended"
        assert re.search(rf"work failed \(exit 6\): data/out is being written by {holder}", said), said
        assert (tmp_path / "data/.out.partial/first").read_text() == "one", "the first one's folder is as it was"
        with started(tmp_path, "three", 60) as three:
            (tmp_path / "go").touch()
            assert one.wait(60) == 0
            assert three.wait(60) == 0
    assert {path.name: path.read_text() for path in (tmp_path / "data/out").iterdir()} == {
        "first": "three", "second": "three",
    }  # fmt: skip
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["out"]


def test_a_killed_writer_holds_nothing(tmp_path: Path) -> None:
    with started(tmp_path, "one", 0) as one:
        assert wait_for((tmp_path / "started-one").exists, 60)
        one.kill()
    assert {path.name for path in (tmp_path / "data").iterdir()} == {".out.partial", ".out.lock.partial"}
    with outputs.replacing(tmp_path / "data" / "out") as (out,):
        (out / "new").write_text("new")
    assert [path.name for path in (tmp_path / "data").rglob("*")] == ["out", "new"]


def test_a_lock_names_its_holder_until_it_is_let_go(tmp_path: Path) -> None:
    with writer_lock.held(tmp_path / "out", wait=0):
        text = (tmp_path / ".out.lock.partial").read_text()
        assert text.startswith(f"pid {os.getpid()} on {socket.gethostname()} since ")
        with pytest.raises(Busy, match=f"pid {os.getpid()} on"), writer_lock.held(tmp_path / "out", wait=0):
            pass
        with writer_lock.held(tmp_path / "other", wait=0):
            pass
    assert list(tmp_path.iterdir()) == []


def test_what_a_checkouts_lock_says_of_another_host_or_a_dead_process_holds_nobody_up(tmp_path: Path) -> None:
    folder = tmp_path / ".graft"
    folder.mkdir()
    (folder / "checkout.lock").write_text("flow run old-otter (pid 1 on elsewhere, since 2020-01-01 00:00:00)")
    with checkout.held(tmp_path, 0, "flow run new-newt", lambda text: pytest.fail(text)):
        assert (folder / "checkout.lock").read_text().startswith(f"flow run new-newt (pid {os.getpid()} on ")


def dvc(goal: Goal, folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "dvc", *arguments], cwd=folder, env={**os.environ, **goal.variables(folder)},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


@pytest.fixture
def project(toy_goal: Goal, tmp_path: Path) -> Path:
    """The toy DVC project, before it ran."""
    import shutil

    return Path(shutil.copytree(toy_goal.before, tmp_path / "project", symlinks=True))


@pytest.mark.slow
def test_two_dvc_repro_at_once_come_to_what_one_makes(toy_goal: Goal, project: Path) -> None:
    """DVC itself names the other by its pid and gives up."""
    wait = "cmd: touch run; while [ ! -e go ]; do sleep 0.1; done; mkdir -p data/first"
    text = (project / "dvc.yaml").read_text()
    (project / "dvc.yaml").write_text(text.replace("cmd: mkdir -p data/first", wait))
    with dvc(toy_goal, project, "repro") as one:
        assert wait_for((project / "run").exists, 60)
        with dvc(toy_goal, project, "repro") as two:
            said, _ = two.communicate(timeout=120)
        (project / "go").touch()
        assert one.wait(120) == 0
    assert two.returncode == 255, "DVC's own code"
    assert re.search(rf"is busy, it is being blocked by:\s+\(PID {one.pid}\)", said), said
    for out, files in toy_goal.made.items():
        assert sha256_of_tree(project / out) == files
    with dvc(toy_goal, project, "repro") as again:
        said, _ = again.communicate(timeout=120)
    assert again.returncode == 0
    assert said.count("didn't change, skipping") == 2, said


def record(pid: int, command: str) -> str:
    """What DVC notes while a process writes one path and reads another."""
    one = {"pid": pid, "cmd": command}
    return json.dumps({"write": {"/x/data/first": one}, "read": {"/x/given.txt": [one]}})


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    (tmp_path / ".dvc" / "tmp").mkdir(parents=True)
    return tmp_path / ".dvc" / "tmp" / "rwlock"


def test_a_record_of_a_living_holder_is_left_alone(notes: Path, tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", "repro", "-s", "split"]) as holder:
        notes.write_text(record(holder.pid, "/some/where/dvc/__main__.py repro -s split"))
        text = notes.read_text()
        assert wait_for(lambda: "split" in psutil.Process(holder.pid).cmdline(), 10)
        assert not rwlock.mend(tmp_path)
        assert notes.read_text() == text
        holder.kill()
        holder.wait()
        assert rwlock.mend(tmp_path), "a dead one's is dropped"
    assert json.loads(notes.read_text()) == {"write": {}, "read": {}}


@pytest.mark.parametrize("pid", [os.getpid(), os.getppid()], ids=["own", "parent"])  # xdist compares names
def test_a_process_that_only_has_the_holders_number_holds_nothing(pid: int, notes: Path, tmp_path: Path) -> None:
    notes.write_text(record(pid, "/some/where/dvc/__main__.py repro -s no-such-stage"))
    assert rwlock.mend(tmp_path)
    assert json.loads(notes.read_text()) == {"write": {}, "read": {}}
    assert not rwlock.mend(tmp_path)


def test_a_record_cut_at_any_byte_is_mended(notes: Path, tmp_path: Path) -> None:
    whole = record(os.getpid(), " ".join(["dvc", *psutil.Process().cmdline()[1:]]))
    for size in range(len(whole)):
        notes.write_text(whole[:size])
        assert rwlock.mend(tmp_path), size
        assert json.loads(notes.read_text()) == {}
    for other in ('{"write": {"/x": 3}}', "[]", '{"else": {}}'):
        notes.write_text(other)
        assert rwlock.mend(tmp_path), other


@pytest.mark.slow
def test_a_reused_number_stops_dvc_until_it_is_mended(toy_goal: Goal, project: Path) -> None:
    path = project / ".dvc" / "tmp" / "rwlock"
    held = {"pid": os.getpid(), "cmd": "dvc repro -s long-gone"}
    path.write_text(json.dumps({"write": {str(project / "data" / "first"): held}}))
    with dvc(toy_goal, project, "repro") as blocked:
        said, _ = blocked.communicate(timeout=120)
    assert blocked.returncode != 0
    assert "is busy" in said
    assert mending.mend(project, thoroughly=False) == [
        ".dvc/tmp/rwlock named processes that hold nothing, or was cut; they are dropped"
    ]
    with dvc(toy_goal, project, "repro") as free:
        free.communicate(timeout=120)
    assert free.returncode == 0
    assert (project / "dvc.lock").read_text() == toy_goal.lock


def test_a_lock_file_that_dvc_is_writing_is_left_to_it(tmp_path: Path) -> None:
    from dvc.lock import make_lock

    (tmp_path / ".dvc" / "tmp").mkdir(parents=True)
    (tmp_path / "dvc.lock").write_text("schema: '2")
    began = time.monotonic()
    with make_lock(str(tmp_path / ".dvc" / "tmp" / "lock"), tmp_dir=str(tmp_path / ".dvc" / "tmp")):
        assert not lock_file.mend(tmp_path)
    assert time.monotonic() > began
    assert lock_file.mend(tmp_path)
    assert not (tmp_path / "dvc.lock").exists(), "there is no committed one"
