"""DVC's settings and locks: what would keep a run from starting, or make a kill leave the project locked."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from commands.checks.finding import Finding, ok, problem, some, warning
from flows import rwlock
from stages.core.errors import Busy, ConfigError, EnvironmentFault


def settings(root: Path) -> Iterator[Finding]:
    """core.hardlink_lock, in whichever of DVC's four configuration files it is."""
    if config(root)["core"].get("hardlink_lock"):
        yield problem(
            "dvc settings",
            ConfigError,
            "core.hardlink_lock is on: a killed process leaves DVC locked for good",
            "dvc config --unset core.hardlink_lock; rm -f .dvc/tmp/lock",
        )
    else:
        yield ok("dvc settings", "locks are the kernel's and end with their process")


def locks(root: Path, repair: bool) -> Iterator[Finding]:
    """Who holds the checkout or DVC's files, and whether DVC can read its own record of that."""
    unreadable = not rwlock.readable(root / ".dvc" / "tmp" / "rwlock")
    if unreadable and repair:
        unreadable = not rwlock.mend(root)
        yield ok("locks", "the cut-off .dvc/tmp/rwlock was removed")
    if unreadable:
        yield problem(
            "locks",
            EnvironmentFault,
            ".dvc/tmp/rwlock was cut off by a kill: every `dvc repro` refuses it",
            "graft doctor --repair (flows do it by themselves)",
        )
    held = []
    for path, what in ((root / ".graft" / "checkout.lock", "the checkout"), (root / ".dvc" / "tmp" / "lock", "DVC")):
        if _held(path):
            who = path.read_text(errors="replace").strip()
            held.append(f"{what} is in use by {f'pid {who}' if who.isdigit() else who or 'another process'}")
    dead = []
    for name, pid, command, holds in rwlock.users(root / ".dvc" / "tmp" / "rwlock"):
        place = Path(name).relative_to(root) if Path(name).is_relative_to(root) else Path(name)
        if holds:
            held.append(f"{place} is in use by pid {pid} ({command})")
        else:
            dead.append(f"{place} (pid {pid})")
    if held:
        yield problem("locks", Busy, "; ".join(held), "wait for it to end, or end that process; no lock needs deleting")
    if dead:
        yield warning(
            "locks",
            f"a killed process left its mark on {some(dead)}",
            "nothing: the next `dvc repro` runs those stages again and drops it",
        )
    if not (held or dead or unreadable):
        yield ok("locks", "nobody holds the checkout or DVC's files")


def config(root: Path) -> Any:
    """DVC's settings: system, user, project, local."""
    from dvc.config import Config

    folder = str(root / ".dvc")
    return Config(folder, local_dvc_dir=folder)


def _held(path: Path) -> bool:
    """Whether a living process has locked this file; it is let go at once where none has."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
