"""Writes a source's images as Parquet shards, ordered by name, holding one shard in memory at a time."""

from __future__ import annotations

import hashlib
import logging
from itertools import pairwise
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from stages.core import sharding
from stages.core.errors import DataRejected
from stages.core.schemas import IMAGES
from stages.store import process, tables
from stages.store.kept_packing import KeptPacking
from stages.store.records import Record, Source

COLUMNS = ("name", "label", "given_split", "image_id")  # what identifies a row; its bytes follow from the image_id
LARGEST_FILE = 2**30  # bytes; an Arrow column holds less than twice that

log = logging.getLogger(__name__)


class Written(NamedTuple):
    """What was packed."""

    shards: int
    image_ids: dict[str, str]  # name → SHA-256 of the image's bytes; empty where nothing is kept of the packing
    sha256: str  # over COLUMNS, whatever shards the rows fell into


def write(folder: Path, source: Source, images_per_shard: int, kept: KeptPacking | None = None) -> Written:
    """Write every record to `folder` against IMAGES, or link the shard that `kept` has of the same records.

    The same records give the same bytes, in whatever order they come. Raises DataRejected for a file
    above LARGEST_FILE or a name that stands twice, and what the source's `read` raises.
    """
    records = sorted(source.records, key=attrgetter("name"))
    largest = max(records, key=attrgetter("size"))
    if largest.size > LARGEST_FILE:
        raise DataRejected(f"{largest.name!r}: {largest.size:,} bytes; at most {LARGEST_FILE:,}. Remove it")
    _log_case_collisions(records)
    names = [record.name for record in records]
    for first, second in pairwise(names):
        if first == second:
            raise DataRejected(f"{first!r}: two images have this name; rename one of them in the source")
    spans = sharding.spans(names, [record.size for record in records], images_per_shard)
    files = sharding.file_names([names[span.start] for span in spans])
    shards = zip(files, spans, strict=True)
    folder.mkdir()
    image_ids: dict[str, str] = {}
    whole = [hashlib.sha256() for _ in COLUMNS]
    for file, span in process.progress(shards, "packing images", len(spans)):
        ours = records[span.start : span.stop]
        known = [record.image_id for record in ours if record.image_id is not None]
        columns = _columns(ours, known) if len(known) == len(ours) else []
        if not (columns and kept and kept.link(file, _key(columns), folder / file)):
            data = [source.read(record) for record in ours]
            known = [hashlib.sha256(item).hexdigest() for item in data]
            tables.write(folder / file, _table(ours, known, data))
            columns = _columns(ours, known)
            if kept:
                kept.wrote(file, _key(columns))
        if kept:
            image_ids.update(zip((record.name for record in ours), known, strict=True))
        for content, column in zip(whole, columns, strict=True):
            content.update(column)
    return Written(len(spans), image_ids, _key([content.digest() for content in whole]))


def _columns(records: list[Record], image_ids: list[str]) -> list[bytes]:
    """Each of COLUMNS for hashing. By column, which is many times faster than by row."""
    names, labels, splits = zip(*((r.name, r.label, r.given_split) for r in records), strict=True)
    return ["".join(map(repr, column)).encode() for column in (names, labels, splits, image_ids)]


def _key(columns: list[bytes]) -> str:
    """SHA-256 (hex) over columns."""
    return hashlib.sha256(b"".join(hashlib.sha256(column).digest() for column in columns)).hexdigest()


def _table(records: list[Record], image_ids: list[str], data: list[bytes]) -> pa.Table:
    columns = {
        "name": [record.name for record in records],
        "label": [record.label for record in records],
        "given_split": [record.given_split for record in records],
        "image_id": image_ids,
        "bytes": data,
    }
    return pa.Table.from_pydict(columns, schema=IMAGES)


def _log_case_collisions(records: list[Record]) -> None:
    seen: dict[str, str] = {}
    pairs = [(other, r.name) for r in records if (other := seen.setdefault(r.name.casefold(), r.name)) != r.name]
    if pairs:
        first, second = pairs[0]
        log.warning(
            "%d names differ from another only by case, as %r and %r; some systems cannot hold both",
            len(pairs), first, second,
        )  # fmt: skip
