"""Writes a source's images as Parquet shards, ordered by name, holding one shard in memory at a time."""

from __future__ import annotations

import hashlib
import logging
from itertools import pairwise
from pathlib import Path

import pyarrow as pa

from stages.core import sharding
from stages.core.errors import DataRejected
from stages.core.schemas import IMAGES
from stages.store import process, tables
from stages.store.records import Record, Source

LARGEST_FILE = 2**30  # bytes; an Arrow column holds less than twice that

log = logging.getLogger(__name__)


def write(folder: Path, source: Source, images_per_shard: int) -> int:
    """Write every record to `folder` against IMAGES; returns the number of shards.

    The same records give the same bytes, in whatever order they come. Raises DataRejected for a file
    above LARGEST_FILE or a name that stands twice, and what the source's `read` raises.
    """
    records = sorted(source.records, key=lambda record: record.name)
    for record in records:
        if record.size > LARGEST_FILE:
            raise DataRejected(f"{record.name!r}: {record.size:,} bytes; at most {LARGEST_FILE:,}. Remove it")
    _log_case_collisions(records)
    names = [record.name for record in records]
    for first, second in pairwise(names):
        if first == second:
            raise DataRejected(f"{first!r}: two images have this name; rename one of them in the source")
    spans = sharding.spans(names, [record.size for record in records], images_per_shard)
    files = sharding.file_names([names[span.start] for span in spans])
    shards = zip(files, spans, strict=True)
    folder.mkdir()
    for file, span in process.progress(shards, "packing images", len(spans)):
        tables.write(folder / file, _table(records[span.start : span.stop], source))
    return len(spans)


def _table(records: list[Record], source: Source) -> pa.Table:
    data = [source.read(record) for record in records]
    columns = {
        "name": [record.name for record in records],
        "label": [record.label for record in records],
        "given_split": [record.given_split for record in records],
        "image_id": [hashlib.sha256(item).hexdigest() for item in data],
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
