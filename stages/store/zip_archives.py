"""Zip archives, read member by member where they lie."""

from __future__ import annotations

import io
import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stages.core.unpacking import Limits, Meter
from stages.store.archive_members import (
    CHUNK,
    Archive,
    GuardedFile,
    Index,
    damage_in,
    read_member,
    refused,
)

METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
LIST_ENTRY = b"PK\x01\x02"  # begins every entry of the member list
ENCRYPTED = 0x1  # a flag bit


@contextmanager
def opened(path: Path, limits: Limits) -> Iterator[Archive]:
    """Open a zip. Raises IntegrityError where it is damaged, unsafe, or larger than the limits."""
    with _ZipBytes(path, limits) as file:
        with damage_in(path):
            archive = _open(file)
        with archive:
            yield _index(path, archive, Meter(str(path), path.stat().st_size, limits))


class _ZipBytes(GuardedFile):
    """A zip's file; its member list may be long, so its entries are counted before zipfile parses them."""

    def __init__(self, path: Path, limits: Limits) -> None:
        super().__init__(path)
        self._limits = limits

    def read(self, size: int | None = -1, /) -> bytes:
        """As io.BufferedReader.read. Raises IntegrityError where a list has too many entries."""
        if size is None or size <= CHUNK:  # without a size: the last few bytes, where zipfile looks first
            return io.BufferedReader.read(self, size)
        members = Meter(str(self.path), 0, self._limits)  # anew: a list may be read twice
        parts = []
        tail = b""
        while size > 0 and (part := super().read(min(size, CHUNK))):
            members.add_members((tail + part).count(LIST_ENTRY))
            tail = part[1 - len(LIST_ENTRY) :]
            size -= len(part)
            parts.append(part)
        return b"".join(parts)


def _open(file: GuardedFile) -> zipfile.ZipFile:
    try:
        # Many tools write UTF-8 names without saying so.
        return zipfile.ZipFile(file, metadata_encoding="utf-8")
    except UnicodeDecodeError:
        return zipfile.ZipFile(file)


def _index(path: Path, archive: zipfile.ZipFile, meter: Meter) -> Archive:
    index = Index(path, meter)
    infos: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise refused(path, info.filename, "is a link, device or pipe")
        if info.flag_bits & ENCRYPTED:
            raise refused(path, info.filename, "is encrypted; pack it again without a password")
        if info.compress_type not in METHODS:
            raise refused(path, info.filename, f"has the unknown compression method {info.compress_type}")
        if "\0" in info.orig_filename:  # zipfile ends `filename` there
            raise refused(path, info.orig_filename, "has a NUL byte in its name")
        if info.is_dir():
            index.add_folder(info.filename)
        else:
            infos[index.add_file(info.filename, info.file_size)] = info
    # A header may lie, but no member gives more than it says: read_member stops there.
    meter.check_bytes(sum(index.sizes.values()))

    def read(name: str) -> bytes:
        with damage_in(path), archive.open(infos[name]) as member:
            data = read_member(path, name, member, index.sizes[name])
            # Reading on is what makes zipfile compare the checksum of a member said to be empty.
            member.read(1)
            return data

    return Archive(index.sizes, index.folders, read)
