"""Git: is this a checkout, is anything half merged, and does the last commit hold what ran?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from commands.checks.finding import Finding, ok, problem, some, warning
from flows import git
from flows.faults import Refused
from flows.recorded import LOCK
from stages.core.errors import ConfigError

FILES = (LOCK, "dvc.yaml", "params.yaml", "prefect.yaml")


def state(root: Path) -> Iterator[Finding]:
    """Conflict marks in the files a run reads, edits since the last commit, and dvc.lock tracked at all."""
    marked = [
        name for name in FILES if (root / name).is_file() and git.is_conflicted((root / name).read_bytes())
    ]
    if marked:
        yield problem(
            "git",
            ConfigError,
            f"conflict marks in {', '.join(marked)}",
            "resolve the merge; for dvc.lock take either side, then dvc repro",
        )
    try:
        edited = git.changed_files(root, [])
        tracked = git.is_tracked(root, LOCK)
    except Refused as error:
        yield warning(
            "git", f"not usable: {error}", "start in a clone: runs with a ref, lineage and promotion need git"
        )
        return
    if edited:
        yield warning(
            "git",
            f"edited since the last commit: {some(edited)}",
            "commit: runs with a ref or overrides, and GPU clones, start from the last commit",
        )
    elif (root / LOCK).is_file() and not tracked:
        yield warning("git", f"{LOCK} is not tracked", f"git add {LOCK}, and commit")
    elif not marked:
        yield ok("git", "the last commit holds what is here")
