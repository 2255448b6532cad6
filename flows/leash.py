"""Processes that do not outlive the one that started them."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence

import psutil

# Run first in the child: ask Linux for a signal when the parent dies however it dies, and only then become the
# command; the request survives exec. Where there is no such call, who starts a process must end it.
PROGRAM = """
import os, sys
if sys.platform == "linux":
    import ctypes
    ctypes.CDLL(None, use_errno=True).prctl(1, int(sys.argv[2]))  # PR_SET_PDEATHSIG
    if os.getppid() != int(sys.argv[1]):
        sys.exit(128 + int(sys.argv[2]))
os.execvp(sys.argv[3], sys.argv[3:])
"""


def leashed(command: Sequence[str], number: signal.Signals) -> list[str]:
    """The command line of `command`, which will get the signal `number` when this process dies."""
    return [sys.executable, "-S", "-E", "-c", PROGRAM, str(os.getpid()), str(int(number)), *command]


def kill_tree(pid: int) -> None:
    """SIGKILL a process and all its descendants.

    All are found first, or they would be orphaned unseen; the parent goes first, or it would begin to
    tidy up after its child and be cut in the middle of that.
    """
    try:
        root = psutil.Process(pid)
        kill([root, *root.children(recursive=True)])
    except psutil.NoSuchProcess:
        return


def kill(processes: Sequence[psutil.Process], seconds: float = 10) -> None:
    """SIGKILL processes in this order, and wait up to `seconds` until they are gone."""
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(processes, timeout=seconds)
