"""A stage's process: how it ends, what it prints without a terminal, and that it dies with DVC. Real processes."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stages.store import process
from stages.store.learning_curves import LearningCurves, shares
from tests.waiting import wait_for

ROOT = Path(__file__).parents[2]
# A stage that says its number, then works for a minute with a folder half written.
STAGE = """
import os, pathlib, signal, time
from stages.store import outputs, process
signal.signal(signal.SIGINT, signal.default_int_handler)  # the runner of the tests may have it ignored
def main():
    with outputs.replacing(pathlib.Path("out")) as (out,):
        (out / "half").write_text("")
        pathlib.Path("pid.new").write_text(str(os.getpid()))
        pathlib.Path("pid.new").rename("pid")
        time.sleep(60)
    return "done"
process.run("work", main)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the stage runs; `stage.py` is its code."""
    (tmp_path / "stage.py").write_text(STAGE)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("DVC_STAGE", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def stage_pid(folder: Path) -> int:
    """The stage's number, once it works."""
    assert wait_for((folder / "pid").exists, 120)
    return int((folder / "pid").read_text())


def alive(pid: int) -> bool:
    """Whether a process runs; one that only waits to be collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Parents to clean up after, whatever a test did."""
    parents: list[subprocess.Popen[bytes]] = []
    yield parents
    for parent in parents:
        parent.kill()
        parent.wait()
        for stream in (parent.stdout, parent.stderr):
            if stream:
                stream.close()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_cleanly_in_one_line(number: int, code: int, folder: Path) -> None:
    stage = subprocess.Popen([sys.executable, "stage.py"], stderr=subprocess.PIPE, text=True)
    stage_pid(folder)
    assert (folder / ".out.partial" / "half").exists()
    stage.send_signal(number)
    _, printed = stage.communicate(timeout=40)
    assert printed == f"work stopped (exit {code}); run it again to go on\n"
    assert stage.returncode == code
    assert not list(folder.glob("*out*"))


needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
DIRECT = "[sys.executable, 'stage.py']"
BEHIND_A_SHELL = "['/bin/sh', '-c', sys.executable + ' stage.py; true']"  # two commands, so the shell stays


def parent(command: str) -> list[str]:
    """A process that starts `command` and waits, as dvc does."""
    return [sys.executable, "-c", f"import subprocess, sys; subprocess.run({command})"]


@needs_proc
@pytest.mark.parametrize("command", [DIRECT, BEHIND_A_SHELL], ids=["direct", "behind a shell"])
def test_killed_dvc_takes_its_stage_along(
    command: str, folder: Path, started: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DVC_STAGE", "work")
    started.append(subprocess.Popen(parent(command), start_new_session=True))
    pid = stage_pid(folder)
    assert alive(pid)
    started[0].kill()
    assert wait_for(lambda: not alive(pid), 20)


@needs_proc
def test_a_stage_whose_dvc_is_gone_before_it_looks_ends_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_STAGE", "work")
    (folder / "late.py").write_text("import time\ntime.sleep(0.5)\n" + STAGE)
    # The parent returns at once; whoever adopts its child has another session.
    code = (
        "import subprocess, sys; "
        # Held by the child too, the pipe would be open, and this test wait, until the child has ended.
        "print(subprocess.Popen([sys.executable, 'late.py'], stdout=subprocess.DEVNULL).pid)"
    )
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True)
    pid = int(done.stdout)
    assert alive(pid)
    assert wait_for(lambda: not alive(pid), 20)
    assert not (folder / "pid").exists()


@needs_proc
def test_a_stage_run_by_hand_outlives_its_parent(folder: Path, started: list[subprocess.Popen[bytes]]) -> None:
    started.append(subprocess.Popen(parent(DIRECT), start_new_session=True))
    pid = stage_pid(folder)
    started[0].kill()
    started[0].wait()
    try:
        assert not wait_for(lambda: not alive(pid), 1.5)
    finally:
        os.kill(pid, signal.SIGTERM)
    assert wait_for(lambda: not alive(pid), 20)


@needs_proc
@pytest.mark.parametrize("shell", ["/bin/sh", "/bin/bash"])
def test_real_dvc_killed_takes_its_stage_along(
    shell: str, folder: Path, started: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    if not shutil.which(shell):
        pytest.skip(f"has no {shell}")
    monkeypatch.setenv("SHELL", shell)
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    dvc = [sys.executable, "-m", "dvc"]
    subprocess.run([*dvc, "init", "--no-scm", "-q"], check=True)
    (folder / "dvc.yaml").write_text(f"stages:\n  work:\n    cmd: {sys.executable} stage.py\n")
    started.append(subprocess.Popen([*dvc, "repro", "-q"], start_new_session=True))
    pid = stage_pid(folder)
    started[0].kill()
    assert wait_for(lambda: not alive(pid), 20)


def test_without_prctl_a_thread_watches_the_parent(folder: Path, started: list[subprocess.Popen[bytes]],
                                                   monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setenv("DVC_STAGE", "work")
    (folder / "stage.py").write_text(
        "from stages.store import lifeline\nlifeline._signal_on_parent_death = lambda: False\n" + STAGE
    )
    started.append(subprocess.Popen(parent(DIRECT), start_new_session=True))
    pid = stage_pid(folder)
    time.sleep(0.2)
    assert alive(pid)
    started[0].kill()
    assert wait_for(lambda: not alive(pid), 20)


def printed_by(code: str) -> list[str]:
    """The lines that a stage with this body of `main` writes to stderr."""
    lines = "".join(f"    {line}\n" for line in code.splitlines())
    script = f"from stages.store import process\ndef main():\n{lines}    return 'done'\nprocess.run('work', main)\n"
    done = subprocess.run([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True, check=True, timeout=120)
    return done.stderr.splitlines()


@pytest.mark.parametrize(
    ("items", "total", "lines"),
    [
        (1280, 1280, [f"work: {tenth * 10} % rows ({tenth * 128}/1280)" for tenth in range(1, 11)]),
        (3, 3, ["work: 33 % rows (1/3)", "work: 66 % rows (2/3)", "work: 100 % rows (3/3)"]),
        (25, 25, None),
        (5, 0, []),
        (5, 4, ["work: 25 % rows (1/4)", "work: 50 % rows (2/4)", "work: 75 % rows (3/4)", "work: 100 % rows (4/4)"]),
        (0, 10, []),
    ],
)
def test_without_a_terminal_progress_is_a_line_per_tenth(
    items: int, total: int, lines: list[str] | None, folder: Path
) -> None:
    printed = printed_by(f"assert list(process.progress(range({items}), 'rows', {total})) == list(range({items}))")
    assert printed[-1] == "work: done"
    if lines is None:
        assert len(printed) == 11
        assert all(re.fullmatch(r"work: \d+ % rows \(\d+/25\)", line) for line in printed[:-1])
    else:
        assert printed[:-1] == lines


def test_progress_passes_an_error_through_and_items_one_by_one() -> None:
    seen: list[int] = []

    def source() -> Iterator[int]:
        yield 1
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        seen.extend(process.progress(source(), "rows", 2))
    assert seen == [1]


def test_curves_say_the_share_of_all_phases_and_never_fall(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    spans = shares({"head": 20, "tail": 10, "from_scratch": 0})
    logs = {"loss": 1.0, "accuracy": 0.5, "val_loss": 1.0, "val_accuracy": 0.9642, "learning_rate": 0.1}
    with LearningCurves(tmp_path / "report") as curves:
        curves.phase("head", 20, spans["head"])
        for epoch in range(12):  # stops early
            curves.epoch(logs, replayed=epoch < 5)
        curves.phase("tail", 10, spans["tail"])
        for _ in range(10):
            curves.epoch(logs)
    assert caplog.messages[:3] == [
        "20 % head epoch 6 of 20, val accuracy 0.9642",
        "30 % head epoch 9 of 20, val accuracy 0.9642",
        "40 % head epoch 12 of 20, val accuracy 0.9642",
    ]
    assert caplog.messages[-1] == "100 % tail epoch 10 of 10, val accuracy 0.9642"
    percents = [int(message.split()[0]) for message in caplog.messages]
    assert percents == sorted(percents)
    assert len(percents) == len({percent // 10 for percent in percents})
    rows = (tmp_path / "report/plots/metrics/val/accuracy.tsv").read_text().splitlines()
    assert len(rows) == 1 + 12 + 10
