"""Rows of one shape and type that a pure function made, by key, kept across runs. Safe to delete; tens of GB are fine.

A folder of immutable packs of up to 8 MB. A pack is, little-endian and in C order:

    magic and version, length of the description, number of rows    HEADER
    description: shape and type of a row                            JSON
    keys                                                            32 bytes each
    checksums, each of a key and its row                            16 bytes each
    checksum of all the above                                       16 bytes
    rows

Every index and every row is checked when it is read. Nothing is mapped or held: memory stays flat.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
import re
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from struct import Struct
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from stages.store.memo_files import MemoFolder, Part

MAGIC = b"graft rows 1\n"
HEADER = Struct("<13sIQ")
KEY_BYTES = 32
SUM_BYTES = 16
PACK_BYTES = 8 * 2**20  # of a full pack, of what waits to be written, and of the rows handed out at once
WAIT_SECONDS = 5.0  # rows that waited this long are written with the next, so that a killed run loses no more
MAX_SMALL = 16  # more packs of less than half of PACK_BYTES are merged
UNUSED_SECONDS = 30 * 24 * 60 * 60.0  # packs that no run used for so long go
ROUNDS = 8  # listings at most, while others merge the packs just listed
OURS = re.compile(r"[0-9a-f]{32}\.rows|\.[0-9a-f]{16}\.partial")

Array = npt.NDArray[Any]
Positions = npt.NDArray[np.intp]


class TensorMemo:
    """Rows of `shape` and `dtype` by keys of 32 bytes: digests of what each was computed from.

    One folder, `.graft/memo/<kind>/<fingerprint>/`, holds what one version of the function made; folders beside it in
    which nothing was used for UNUSED_SECONDS are removed. Losing any of it costs time and nothing else, so no trouble
    with the folder raises: it is logged, once for each file. Any number of processes may use a folder at once.

    Raises ValueError for a dtype that is not of numbers or booleans, or a shape without elements.
    """

    def __init__(self, folder: Path, shape: tuple[int, ...], dtype: npt.DTypeLike) -> None:
        self._dtype = np.dtype(dtype).newbyteorder("=")
        if self._dtype.kind not in "biufc":
            raise ValueError(f"rows must be numbers or booleans; received dtype {self._dtype}")
        if any(length < 1 for length in shape):
            raise ValueError(f"every length of a row's shape must be at least 1; received {shape}")
        self._shape = shape
        self._stored = self._dtype.newbyteorder("<")
        self._row_bytes = math.prod(shape) * self._dtype.itemsize
        self._description = json.dumps({"shape": shape, "dtype": self._stored.str}).encode()
        self._files = MemoFolder(folder)
        self._waiting = _Waiting()

    def take(self, keys: Sequence[bytes]) -> Iterator[tuple[Positions, Array]]:
        """Yield (positions into `keys` [n], their rows [n, *shape]) for what is known and whole.

        At most PACK_BYTES of rows at once (one row at least), pack by pack; each position at most once, also where a
        key repeats. Rows are the caller's to change. Damaged rows are left out and forgotten; rows that wait in `add`
        are not known yet. A call reads the index of every pack (48 bytes a row stored): ask for many keys at once.

        Raises ValueError for a key that is not 32 bytes.
        """
        return self._take(_joined(keys))

    def add(self, keys: Sequence[bytes], rows: Array) -> None:
        """Keep `rows` [n, *shape]; they are written when PACK_BYTES or WAIT_SECONDS are full, and by `close`.

        Raises ValueError where a key is not 32 bytes, or `rows` are not as many, of the memo's shape and dtype.
        """
        joined = _joined(keys)
        if rows.shape != (len(keys), *self._shape) or rows.dtype != self._dtype:
            raise ValueError(
                f"expected {self._dtype} {[len(keys), *self._shape]}, a row for each key; "
                f"received {rows.dtype} {list(rows.shape)}"
            )
        if not len(joined):
            return
        stored = np.ascontiguousarray(rows, self._stored).view(np.uint8).reshape(len(rows), self._row_bytes)
        for key, row in zip(keys, stored, strict=True):
            self._waiting.add(key, _checksum(key, row.data), row.data)
            if self._waiting.size + self._entry_bytes > PACK_BYTES:
                self._write_waiting()
        if time.monotonic() - self._waiting.since > WAIT_SECONDS:
            self._write_waiting()

    def close(self) -> None:
        """Write what waits, merge small packs, and remove what was not used for UNUSED_SECONDS."""
        self._write_waiting()
        try:
            self._files.sweep()
            self._remove_unused()
            self._merge()
        except OSError as error:
            self._files.warn(self._files.path, f"cannot be tidied ({error})")

    def __enter__(self) -> TensorMemo:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()  # after an error, too: rows that are finished are right

    @property
    def _entry_bytes(self) -> int:
        return KEY_BYTES + SUM_BYTES + self._row_bytes

    def _take(self, wanted: npt.NDArray[np.bytes_]) -> Iterator[tuple[Positions, Array]]:
        asked = _Asked(wanted)
        seen: set[Path] = set()
        # Another process may merge packs while they are listed and opened. Its packs are there before those go, so
        # the next listing has them; one that shows nothing new ends this.
        for _ in range(ROUNDS):
            new = [path for path in self._files.listed("*.rows") if path not in seen]
            if not new:
                return
            for path in new:
                if not asked.left:
                    return
                seen.add(path)
                with self._opened(path) as pack:
                    if pack is not None:
                        yield from self._take_from(pack, asked)

    def _take_from(self, pack: _Pack, asked: _Asked) -> Iterator[tuple[Positions, Array]]:
        numbers, positions = asked.found_in(pack.keys)
        most = max(1, PACK_BYTES // self._row_bytes)
        damaged = False
        for start in range(0, len(numbers), most):
            different, at = np.unique(numbers[start : start + most], return_inverse=True)
            try:
                rows, whole = self._rows(pack, different)
            except OSError as error:  # perhaps only now: the pack stays
                self._files.warn(pack.path, f"cannot be read ({error}); its rows are computed again")
                return
            damaged |= not whole.all()
            good = whole[at]
            answered = positions[start : start + most][good]
            if not len(answered):
                continue
            self._files.touch(pack.descriptor)
            asked.answer(answered)
            if len(answered) < len(rows) or len(at) > len(rows):
                rows = rows[at[good]]
            yield answered, self._shaped(rows)
        if damaged:
            self._mend(pack)

    def _shaped(self, rows: npt.NDArray[np.uint8]) -> Array:
        return rows.view(self._stored).reshape(len(rows), *self._shape).astype(self._dtype, copy=False)

    @contextmanager
    def _opened(self, path: Path) -> Iterator[_Pack | None]:
        """A pack whose index is whole; None where it is not, or of another shape, or gone."""
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except FileNotFoundError:  # merged or removed by another process
            yield None
            return
        except OSError as error:
            self._files.warn(path, f"cannot be read ({error})")
            yield None
            return
        try:
            yield self._indexed(path, descriptor)
        finally:
            os.close(descriptor)

    def _indexed(self, path: Path, descriptor: int) -> _Pack | None:
        try:
            head = os.pread(descriptor, HEADER.size, 0)
            magic, described, count = HEADER.unpack(head) if len(head) == HEADER.size else (b"", 0, 0)
            keys = HEADER.size + described
            sums = keys + count * KEY_BYTES
            end = sums + count * SUM_BYTES
            fits = magic == MAGIC and end + SUM_BYTES <= os.fstat(descriptor).st_size
            index = _read(descriptor, np.empty(end + SUM_BYTES if fits else 0, np.uint8), 0).tobytes()
        except OSError as error:
            self._files.warn(path, f"cannot be read ({error})")
            return None
        if not fits or _checksum(index[:end]) != index[end:]:
            self._files.warn(path, "is damaged; it is removed, and its rows are computed again")
            self._files.remove(path)
            return None
        if index[HEADER.size : keys] != self._description:
            received = index[HEADER.size : keys].decode(errors="replace")
            self._files.warn(path, f"is not used: it holds rows of {received}, not of {self._description.decode()}")
            return None
        return _Pack(path, descriptor, np.frombuffer(index[keys:sums], f"S{KEY_BYTES}"), index[keys:sums],
                     index[sums:end], end + SUM_BYTES)  # fmt: skip

    def _rows(self, pack: _Pack, numbers: Positions) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
        """The bytes of the rows with these ascending numbers [n, row bytes], and which of them are whole [n]."""
        rows = np.empty((len(numbers), self._row_bytes), np.uint8)
        whole = np.zeros(len(numbers), np.bool_)
        breaks = np.flatnonzero(np.diff(numbers) != 1) + 1
        for start, stop in zip([0, *breaks], [*breaks, len(numbers)], strict=True):
            offset = pack.start + int(numbers[start]) * self._row_bytes
            _read(pack.descriptor, rows[start:stop].reshape(-1), offset)
        for at, number in enumerate(numbers.tolist()):
            whole[at] = _checksum(pack.key(number), rows[at].data) == pack.checksum(number)
        if not whole.all():
            self._files.warn(pack.path, "has damaged rows; they are computed again")
        return rows, whole

    def _mend(self, pack: _Pack) -> None:
        """Put a pack's whole rows into a new one in its place: what is damaged is said once, not in every run."""
        waiting = _Waiting()
        if self._gather(pack, waiting):
            self._replace([pack.path], waiting)

    def _gather(self, pack: _Pack, waiting: _Waiting) -> bool:
        """Add the whole rows of a pack to `waiting`; False where it cannot be read."""
        try:
            rows, whole = self._rows(pack, np.arange(len(pack.keys)))
        except OSError as error:
            self._files.warn(pack.path, f"cannot be read ({error})")
            return False
        for number in np.flatnonzero(whole).tolist():
            waiting.add(pack.key(number), pack.checksum(number), rows[number].data)
        return True

    def _write_waiting(self) -> None:
        self._write(self._waiting)
        self._waiting = _Waiting()  # only now: an interrupted write is tried again by `close`

    def _write(self, waiting: _Waiting, used: float | None = None) -> bool:
        """Write a pack, none of no rows; False where that is not possible."""
        if not waiting.keys:
            return True
        head = HEADER.pack(MAGIC, len(self._description), len(waiting.keys)) + self._description
        index = b"".join([head, *waiting.keys, waiting.sums])
        parts: list[Part] = [index, _checksum(index), waiting.rows]
        # Not synced, which can take longer than computing the rows: what a power cut tears is seen when it is read.
        return self._files.write(f"{secrets.token_hex(16)}.rows", parts, sync=False, used=used)

    def _merge(self) -> None:
        """Make full packs of small ones, where there are many: new ones are written before those go."""
        ages: dict[Path, tuple[float, int]] = {}
        for path in self._files.listed("*.rows"):
            with suppress(FileNotFoundError):
                found = path.stat()
                if found.st_size < PACK_BYTES // 2:
                    ages[path] = (found.st_mtime, found.st_size)
        if len(ages) <= MAX_SMALL:
            return
        with self._alone() as alone:
            if not alone:
                return  # another process merges; twice the same work would leave every row twice
            waiting, merged, used = _Waiting(), list[Path](), 0.0
            # Packs of one age together: a pack lives as long as the row in it that was used last.
            for path, (time_used, size) in sorted(ages.items(), key=lambda item: (item[1], item[0])):
                if merged and waiting.size + size > PACK_BYTES:
                    if not self._replace(merged, waiting, used):
                        return
                    waiting, merged = _Waiting(), []
                with self._opened(path) as pack:
                    if pack is not None and self._gather(pack, waiting):
                        merged.append(path)
                        used = time_used
            self._replace(merged, waiting, used)

    def _replace(self, packs: list[Path], waiting: _Waiting, used: float | None = None) -> bool:
        """Write the rows of `packs` as one, and remove them; False, and they stay, where it cannot be written."""
        if not self._write(waiting, used):
            return False
        for path in packs:
            self._files.remove(path)
        return True

    @contextmanager
    def _alone(self) -> Iterator[bool]:
        """Whether this process is the only one that merges this folder."""
        descriptor = os.open(self._files.path, os.O_RDONLY)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            except OSError:
                pass  # a file system without locks: merging twice wastes space and nothing else
            yield True
        finally:
            os.close(descriptor)

    def _remove_unused(self) -> None:
        own = self._files.path.resolve()
        for path in self._files.listed("*.rows"):
            if _unused(path):
                self._files.remove(path)
        for other in sorted(own.parent.iterdir()) if own.exists() else ():
            if other == own or other.is_symlink() or not other.is_dir():
                continue
            found = list(other.iterdir())
            if found and all(OURS.fullmatch(path.name) and _unused(path) for path in found):
                MemoFolder(other).sweep()
                for path in found:
                    if path.suffix == ".rows":
                        self._files.remove(path)
                with suppress(OSError):
                    other.rmdir()  # not empty: another process has begun to use it


class _Asked:
    """The keys of one call: where each stands, and which have been answered."""

    def __init__(self, wanted: npt.NDArray[np.bytes_]) -> None:
        self._order = np.argsort(wanted, kind="stable")
        self._sorted = wanted[self._order]
        self._open = np.ones(len(wanted), np.bool_)
        self.left = len(wanted)

    def found_in(self, keys: npt.NDArray[np.bytes_]) -> tuple[Positions, Positions]:
        """(row numbers in a pack with these keys, positions that ask for them) still open, in the order of rows."""
        different, numbers = np.unique(keys, return_index=True)
        left = np.searchsorted(self._sorted, different, "left")
        counts = np.searchsorted(self._sorted, different, "right") - left
        ends = np.cumsum(counts)
        total = int(ends[-1]) if len(ends) else 0
        positions = self._order[np.arange(total) + np.repeat(left - (ends - counts), counts)]
        rows = np.repeat(numbers, counts)
        still = self._open[positions]
        rows, positions = rows[still], positions[still]
        order = np.argsort(rows, kind="stable")
        return rows[order], positions[order]

    def answer(self, positions: Positions) -> None:
        self._open[positions] = False
        self.left -= len(positions)


@dataclass(frozen=True)
class _Pack:
    """An open pack with its index."""

    path: Path
    descriptor: int
    keys: npt.NDArray[np.bytes_]  # S32 [rows]
    key_bytes: bytes
    sums: bytes
    start: int  # of the first row, in bytes

    def key(self, number: int) -> bytes:
        return self.key_bytes[number * KEY_BYTES : (number + 1) * KEY_BYTES]  # numpy would drop zeros at the end

    def checksum(self, number: int) -> bytes:
        return self.sums[number * SUM_BYTES : (number + 1) * SUM_BYTES]


class _Waiting:
    """Rows that become a pack, one a key."""

    def __init__(self) -> None:
        self.since = time.monotonic()
        self.keys: dict[bytes, None] = {}
        self.sums = bytearray()
        self.rows = bytearray()

    @property
    def size(self) -> int:
        return len(self.keys) * KEY_BYTES + len(self.sums) + len(self.rows)

    def add(self, key: bytes, checksum: bytes, row: memoryview) -> None:
        if key not in self.keys:
            self.keys[key] = None
            self.sums += checksum
            self.rows += row


def _joined(keys: Sequence[bytes]) -> npt.NDArray[np.bytes_]:
    """S32 [n]. Raises ValueError for a key that is not 32 bytes."""
    for key in keys:
        if len(key) != KEY_BYTES:
            raise ValueError(f"a key must be {KEY_BYTES} bytes; received {len(key)}: {key!r:.100}")
    return np.frombuffer(b"".join(keys), f"S{KEY_BYTES}")


def _checksum(*parts: bytes | memoryview) -> bytes:
    digest = hashlib.blake2b(digest_size=SUM_BYTES)
    for part in parts:
        digest.update(part)
    return digest.digest()


def _read(descriptor: int, into: npt.NDArray[np.uint8], offset: int) -> npt.NDArray[np.uint8]:
    """Fill `into`, bytes in one piece, from a file at `offset`; zeros where the file ends before."""
    view, done = into.data, 0
    while done < len(view):
        read = os.preadv(descriptor, [view[done:]], offset + done)
        if not read:
            into[done:] = 0
            break
        done += read
    return into


def _unused(path: Path) -> bool:
    """Whether nobody used a file for UNUSED_SECONDS; not one that is gone."""
    with suppress(FileNotFoundError):
        return time.time() - path.stat().st_mtime > UNUSED_SECONDS
    return False
