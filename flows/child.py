"""A child process whose lines are handed on as they come, and that never outlives its parent."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

# Run first in the child: ask Linux to kill it when its parent dies, and only then become the command.
# The request survives exec. Where there is no such call the child is still ended by `run` below.
LEASH = """
import os, sys
if sys.platform == "linux":
    import ctypes
    ctypes.CDLL(None, use_errno=True).prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL
    if os.getppid() != int(sys.argv[1]):
        sys.exit(137)
os.execvp(sys.argv[2], sys.argv[2:])
"""


def run(command: Sequence[str], cwd: Path, on_line: Callable[[str], None]) -> int:
    """Run `command`, hand each line of its output (stdout and stderr, in order) to `on_line`; return its exit code.

    It stays in this process's group, so that a worker's cancellation reaches it. Whatever ends this
    call early (a signal, an error in `on_line`) kills the command with everything it started.
    """
    # The interpreter that runs this also runs the stages, wherever PATH points.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    environment = {**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1", "NO_COLOR": "1", "DVC_NO_ANALYTICS": "1"}
    # Prefect's own settings stay with the flow: a stage knows nothing of it.
    process = subprocess.Popen(
        [sys.executable, "-S", "-E", "-c", LEASH, str(os.getpid()), *command],
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        bufsize=1,
    )
    assert process.stdout is not None
    try:
        with process.stdout:
            for line in process.stdout:
                if line.strip():
                    on_line(line.rstrip())
        return process.wait()
    except BaseException:
        kill_tree(process.pid)
        process.wait()
        raise


def kill_tree(pid: int) -> None:
    """SIGKILL a process and all its descendants.

    All are found first, or they would be orphaned unseen; the parent goes first, or it would begin to
    tidy up after its child and be cut in the middle of that.
    """
    try:
        root = psutil.Process(pid)
        family = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for process in family:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(family, timeout=10)
