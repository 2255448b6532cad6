"""Publishes a stage's folders whole: each is absent, old or new, never partial."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(*targets: Path) -> Iterator[list[Path]]:
    """Yield an empty working folder per target; on success each takes its target's place.

    On any exception the working folders are removed and the targets stay as they were. A working
    folder lies beside its target (same file system, so the rename is atomic) and is named
    `.<name>.partial`; one left by a killed run is cleared first.
    """
    partials = [target.parent / f".{target.name}.partial" for target in targets]
    try:
        for partial in partials:
            remove(partial)
            partial.mkdir(parents=True)
        yield partials
        for partial, target in zip(partials, targets, strict=True):
            remove(target)
            partial.rename(target)
    finally:
        for partial in partials:
            remove(partial)


def remove(path: Path) -> None:
    """Delete a file, link or folder; nothing happens where there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
