"""What zip and tar archives have in common: the rules a member must keep, and how one is read."""

from __future__ import annotations

import io
import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import zstandard

from stages.core import file_names
from stages.core.errors import IntegrityError
from stages.core.unpacking import Meter

CHUNK = 2**20  # bytes read at a time
MOST_SHOWN = 300  # characters of a member's name in an error
DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    zstandard.ZstdError,
    struct.error,
    EOFError,
    ValueError,
)


@dataclass(frozen=True)
class Archive:
    """An opened archive. Paths are relative, "/"-separated, valid Unicode, and unique."""

    sizes: dict[str, int]  # bytes of every file, as its header says
    folders: list[str]
    read: Callable[[str], bytes]  # a file's bytes by its path; raises IntegrityError where they are damaged


class Index:
    """Collects the members of one archive, refusing unsafe and repeated names."""

    def __init__(self, path: Path, meter: Meter) -> None:
        self._path, self._meter = path, meter
        self.sizes: dict[str, int] = {}  # files
        self._folders: dict[str, None] = {}

    def add_file(self, raw: str, size: int) -> str:
        """Enter a file of `size` bytes; returns its path. Raises IntegrityError."""
        name = self._safe(raw)
        if not name or name in self.sizes or name in self._folders:
            raise refused(self._path, raw, "has the name of another member")
        self.sizes[name] = size
        return name

    def add_folder(self, raw: str) -> None:
        """Enter a folder; the same one may come again. Raises IntegrityError."""
        name = self._safe(raw)
        if name in self.sizes:
            raise refused(self._path, raw, "has the name of another member")
        if name:  # "./" is the archive itself
            self._folders[name] = None

    @property
    def folders(self) -> list[str]:
        """Paths of all folders that are members themselves."""
        return list(self._folders)

    def _safe(self, raw: str) -> str:
        self._meter.add_members()
        danger = file_names.danger(raw)
        if danger is not None:
            raise refused(self._path, raw, danger)
        return file_names.printable(file_names.inside(raw) or "")


class GuardedFile(io.BufferedReader):
    """An archive's file that will not hand out more than CHUNK bytes at once.

    zipfile and tarfile load headers and member lists in one piece, before a caller sees how long they
    are. What is longer than any honest one is refused before it takes memory.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path))
        self.path = path

    def read(self, size: int | None = -1, /) -> bytes:
        """As io.BufferedReader.read. Raises IntegrityError."""
        if size is None or not 0 <= size <= CHUNK:
            raise IntegrityError(f"{self.path}: a member's header is damaged or longer than {CHUNK:,} bytes")
        return super().read(size)


@contextmanager
def damage_in(path: Path) -> Iterator[None]:
    """Raise IntegrityError naming the archive where a reader stumbles over its bytes."""
    try:
        yield
    except DAMAGE as error:
        raise damaged(path, error) from error
    except NotImplementedError as error:
        raise IntegrityError(f"{path}: {error}; pack it again as a plain zip or tar") from error
    except OSError as error:
        if error.errno is not None:  # the disk's fault, not the archive's
            raise
        raise damaged(path, error) from error


def damaged(path: Path, reason: object) -> IntegrityError:
    """The error for bytes that are not what they were."""
    return IntegrityError(f"{path}: damaged or cut short ({reason}); fetch or pack it again")


def refused(path: Path, member: str, reason: str) -> IntegrityError:
    """The error for a member that no archive may have."""
    shown = repr(member) if len(member) <= MOST_SHOWN else f"{member[:MOST_SHOWN]!r}…"
    return IntegrityError(f"{path}: member {shown} {reason}; the whole archive was refused")


def read_member(path: Path, name: str, file: IO[bytes], size: int) -> bytes:
    """`size` bytes of an opened member, never more, whatever it unpacks to. Raises IntegrityError for fewer."""
    parts = []
    left = size
    while left > 0 and (part := file.read(min(left, CHUNK))):
        parts.append(part)
        left -= len(part)
    if left > 0:
        raise damaged(path, f"{name!r} has fewer than the {size:,} bytes its header says")
    return b"".join(parts)
