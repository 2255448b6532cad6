"""One long-lived process of `make up`: started on a leash, its output logged and filtered, stopped in bounded time."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

from flows.leash import kill_tree, leashed

LEVEL = re.compile(r"^[\d:.]+ \| (\w+) *\|")
LOUD = {"WARNING", "ERROR", "CRITICAL"}


class Service:
    """A process by a name; `echo` gets the lines worth showing, the file `log` gets all."""

    def __init__(
        self, name: str, command: Sequence[str], log: Path, echo: Callable[[str], None], verbose: bool
    ) -> None:
        self.name = name
        self.command = command
        self.log = log
        self.last: deque[str] = deque(maxlen=12)
        self._echo = echo
        self._verbose = verbose

    def start(self, cwd: Path) -> None:
        """Start it in a process group of its own: Ctrl-C reaches `make up` alone, which ends its services in order."""
        self.process = subprocess.Popen(
            leashed(self.command, signal.SIGTERM),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            process_group=0,
        )
        self._reader = threading.Thread(target=self._read, name=f"{self.name}'s output", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        loud = False
        assert self.process.stdout is not None
        with self.process.stdout as lines, self.log.open("w", buffering=1) as log:
            for line in lines:
                log.write(line)
                if not line.strip():
                    continue
                self.last.append(line.rstrip())
                # A traceback's lines carry no level: they belong to the line before them.
                if level := LEVEL.match(line):
                    loud = level[1] in LOUD
                if loud or self._verbose:
                    self._echo(f"{self.name}: {line.rstrip()}")

    def ended(self) -> int | None:
        """Its exit code, once it has ended."""
        return self.process.poll()

    def last_lines(self) -> list[str]:
        """What it said last, once it has ended."""
        self._reader.join(timeout=2)
        return list(self.last)

    def interrupt(self) -> None:
        """Ask it to stop."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)

    def finish(self, seconds: float) -> None:
        """Wait for it to end; what is left of it after `seconds` is killed with all it started."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            # Not waited for above, so its process id is still its own.
            kill_tree(self.process.pid)
            self.process.wait()
        self._reader.join(timeout=2)


def adopt_orphans() -> None:
    """Have whatever loses its parent below this process become its child (Linux), so that none is lost sight of."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None, use_errno=True).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER


def reap_orphans(services: Sequence[Service]) -> None:
    """Collect adopted processes that have ended."""
    own = {service.process.pid for service in services}
    for child in psutil.Process().children():
        try:
            if child.pid not in own and child.status() == psutil.STATUS_ZOMBIE:
                os.waitpid(child.pid, os.WNOHANG)
        except (psutil.NoSuchProcess, ChildProcessError):
            continue


def marked(mark: str) -> list[psutil.Process]:
    """Every other process with this environment variable (NAME=value), which whatever a service starts inherits."""
    name, value = mark.split("=", 1)
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(name) == value:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found
