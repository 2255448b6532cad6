"""A child process whose lines are handed on as they come, and that never outlives its parent."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from flows.interruption import heeded
from flows.leash import kill_tree, leashed


def run(command: Sequence[str], cwd: Path, on_line: Callable[[str], None], seconds: float | None = None) -> int:
    """Run `command`, hand each line of its output (stdout and stderr, in order) to `on_line`; return its exit code.

    After `seconds`, where given, it is killed with everything it started, and TimeoutError raised. It stays in this
    process's group, so that a worker's cancellation reaches it. Whatever ends this call early (a signal, an error in
    `on_line`) kills the command with everything it started.
    """
    # The interpreter that runs this also runs the stages, wherever PATH points.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    # Prefect's settings, its password among them, are none of a stage's business.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    # DVC runs a stage through the shell. Bash becomes the stage's process; one that stayed between the two would
    # outlive a killed DVC, and with it whatever stage does not watch out by itself.
    inherited.setdefault("SHELL", shutil.which("bash") or "/bin/sh")
    environment = {**inherited, "PATH": path, "PYTHONUNBUFFERED": "1", "NO_COLOR": "1", "DVC_NO_ANALYTICS": "1"}
    process = subprocess.Popen(
        leashed(command, signal.SIGKILL),
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
    late = threading.Event()

    def end() -> None:
        late.set()
        kill_tree(process.pid)

    timer = threading.Timer(seconds, end) if seconds is not None else None
    try:
        if timer:
            timer.daemon = True
            timer.start()
        with heeded(lambda: kill_tree(process.pid)), process.stdout:
            for line in process.stdout:
                if line.strip():
                    on_line(line.rstrip())
            code = process.wait()
        if late.is_set():
            raise TimeoutError(f"not done in {seconds:g} s")
        return code
    except BaseException:
        kill_tree(process.pid)
        process.wait()
        raise
    finally:
        if timer:
            timer.cancel()
