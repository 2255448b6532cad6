"""Tar archives, plain or compressed, read member by member."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stages.core.unpacking import Limits, Meter
from stages.store import decompression
from stages.store.archive_members import Archive, GuardedFile, Index, damage_in, damaged, read_member, refused


@contextmanager
def opened(path: Path, kind: str, limits: Limits, scratch: Path) -> Iterator[Archive]:
    """Open a tar of kind "tar" or one of decompression.KINDS. Raises IntegrityError.

    A compressed tar can only be read from front to back, so it is decompressed into one file in the
    folder `scratch`, counting what really comes out; that file is removed at the end.
    """
    meter = Meter(str(path), path.stat().st_size, limits)
    if kind == "tar":
        with GuardedFile(path) as file:
            yield _index(path, file, meter)
        return
    plain = scratch / "archive.tar"
    try:
        with plain.open("wb") as target:
            for chunk in decompression.chunks(path, kind):
                meter.add_bytes(len(chunk))
                target.write(chunk)
        with GuardedFile(plain) as file:
            yield _index(path, file, meter)
    finally:
        plain.unlink(missing_ok=True)


def _index(path: Path, file: GuardedFile, meter: Meter) -> Archive:
    index = Index(path, meter)
    offsets: dict[str, int] = {}
    with damage_in(path), tarfile.open(fileobj=file, mode="r:", encoding="utf-8") as tar:
        while (member := tar.next()) is not None:
            tar.members = []  # type: ignore[attr-defined]  # it keeps all it ever saw, kilobytes each
            if member.issparse() or not (member.isreg() or member.isdir()):
                raise refused(path, member.name, "is a link, device, pipe or sparse file")
            if member.isdir():
                index.add_folder(member.name)
            else:
                offsets[index.add_file(member.name, member.size)] = member.offset_data
        # tarfile takes a damaged header for the end; the real end is a block of zeros.
        file.seek(tar.offset)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise damaged(path, f"neither a member nor the end at byte {tar.offset:,}")
    meter.check_bytes(sum(index.sizes.values()))

    def read(name: str) -> bytes:
        file.seek(offsets[name])
        return read_member(path, name, file, index.sizes[name])

    return Archive(index.sizes, index.folders, read)
