"""One writer per output: the kernel's lock, so it is gone with the process that held it, however that ended.

A stage that DVC started is also kept apart by DVC's and the flow's locks. This one holds where those do not reach: two
stages started by hand, `graft add` beside a run, or a killed run's process that is not gone yet.
"""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from stages.core.errors import Busy

WAIT = 20.0  # seconds; a process whose parent was killed ends within one


@contextmanager
def held(target: Path, wait: float = WAIT) -> Iterator[None]:
    """Hold the output `target`, waiting up to `wait` seconds for another writer; then raises Busy, which names it.

    The lock is of a file beside it, `.<name>.lock.partial`, that goes when it is let go. One that a killed process
    left is taken over. Where the file system has no locks there is none.
    """
    path = target.with_name(f".{target.name}.lock.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + wait
    while True:
        with path.open("a+") as file:
            if not _taken(file, path):
                holder = _holder(file)
                if time.monotonic() >= deadline:
                    raise Busy(
                        f"{target} is being written by {holder}; waited {wait:g} s. Run again when that has ended"
                    )
            elif _is_there(file, path):
                file.truncate(0)
                file.write(f"pid {os.getpid()} on {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M:%S')}")
                file.flush()
                try:
                    yield
                finally:
                    with suppress(OSError):
                        path.unlink(missing_ok=True)
                return
        time.sleep(0.1)


def _taken(file: IO[str], path: Path) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True  # some network file systems have no locks
    return True


def _is_there(file: IO[str], path: Path) -> bool:
    """Whether the file is still the one of that name: who held it before removes it when it lets go."""
    try:
        return os.fstat(file.fileno()).st_ino == path.stat().st_ino
    except FileNotFoundError:
        return False


def _holder(file: IO[str]) -> str:
    file.seek(0)
    return file.read().strip() or "another process"
