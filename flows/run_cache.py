"""Clears DVC's run cache of what a kill left in it: an entry that was cut, or a key without one.

DVC takes the newest file of a key for its entry, whatever its name, and fails with the name of a field that is missing;
where there is no file it fails as well.
"""

from __future__ import annotations

import re
import time
from contextlib import suppress
from pathlib import Path

ENTRY = re.compile("[0-9a-f]{64}")
OTHERS = 60.0  # seconds; so old is a file that another checkout with the same cache left, and not one it is writing


def mend(root: Path, runs: Path | None = None) -> bool:
    """Remove what is no entry from the run cache (default .dvc/cache/runs); returns whether there was anything.

    Done while DVC's lock of the repository is held, as DVC holds it when it writes an entry. A cache outside the
    checkout may be others', too: there, files that are still new stay.
    """
    folder = runs or root / ".dvc" / "cache" / "runs"
    own = folder.resolve().is_relative_to(root.resolve())
    if not any(map(_left, folder.glob("??/*"))):
        return False
    from dvc.lock import LockError, make_lock

    newest = float("inf") if own else time.time() - OTHERS  # a clock that was set back must keep nothing of our own
    mended = False
    try:
        with make_lock(str(root / ".dvc" / "tmp" / "lock"), tmp_dir=str(root / ".dvc" / "tmp")):
            for key in folder.glob("??/*"):
                for path in _left(key):
                    with suppress(OSError):  # another checkout's mending was quicker, or there is an entry by now
                        if path.stat().st_mtime > newest:
                            continue
                        if path != key:
                            path.unlink()
                            mended = True
                        key.rmdir()  # where that was all there was
                        mended = True
    except LockError:
        return False
    return mended


def _left(key: Path) -> list[Path]:
    """What is no entry in a key's folder; the folder itself where it is empty."""
    names = list(key.iterdir()) if key.is_dir() else []
    return [path for path in names if not ENTRY.fullmatch(path.name)] if names else [key]
