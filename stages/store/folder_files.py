"""The regular files of a folder from outside: links, pipes and devices are named, never opened."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from stages.core import class_folders, file_names
from stages.core.errors import IntegrityError


class Found(NamedTuple):
    """A regular file, and what tells that it was written since: together, the stamp of its content."""

    where: str
    size: int  # bytes
    mtime: int  # ns
    ctime: int  # ns; unlike the mtime nobody can set it back
    inode: int


class Tree(NamedTuple):
    """What lies below a folder. Paths are relative, "/"-separated and valid Unicode."""

    files: dict[str, Found]
    folders: list[str]  # a litter folder is listed but not entered
    not_regular: list[str]


def walk(root: Path) -> Tree:
    """List everything below `root`, following no link; `root` itself may be one."""
    tree = Tree({}, [], [])
    waiting = [(str(root), "")]
    while waiting:
        folder, prefix = waiting.pop()
        with os.scandir(folder) as entries:
            for entry in entries:
                path = prefix + file_names.printable(entry.name)
                if entry.is_dir(follow_symlinks=False):
                    tree.folders.append(path)
                    if not class_folders.is_litter(entry.name):
                        waiting.append((entry.path, f"{path}/"))
                elif entry.is_file(follow_symlinks=False):
                    at = entry.stat(follow_symlinks=False)
                    tree.files[path] = Found(entry.path, at.st_size, at.st_mtime_ns, at.st_ctime_ns, at.st_ino)
                else:
                    tree.not_regular.append(path)
    return tree


def read(path: str, size: int) -> bytes:
    """A file's bytes. Raises IntegrityError where it is no longer the regular file of `size` bytes it was."""
    regular, data = False, b""
    # What was a file may be a pipe by now: do not wait for its writer.
    with suppress(FileNotFoundError):
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        # No file object: of 100,000 small files, making those would cost as much as reading.
        try:
            regular = stat.S_ISREG(os.fstat(handle).st_mode)
            data = _read_all(handle, size + 1) if regular else b""
        finally:
            os.close(handle)
    if not regular or len(data) != size:
        raise IntegrityError(f"{path!r}: changed while it was read; run it again when nothing writes there")
    return data


def _read_all(handle: int, most: int) -> bytes:
    data = os.read(handle, most)
    if len(data) in (0, most - 1):
        # The size that was expected; one more byte would be a file that grew.
        return data + os.read(handle, 1) if data else data
    pieces = [data]
    left = most - len(data)
    while left > 0 and (data := os.read(handle, left)):
        pieces.append(data)
        left -= len(data)
    return b"".join(pieces)
