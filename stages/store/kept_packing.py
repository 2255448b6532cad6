"""What `graft add` remembers of a folder it packed: the content of every file, and the shards as it left them.

A file whose stamp (path, size, both times, inode) is as it was holds what it held, and a shard of such
files need not be written again. Safe to delete: everything is then read and written once more.
"""

from __future__ import annotations

import logging
import os
import secrets
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from stages.store.folder_files import Found

FILES = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("mtime", pa.int64(), nullable=False),  # ns
        pa.field("ctime", pa.int64(), nullable=False),  # ns
        pa.field("inode", pa.uint64(), nullable=False),
        pa.field("image_id", pa.string(), nullable=False),
    ]
)
SHARDS = pa.schema(
    [
        pa.field("file", pa.string(), nullable=False),
        pa.field("key", pa.string(), nullable=False),  # SHA-256 over the rows
        pa.field("size", pa.int64(), nullable=False),
        pa.field("mtime", pa.int64(), nullable=False),  # ns
        pa.field("inode", pa.uint64(), nullable=False),
    ]
)
# A write within the clock's resolution after a read leaves no mark. Linux stamps by a clock that ticks every 10 ms at
# the slowest; a stamp without microseconds is of a file system that counts coarser, at worst every two seconds.
FINE, COARSE = 10**8, 2 * 10**9  # ns

log = logging.getLogger(__name__)


class KeptPacking:
    """One folder's files and the shards in `packed`, as the run before left them.

    Losing what is kept costs time and nothing else, so no trouble with it raises: it is logged.
    """

    def __init__(self, memory: Path, packed: Path) -> None:
        """`memory` is a folder for this alone; `packed` is where the shards of the run before lie."""
        self._memory, self._packed = memory, packed
        self._started = time.time_ns()
        self._shards = {file: at for file, *at in self._load("shards", SHARDS)}
        self._keys: dict[str, str] = {}
        self._found: tuple[Mapping[str, Found], Mapping[str, str]] = {}, {}

    def known(self, files: Mapping[str, Found]) -> dict[str, str]:
        """Path → SHA-256 of the bytes, of the files that nothing has written to since it was found."""
        kept = {path: (size, mtime, ctime, inode, image_id) for path, size, mtime, ctime, inode, image_id
                in self._load("files", FILES)}  # fmt: skip
        return {
            path: was[4]
            for path, found in files.items()
            if (was := kept.get(path)) is not None and was[:4] == found[1:]
        }

    def link(self, file: str, key: str, target: Path) -> bool:
        """Put the shard `file` at `target` if the run before wrote exactly these rows and nobody touched it."""
        was = self._shards.get(file)
        path = self._packed / file
        if was is None or was[0] != key or not _is_as_it_was(path, was[1:]):
            return False
        with suppress(OSError):  # a file system without hard links
            target.hardlink_to(path)
            self._keys[file] = key
            return True
        return False

    def wrote(self, file: str, key: str) -> None:
        """Take note of a shard that was written anew."""
        self._keys[file] = key

    def found(self, files: Mapping[str, Found], image_ids: Mapping[str, str]) -> None:
        """Take note of the files as they were before they were read, by path, and of their content."""
        self._found = files, image_ids

    def save(self) -> None:
        """Remember all that was noted, once the shards lie in place."""
        shards = []
        for file, key in self._keys.items():
            at = os.lstat(self._packed / file)
            shards.append((file, key, at.st_size, at.st_mtime_ns, at.st_ino))
        files, image_ids = self._found
        # As git does: what was written around the time it was read may have been written once more, unseen.
        old = self._started - COARSE
        rows = [
            (path, *found[1:], image_ids[path])
            for path, found in files.items()
            if path in image_ids and (max(found[2], found[3]) < old or _is_settled(found, self._started))
        ]
        self._store("files", FILES, rows)
        self._store("shards", SHARDS, shards)

    def _load(self, name: str, schema: pa.Schema) -> Iterator[tuple[Any, ...]]:
        """Rows, or none where nothing (or nothing readable) is kept."""
        path = self._memory / f"{name}.parquet"
        try:
            # Not read_table, which loads modules for half a second.
            with pq.ParquetFile(path, page_checksum_verification=True) as file:
                table = file.read()
        except FileNotFoundError:
            return iter(())
        except (pa.ArrowException, OSError) as error:
            log.warning("%s: not readable (%s); everything is read again", path, error)
            return iter(())
        if not table.schema.equals(schema):
            return iter(())
        # By way of numpy: to_pylist takes ten times as long.
        return zip(*(column.to_numpy().tolist() for column in table.columns), strict=True)

    def _store(self, name: str, schema: pa.Schema, rows: list[tuple[Any, ...]]) -> None:
        path = self._memory / f"{name}.parquet"
        partial = self._memory / f".{secrets.token_hex(8)}.partial"
        columns = list(zip(*rows, strict=True)) or [()] * len(schema)
        arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
        try:
            self._memory.mkdir(parents=True, exist_ok=True)
            table = pa.Table.from_arrays(arrays, schema=schema)
            pq.write_table(
                table, partial,
                use_dictionary=False, compression="NONE", write_statistics=False, write_page_checksum=True,
            )  # fmt: skip
            partial.replace(path)
        except OSError as error:
            log.warning("%s: not written (%s); the next run reads everything again", path, error)
            with suppress(OSError):
                partial.unlink(missing_ok=True)


def _is_settled(found: Found, read_after: int) -> bool:
    """Whether a write after `read_after` (ns) is sure to change the stamp."""
    last = max(found.mtime, found.ctime)
    return last < read_after - (FINE if last % 10**6 else COARSE)


def _is_as_it_was(path: Path, was: Sequence[Any]) -> bool:
    try:
        at = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISREG(at.st_mode) and [at.st_size, at.st_mtime_ns, at.st_ino] == list(was)
