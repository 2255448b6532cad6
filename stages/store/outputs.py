"""Publishes a stage's folders whole: each is absent, old or new, never partial, also after a kill or a power cut."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from stages.core.errors import ConfigError
from stages.store import machine_faults, writer_lock


@contextmanager
def replacing(*targets: Path) -> Iterator[list[Path]]:
    """Yield an empty working folder per target; on success each takes its target's place.

    On any exception the working folders are removed and the targets stay as they were, all of them: data and its
    report belong together. For that reason all old ones are out of the way before the first new one is there: a kill
    between two renames leaves targets absent, and never one run's beside another's. A working folder lies beside its
    target (same file system, so the rename is atomic) and is named `.<name>.partial`; one left by a killed run is
    cleared first, as is what was out of the way.
    What is published lies on the disk before its name does, so a power cut leaves no name of half a folder.

    Raises Busy where another process is writing a target, EnvironmentFault, with the bytes needed, in place of an
    error that a full or broken disk or a lack of memory caused, and ConfigError where a target, given relative to the
    current folder, lies behind a link that leads out of it.
    """
    _check_places(targets)
    partials = [target.parent / f".{target.name}.partial" for target in targets]
    with ExitStack() as locks:
        for target in targets:
            locks.enter_context(writer_lock.held(target))
        try:
            for partial, target in zip(partials, targets, strict=True):
                remove(partial)
                remove(_old(target))
                partial.mkdir(parents=True)
            yield partials
            for partial in partials:
                _sync(partial)
            _publish(list(zip(partials, targets, strict=True)))
        except Exception as error:
            fault = machine_faults.while_writing(error, dict(zip(partials, targets, strict=True)))
            if fault is None:
                raise
            raise fault from error
        finally:
            for partial in partials:
                remove(partial)


def _check_places(targets: Sequence[Path]) -> None:
    here = Path.cwd().resolve()
    for target in targets:
        place = target.parent.resolve()
        if not target.is_absolute() and not place.is_relative_to(here):
            raise ConfigError(
                f"{target} lies behind a link, in truth in {place}; a stage writes inside the project alone. Remove "
                "the link; to have the data on another disk, set DVC's cache.dir"
            )


def _publish(pairs: list[tuple[Path, Path]]) -> None:
    """Rename every working folder to its target, and sync that; where something fails, put back what was there."""
    try:
        for _, target in pairs:
            if target.exists():
                target.rename(_old(target))
        for partial, target in pairs:
            partial.rename(target)
        for parent in dict.fromkeys(target.parent for _, target in pairs):
            _sync_one(parent)
    except BaseException:
        for partial, target in pairs:
            if not partial.exists():
                remove(target)
            if _old(target).exists():
                _old(target).rename(target)
        raise
    for _, target in pairs:
        remove(_old(target))


def _old(target: Path) -> Path:
    """Where what a target held is kept until the new is there."""
    return target.with_name(f".{target.name}.old.partial")


def _sync(folder: Path) -> None:
    """Bring every file and folder below, and itself, to the disk. Raises OSError where the disk refuses."""
    for path in folder.rglob("*"):
        if not path.is_symlink():
            _sync_one(path)
    _sync_one(folder)


def _sync_one(path: Path) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # file systems that cannot sync a folder
            error.filename = str(path)
            raise
    finally:
        os.close(number)


def remove(path: Path) -> None:
    """Delete a file, link or folder; nothing happens where there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
