"""Mends DVC's record of which process uses which file: it is rewritten in place, so a kill can leave it cut,
and DVC then refuses every command until somebody deletes it by hand."""

from __future__ import annotations

import json
from pathlib import Path


def mend(root: Path) -> bool:
    """Remove .dvc/tmp/rwlock where it is no JSON; returns whether it was.

    Done under DVC's own guard of that file, so a process that is just writing it is waited for. A
    lost record only names processes that hold files; DVC drops those of dead ones anyway.
    """
    from dvc.lock import make_lock

    folder = root / ".dvc" / "tmp"
    path = folder / "rwlock"
    if not path.exists() or readable(path):
        return False
    with make_lock(str(folder / "rwlock.lock"), tmp_dir=str(folder)):
        if readable(path):
            return False
        path.unlink(missing_ok=True)
    return True


def readable(path: Path) -> bool:
    """Whether DVC can read its record at `path`; one that is not there is an empty one."""
    try:
        return isinstance(json.loads(path.read_text()), dict)
    except FileNotFoundError:
        return True
    except ValueError:
        return False
