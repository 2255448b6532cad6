"""Reads zip and tar archives from outside, member by member, without unpacking them into a folder.

An archive is believed as a whole or not at all: a member with an unsafe name, a link or device, two
members of one name, encryption, damage, or a passed limit raise IntegrityError. Archives inside an
archive are files like others.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from stages.core.unpacking import Limits
from stages.store import decompression, tar_archives, zip_archives
from stages.store.archive_members import Archive

KINDS = ("zip", "tar", *decompression.KINDS)


def opened(path: Path, kind: str, limits: Limits, scratch: Path) -> AbstractContextManager[Archive]:
    """Open an archive of one of KINDS; the folder `scratch` has room for what must be decompressed first."""
    if kind == "zip":
        return zip_archives.opened(path, limits)
    return tar_archives.opened(path, kind, limits, scratch)
