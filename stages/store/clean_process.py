"""Runs a script where nothing of this project can be imported, as where an exported model is served."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from stages.core.errors import EnvironmentFault

# First in the script: ask Linux to end it with the process that started it. lifeline cannot be imported there.
TIED = """
import ctypes, os, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL
    if os.getppid() != {parent}:
        sys.exit(137)
"""
LAST = 5  # lines of what it said on standard error
SETTINGS = {"TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow"}


class Ended(EnvironmentFault):
    """It ended with an error: `code` as subprocess gives it, below 0 for a signal.

    `said` is what it wrote to standard error, `last` the last lines of that.
    """

    def __init__(self, model: Path, code: int, said: str) -> None:
        last = said.strip().splitlines()[-LAST:]
        super().__init__(f"{model}: the exported model does not run in a clean process:\n" + "\n".join(last))
        self.code, self.said, self.last = code, said, last


def run(script: str, arguments: list[str], *, model: Path, seconds: float, given: str = "") -> str:
    """Standard output of Python code, run isolated (-I) in an empty folder with `given` on standard input.

    No PYTHON* variable reaches it, and it ends with this process. Raises Ended, which names `model`, where it ends
    with an error, and EnvironmentFault where it takes longer than `seconds`.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")} | SETTINGS
    # In another thread the kernel would take that thread's end for the process's.
    if threading.current_thread() is threading.main_thread():
        script = TIED.format(parent=os.getpid()) + script
    with tempfile.TemporaryDirectory() as empty:
        try:
            done = subprocess.run(
                [sys.executable, "-I", "-c", script, *arguments],
                input=given, capture_output=True, text=True, cwd=empty, env=environment, timeout=seconds,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise EnvironmentFault(f"{model}: the exported model gave no answer in {seconds:g} s") from None
    if done.returncode != 0:
        raise Ended(model, done.returncode, done.stderr)
    return done.stdout
