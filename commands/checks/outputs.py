"""What dvc.lock records: is it in DVC's cache and, with `--deep`, are cache and outputs the bytes recorded?

DVC believes any cache object that is read-only, and any output whose size and time are as it left them.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from commands.checks.finding import Finding, ok, problem, some, warning
from flows.remote_objects import Recorded
from stages.core.errors import IntegrityError

if TYPE_CHECKING:
    from dvc.repo import Repo

NAME = "outputs"


def recorded(root: Path, deep: bool) -> Iterator[Finding]:
    """Cache objects by name, or with `deep` by their bytes, and then the outputs in the working tree, too."""
    from flows import remote_objects, verified

    with verified.project(root) as repo:
        objects = remote_objects.recorded(repo)
        if not objects:
            yield ok(NAME, "nothing is recorded yet; dvc repro")
            return
        each = remote_objects.once(objects)
        here = [one for one in each if remote_objects.cached(repo, one.md5).is_file()]
        absent = [one.path for one in each if one not in here]
        read = here if deep else []
        flipped = [one for one in read if not remote_objects.is_whole(remote_objects.cached(repo, one.md5), one.md5)]
        for one in flipped:
            path = os.path.relpath(remote_objects.cached(repo, one.md5), root)
            yield problem(
                NAME,
                IntegrityError,
                f"cache object {path}, recorded as {one.path}: other bytes than its name says",
                f"rm -f {path}; then `dvc fetch` brings it from the remote; without one, `dvc commit --force` from the "
                "output, if no other finding doubts that, or else `dvc repro --force`",
            )
        changed = list(_changed(root, objects)) if deep else []
        if changed:
            yield from _judged(repo, changed)
    if absent:
        yield warning(
            NAME,
            f"{len(absent)} of {len(each)} recorded objects are not in DVC's cache: {some(absent)}",
            "dvc fetch, or dvc repro",
        )
    if not (flipped or changed or absent):
        how = "and the outputs have the bytes recorded" if deep else "are in DVC's cache; --deep reads them all"
        yield ok(NAME, f"{len(each)} recorded objects {how}")


def _changed(root: Path, objects: list[Recorded]) -> Iterator[str]:
    """Files of the working tree with other bytes than dvc.lock records; those that are not there are DVC's to tell."""
    from flows.remote_objects import is_whole

    for one in objects:
        path = root / one.path
        if not one.is_listing and path.is_file() and not is_whole(path, one.md5):
            yield one.path


def _judged(repo: Repo, changed: list[str]) -> Iterator[Finding]:
    """DVC sees an edited output and makes it again; one that it takes for unchanged would be used."""
    entries = [entry for stage in repo.status().values() for entry in stage if isinstance(entry, dict)]
    seen = {path for entry in entries for path in entry.get("changed outs", {})}
    kinds: dict[bool, list[str]] = defaultdict(list)
    for path in changed:
        kinds[any(path == out or path.startswith(f"{out}/") for out in seen)].append(path)
    if kinds[True]:
        yield warning(NAME, f"{some(kinds[True])}: not as recorded; DVC sees that", "dvc checkout, or dvc repro")
    if kinds[False]:
        yield problem(
            NAME,
            IntegrityError,
            f"{some(kinds[False])}: other bytes than recorded, and DVC takes them for unchanged",
            f"rm -f {some(kinds[False])}; dvc checkout",
        )
