"""The memo: its size, and whether a few of its files are whole. Damage costs time and changes no result."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from pathlib import Path

from rich.filesize import decimal

from commands import memo
from commands.checks.finding import Finding, ok, some, warning
from stages.store.tensor_memo import HEADER, KEY_BYTES, MAGIC, SUM_BYTES

SAMPLE = 64  # files read, the last used first


def kept(root: Path, deep: bool) -> Iterator[Finding]:
    """Every file with `deep`, else a sample."""
    place = root / memo.PLACE
    files = [path for path in place.rglob("*") if path.is_file() and path.suffix in (".rows", ".parquet")]
    if not files:
        yield ok("memo", "empty: the next run computes all it needs")
        return
    size = sum(path.stat().st_size for path in files)
    newest = sorted(files, key=lambda path: path.stat().st_mtime, reverse=True)
    read = newest if deep else list(itertools.islice(newest, SAMPLE))
    damaged = [str(path.relative_to(place)) for path in read if not _whole(path)]
    if damaged:
        kinds = sorted({name.split("/")[0] for name in damaged})
        yield warning(
            "memo",
            f"damaged: {some(damaged)}",
            f"nothing: the next run computes it again; or graft memo {' '.join(kinds)} --clear",
        )
    else:
        yield ok("memo", f"{len(files)} files, {decimal(size)}; {len(read)} read, all whole")


def _whole(path: Path) -> bool:
    """Whether a file's checksums hold: of a table its name, of tensors those of stages/store/tensor_memo.py."""
    data = memoryview(path.read_bytes())
    if path.suffix == ".parquet":
        return hashlib.sha256(data).hexdigest() == path.stem
    if len(data) < HEADER.size:
        return False
    magic, described, count = HEADER.unpack(data[: HEADER.size])
    keys = HEADER.size + described
    sums = keys + count * KEY_BYTES
    index = sums + count * SUM_BYTES
    start = index + SUM_BYTES
    if magic != MAGIC or start > len(data) or _checksum(data[:index]) != data[index:start]:
        return False
    each = (len(data) - start) // count if count else 0
    return start + each * count == len(data) and all(
        _checksum(data[keys + at * KEY_BYTES :][:KEY_BYTES], data[start + at * each :][:each])
        == data[sums + at * SUM_BYTES :][:SUM_BYTES]
        for at in range(count)
    )


def _checksum(*parts: memoryview) -> bytes:
    digest = hashlib.blake2b(digest_size=SUM_BYTES)
    for part in parts:
        digest.update(part)
    return digest.digest()
