"""Mends dvc.lock where a killed process, a full disk or a power cut left it torn: DVC rewrites it in place.

The previous version is git's. What was recorded since then is not lost: DVC's run cache knows every stage that ran to
its end, so the next run restores those outputs and writes the same entries again.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from flows import git

NAME = "dvc.lock"
# How a file that was cut between two lines may end: an entry has its hash, and not the size that DVC writes behind it
# and never looks at again. A folder's entry has the number of its files behind that.
CUT = re.compile(rb"( md5: \S+\n| md5: \S+\.dir\n\s+size: \d+\n)\Z")
TAIL = 400  # bytes in which that shows
MERGE = f"{NAME} holds the conflict marks of a merge: git checkout --ours {NAME} (or --theirs), then run it again"


def mend(root: Path, thoroughly: bool = False) -> bool:
    """Put the last committed dvc.lock, or none, in place of one that was cut; returns whether it was so.

    `thoroughly` also where its end looks whole and DVC cannot read it, which takes longer to find out. Done while DVC's
    lock of the repository is held: whoever writes dvc.lock holds it. Where another process does, nothing is cut, and
    nothing is done. Nor is anything in the middle of a merge, whose sides are the user's to choose from.
    """
    path = root / NAME
    if not path.exists() or not _is_cut(path, thoroughly):
        return False
    from dvc.lock import LockError, make_lock

    folder = root / ".dvc" / "tmp"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with make_lock(str(folder / "lock"), tmp_dir=str(folder)):
            if not path.exists() or not _is_cut(path, thoroughly):
                return False
            committed = _committed(root)
            if committed is None:
                path.unlink()
                return True
            partial = path.with_name(f".{NAME}.partial")
            partial.write_bytes(committed)
            partial.replace(path)
            return True
    except LockError:
        return False


def is_merging(root: Path) -> bool:
    """Whether dvc.lock holds git's conflict marks."""
    path = root / NAME
    return path.is_file() and git.is_conflicted(path.read_bytes())


def _is_cut(path: Path, thoroughly: bool) -> bool:
    text = path.read_bytes()
    if git.is_conflicted(text):
        return False
    return not text.endswith(b"\n") or bool(CUT.search(text[-TAIL:])) or (thoroughly and not _readable(text))


def _readable(text: bytes) -> bool:
    """Whether DVC can go on from it; an empty file is an error to it."""
    from dvc.exceptions import DvcException
    from dvc.schema import COMPILED_LOCKFILE_SCHEMA
    from dvc.utils.serialize import parse_yaml
    from voluptuous import Invalid

    try:
        COMPILED_LOCKFILE_SCHEMA(parse_yaml(text.decode(), NAME))
    except (DvcException, Invalid, UnicodeDecodeError):
        return False
    return True


def _committed(root: Path) -> bytes | None:
    """The file of the last commit; None where git has none that can be read."""
    asked = ["git", "-C", str(root), "show", f"HEAD:./{NAME}"]
    try:
        done = subprocess.run(asked, capture_output=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 and _readable(done.stdout) else None
