"""Ends what a run leaves behind when it is killed, Prefect's temporary server above all.

Prefect stops that server as Python exits. After a SIGKILL it would go on for ever, one for each killed run.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import subprocess
import sys
import uuid

MARK = "GRAFT_RUN"
# Reads until its standard input ends, which it does when the run does, however; a run that ended by itself says so
# first. Whoever bears a killed run's mark is of no use to anybody; looked for until there is none, for one may be
# starting another.
PROGRAM = """
import sys
name, mark = sys.argv[1:]
if sys.stdin.buffer.read():
    sys.exit()
import psutil
left = True
while left:
    left = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(name) == mark and process.status() != psutil.STATUS_ZOMBIE:
                process.kill()
                left.append(process)
        except (psutil.Error, OSError):
            continue
    psutil.wait_procs(left, timeout=1)
"""


def tether() -> None:
    """From now on, all that this process starts and leaves running is killed as soon as this process was killed.

    They are told by a variable of the environment, so also what others start on this process's behalf is found.
    """
    mark = uuid.uuid4().hex
    command = [sys.executable, "-c", PROGRAM, MARK, mark]
    guard = subprocess.Popen(
        command, env={name: value for name, value in os.environ.items() if name != MARK}, cwd=os.sep,
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for the run; the guard ends after it
    )  # fmt: skip
    os.environ[MARK] = mark
    atexit.register(_ended, guard)


def _ended(guard: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(BrokenPipeError, subprocess.TimeoutExpired):
        guard.communicate(b"ended", timeout=10)
