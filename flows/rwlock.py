"""Mends DVC's record of which process uses which file (.dvc/tmp/rwlock).

DVC rewrites it in place, so a kill can leave it cut, and then refuses every command until somebody deletes it by hand.
DVC also takes any process with a dead holder's number for the holder.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import psutil

Record = dict[str, dict[str, Any]]


def mend(root: Path) -> bool:
    """Remove what no living holder stands behind: the file where it is cut, an entry whose process is gone or another.

    Returns whether there was any. Done under DVC's own guard of that file, so a process that is just writing it is
    waited for. A lost record only names processes that hold files. The record names no host: where two machines share
    a checkout, only graft's own lock (flows/checkout.py) keeps them apart.
    """
    from dvc.lock import make_lock

    folder = root / ".dvc" / "tmp"
    path = folder / "rwlock"
    if not path.exists() or _mended(_read(path)) is None:
        return False
    with make_lock(str(folder / "rwlock.lock"), tmp_dir=str(folder)):
        record = _mended(_read(path))
        if record is None:
            return False
        partial = path.with_name(".rwlock.partial")
        partial.write_text(json.dumps(record))
        partial.replace(path)
    return True


def readable(path: Path) -> bool:
    """Whether DVC can read its record at `path`; one that is not there is an empty one."""
    return _read(path) is not None


def users(path: Path) -> list[tuple[str, int, str, bool]]:
    """(file or folder, pid, command, whether that process holds it) of each entry of the record at `path`."""
    record = _read(path) or {}
    entries = [(name, one) for name, one in record.get("write", {}).items()]
    entries += [(name, one) for name, many in record.get("read", {}).items() for one in many]
    return [(name, int(one["pid"]), str(one["cmd"]), _holds(one)) for name, one in entries]


def _read(path: Path) -> Record | None:
    """What the file records; None where it is cut or of another form."""
    from dvc.rwlock import SCHEMA
    from voluptuous import Invalid

    try:
        return dict(SCHEMA(json.loads(path.read_text())))
    except FileNotFoundError:
        return {}
    except (ValueError, Invalid):
        return None


def _mended(record: Record | None) -> Record | None:
    """The record that should stand there; None where it does."""
    if record is None:
        return {}
    writers = {path: one for path, one in record.get("write", {}).items() if _holds(one)}
    readers = {path: [one for one in many if _holds(one)] for path, many in record.get("read", {}).items()}
    kept = {"write": writers, "read": {path: many for path, many in readers.items() if many}}
    same = kept == {"write": record.get("write", {}), "read": record.get("read", {})}
    return None if same else kept


def _holds(one: dict[str, Any]) -> bool:
    """Whether the process of an entry is alive and runs the command that was entered.

    DVC enters sys.argv, whose first word is a path that the process was not started by; the rest must end its
    command line. One without any other word, or whose command line may not be read, is believed.
    """
    try:
        process = psutil.Process(int(one["pid"]))
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        _, _, arguments = str(one["cmd"]).partition(" ")
        return not arguments or " ".join(process.cmdline()).endswith(arguments)
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True
