"""A stage that DVC started dies with DVC.

Killing dvc does not kill the command it runs: without this a stage would go on writing into a
workspace whose lock is free again. On Linux the kernel sends the signal (PR_SET_PDEATHSIG);
elsewhere, and where a shell stays between DVC and the stage, a thread watches.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

PR_SET_PDEATHSIG = 1
SHELLS = {"sh", "ash", "bash", "busybox", "csh", "dash", "fish", "ksh", "mksh", "tcsh", "zsh"}
PERIOD = 0.5  # seconds between two looks of a watching thread


def tie() -> None:
    """From now on, end this process with SIGKILL when its parent, or DVC above a shell, is gone.

    Only as a DVC stage, which DVC says by DVC_STAGE: what people start by hand may outlive its terminal.
    """
    if "DVC_STAGE" not in os.environ or os.name != "posix":
        return
    parent = os.getppid()
    if not _signal_on_parent_death():
        _watch(os.getppid, parent)
    elif _name(parent) in SHELLS:
        # dash and bash replace themselves by a single command; a shell that did not can outlive DVC.
        _watch(lambda: _parent_of(parent), _parent_of(parent))
    if os.getppid() != parent or _adopted(parent):
        _die()  # the parent went before the kernel or the thread looked


def end_with_parent(parent: int) -> None:
    """From now on, end this process with SIGKILL when `parent`, the process that started it, is gone.

    Linux means the thread that started it: call this only where that is the parent's main thread.
    """
    if not _signal_on_parent_death():
        _watch(os.getppid, parent)
    if os.getppid() != parent:
        _die()  # the parent went before the kernel or the thread looked


def _signal_on_parent_death() -> bool:
    """Ask Linux for SIGKILL when the thread that started this process ends; False where it cannot be asked."""
    if sys.platform != "linux":
        return False
    return int(ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)) == 0


def _adopted(parent: int) -> bool:
    """Whether `parent` is an init or service manager that took this process over: those have another session.

    A container's first process may be DVC itself, so number 1 alone proves nothing.
    """
    try:
        return os.getsid(parent) != os.getsid(0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False


def _name(pid: int) -> str:
    """The program a process runs, without its folder; empty where it is gone."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip().lstrip("-")
    except OSError:
        return ""


def _parent_of(pid: int) -> int:
    """The parent's number; 0 where the process is gone."""
    try:
        # The name, in brackets, may hold anything; state and parent come after it.
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _watch(look: Callable[[], int], expected: int) -> None:
    def forever() -> None:
        while look() == expected:
            time.sleep(PERIOD)
        _die()

    threading.Thread(target=forever, name="lifeline", daemon=True).start()


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
