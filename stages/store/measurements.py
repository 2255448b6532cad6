"""Measures stored images: those the memo does not know yet, in processes of their own.

for fact in measurements.of_shards(SHARDS, images_stored, limits):
    ...
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, fields
from itertools import islice
from pathlib import Path
from struct import Struct
from typing import Any

import numpy as np
import pyarrow as pa

from stages.core import images, measurement, trailing_bytes
from stages.core.errors import IntegrityError
from stages.core.facts import Facts
from stages.core.measurement import Measurement
from stages.core.neighbours import Neighbour
from stages.core.schemas import IMAGES, MEASUREMENTS
from stages.store import process, spill, tables
from stages.store.isolation import Lost, map_isolated
from stages.store.memo import Memo, fingerprint

MEMO = ".graft/memo/measurements"  # not a path of the stage: no output depends on what is in it
KEPT_EVERY = 2048  # new images: a killed run loses no more
# Lists in Arrow are slow to read; a warm run reads little else.
PACKED = {"layout": Struct(f">{measurement.LAYOUT}h"), "hashes": Struct(f">{len(measurement.ZOOMS)}Q")}
COLUMNS = [field.name for field in fields(Measurement)]
HEADS = [field.name for field in fields(Facts)][:-1]
NEIGHBOURS = pa.schema([("image_id", pa.string()), ("distance", pa.float64()), ("outlier", pa.float64())])
# A stored image, and which row of what was measured is its own.
OWNERS = pa.schema([*(IMAGES.field(name) for name in HEADS), pa.field("place", pa.int64(), nullable=False)])


@dataclass(frozen=True)
class Limits:
    """What the decoding of one image may cost."""

    workers: int
    cpu_seconds: float
    memory_bytes: int


def of_shards(folder: Path, images_stored: int, limits: Limits) -> Sequence[Facts]:
    """The facts of every image in the shards of `folder`, in their order; made when asked for, and kept on disk.

    Every image's bytes are compared with its image_id, known or not. Raises IntegrityError where they
    differ, and what `tables.iterate` raises.
    """
    # What a file gives can depend on the limits: a codec out of memory may only say that the file is broken.
    limited = {"cpu_seconds": str(limits.cpu_seconds), "memory_bytes": str(limits.memory_bytes)}
    made_by = fingerprint([images, measurement, trailing_bytes], {**measurement.VERSIONS, **limited})
    memo = Memo(Path(MEMO) / made_by, MEASUREMENTS)
    known = memo.read()
    # The row of what was measured by image_id: first what is known, then what is asked for, in that order.
    places = {image_id: at for at, image_id in enumerate(known["image_id"].to_pylist())}
    asked: deque[tuple[str, int, str | None]] = deque()  # image_id, size and format of what is not known
    owners: list[dict[str, Any]] = []

    def unknown() -> Iterator[bytes]:
        for row in process.progress(tables.iterate(folder, IMAGES), "measuring images", images_stored):
            data: bytes = row.pop("bytes")
            if hashlib.sha256(data).hexdigest() != row["image_id"]:
                raise IntegrityError(
                    f"{row['name']!r}: its bytes do not hash to its image_id {row['image_id']}; the stored images "
                    f"are damaged. Run `dvc repro -f download` to rebuild them"
                )
            new = row["image_id"] not in places
            owners.append(row | {"place": places.setdefault(row["image_id"], len(places))})
            if len(owners) == spill.GROUP:
                stored.add(tables.from_rows(owners, OWNERS))
                owners.clear()
            if new:
                asked.append((row["image_id"], len(data), images.sniff(data)))
                yield data

    measured = map_isolated(
        measurement.measure, unknown(),
        workers=limits.workers, cpu_seconds=limits.cpu_seconds, memory_bytes=limits.memory_bytes,
    )  # fmt: skip
    with spill.Spill(OWNERS) as stored, spill.Spill(MEASUREMENTS) as found, closing(measured):
        while some := list(islice(measured, KEPT_EVERY)):
            rows, fresh = [], []
            for one in some:
                image_id, size, format = asked.popleft()
                if isinstance(one, Lost):
                    # Not kept: another machine may do better.
                    rows.append(_row(image_id, Measurement(size, format, one.reason, one.detail)))
                else:
                    rows.append(_row(image_id, one))
                    fresh.append(rows[-1])
            found.add(tables.from_rows(rows, MEASUREMENTS))
            memo.add(tables.from_rows(fresh, MEASUREMENTS))
        stored.add(tables.from_rows(owners, OWNERS))
        owners.clear()
        return spill.Stored(_joined(stored.table(), pa.concat_tables([known, found.table()])), _facts)


def _joined(owners: pa.Table, measured: pa.Table) -> pa.Table:
    """Rows of OWNERS, each with the row of `measured` at its place."""
    schema = pa.schema([*(OWNERS.field(name) for name in HEADS), *(MEASUREMENTS.field(name) for name in COLUMNS)])
    with spill.Spill(schema) as joined:
        for batch in owners.to_batches():
            places = batch.column("place").to_numpy()
            first, count = int(places[0]), len(places)
            # Where nothing was known before and no file is a copy, places are in order.
            in_order = bool((places == np.arange(first, first + count)).all())
            rows = measured.slice(first, count) if in_order else measured.take(pa.array(places))
            rows = rows.combine_chunks()
            columns = [*(batch.column(name) for name in HEADS), *(rows[name] for name in COLUMNS)]
            joined.add(pa.table(columns, schema=schema))
        # What Arrow keeps for later allocations would be missing elsewhere.
        pa.default_memory_pool().release_unused()
        return joined.table()


def texts(found: Sequence[str]) -> Sequence[str]:
    """The same, kept on disk."""
    table = spill.spilled(pa.table({"text": pa.array(found, pa.string())}))
    return spill.Stored(table, lambda batch: spill.values(batch, "text"))


def pictures_nearby(found: Sequence[Neighbour | None]) -> Sequence[Neighbour | None]:
    """The same, kept on disk."""
    with spill.Spill(NEIGHBOURS) as kept:
        for start in range(0, len(found), spill.GROUP):
            some = found[start : start + spill.GROUP]
            kept.add(tables.from_rows([asdict(one) if one else {} for one in some], NEIGHBOURS))
        return spill.Stored(kept.table(), _neighbours)


def _neighbours(batch: pa.RecordBatch) -> Iterator[Neighbour | None]:
    for image_id, *how_far in zip(*(spill.values(batch, name) for name in NEIGHBOURS.names), strict=True):
        yield None if image_id is None else Neighbour(image_id, *how_far)


def thumbnails(folder: Path, names: Collection[str], limits: Limits) -> dict[str, bytes | None]:
    """Small JPEGs of the named images in the shards of `folder`; None where one has no picture."""
    wanted = set(names)
    found: list[str] = []

    def stored() -> Iterator[bytes]:
        for row in tables.iterate(folder, IMAGES, ["name", "bytes"]) if wanted else ():
            if row["name"] in wanted:
                found.append(row["name"])
                yield row["bytes"]

    # An image that ended the process which measured it would end this one, too.
    drawn = map_isolated(
        images.thumbnails, stored(),
        workers=1, cpu_seconds=limits.cpu_seconds, memory_bytes=limits.memory_bytes,
    )  # fmt: skip
    with closing(drawn):
        pictures = [None if isinstance(picture, Lost) else picture for picture in drawn]
    return dict(zip(found, pictures, strict=True))


def _row(image_id: str, found: Measurement) -> dict[str, Any]:
    """A row of schemas.MEASUREMENTS."""
    row = {"image_id": image_id} | {name: getattr(found, name) for name in COLUMNS}
    for name, packing in PACKED.items():
        row[name] = packing.pack(*row[name]) if row[name] is not None else None
    return row


def _facts(batch: pa.RecordBatch) -> Iterator[Facts]:
    """The images of a batch of `_joined`."""
    columns = {name: spill.values(batch, name) for name in (*HEADS, *COLUMNS)}
    for name, packing in PACKED.items():
        columns[name] = [None if value is None else packing.unpack(value) for value in columns[name]]
    measured = map(Measurement, *(columns[name] for name in COLUMNS))
    return map(Facts, *(columns[name] for name in HEADS), measured)
