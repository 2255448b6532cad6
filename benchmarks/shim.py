"""Builds write_shim.c, which counts and breaks the file-system writes of one process, and says how it is asked."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).with_name("write_shim.c")


def missing() -> str | None:
    """Why there can be no shim here; None where there can."""
    import sys

    if sys.platform != "linux":
        return "the shim is of Linux"
    return None if shutil.which("gcc") else "needs gcc to build the shim of writes"


def build(folder: Path) -> Path:
    """Compile into `folder`; returns the library."""
    folder.mkdir(parents=True, exist_ok=True)
    library = folder / "write_shim.so"
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-o", library, SOURCE, "-ldl"], check=True
    )
    return library


@dataclass(frozen=True)
class Ask:
    """What the shim is to do; write_shim.c explains each. `at` 0 only counts, but for `do` "stop"."""

    at: int = 0
    do: str = "kill"
    calls: str = ""
    victim: str = ""
    room: int = -1
    sticky: bool = False
    memory: int = -1  # MiB of address space more than at the start, by RLIMIT_AS; for warm.py alone

    def environment(self, library: Path, who: str, root: Path, log: Path) -> dict[str, str]:
        """Variables for a process, or what starts it, whose command line holds `who`."""
        return {
            "LD_PRELOAD": str(library), "SHIM_WHO": who, "SHIM_ROOT": str(root), "SHIM_LOG": str(log),
            "SHIM_AT": str(self.at), "SHIM_DO": self.do, "SHIM_CALLS": self.calls, "SHIM_VICTIM": self.victim,
            "SHIM_BYTES": str(self.room), "SHIM_STICKY": str(int(self.sticky)),
        }  # fmt: skip


@dataclass(frozen=True)
class Call:
    """One line of the shim's log. `source` is what a rename moved."""

    name: str
    bytes: int
    path: str
    source: str | None


def read(log: Path) -> list[Call]:
    """The calls that were logged, in order; none where there is no log."""
    found = []
    for line in log.read_text().splitlines() if log.exists() else ():
        name, size, rest = line.split(" ", 2)
        path, _, source = rest.partition("\t")
        found.append(Call(name, int(size), path, source or None))
    return found
