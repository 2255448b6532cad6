"""The regular files of a folder from outside: links, pipes and devices are named, never opened."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import NamedTuple

from stages.core import class_folders, file_names
from stages.core.errors import IntegrityError


class Tree(NamedTuple):
    """What lies below a folder. Paths are relative, "/"-separated and valid Unicode."""

    files: dict[str, tuple[Path, int]]  # path → where it is, bytes
    folders: list[str]  # a litter folder is listed but not entered
    not_regular: list[str]


def walk(root: Path) -> Tree:
    """List everything below `root`, following no link; `root` itself may be one."""
    tree = Tree({}, [], [])
    waiting = [(root, "")]
    while waiting:
        folder, prefix = waiting.pop()
        with os.scandir(folder) as entries:
            for entry in entries:
                path = prefix + file_names.printable(entry.name)
                if entry.is_dir(follow_symlinks=False):
                    tree.folders.append(path)
                    if not class_folders.is_litter(entry.name):
                        waiting.append((Path(entry.path), f"{path}/"))
                elif entry.is_file(follow_symlinks=False):
                    tree.files[path] = (Path(entry.path), entry.stat(follow_symlinks=False).st_size)
                else:
                    tree.not_regular.append(path)
    return tree


def read(path: Path, size: int) -> bytes:
    """A file's bytes. Raises IntegrityError where it is no longer the regular file of `size` bytes it was."""
    try:
        # What was a file may be a pipe by now: do not wait for its writer.
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(handle, "rb") as file:
            regular = stat.S_ISREG(os.fstat(handle).st_mode)
            data = file.read(size + 1) if regular else b""
    except FileNotFoundError:
        regular = False
    if not regular or len(data) != size:
        raise IntegrityError(f"{str(path)!r}: changed while it was read; run it again when nothing writes there")
    return data
