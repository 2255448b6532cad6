"""Measures stored images: those the memo does not know yet, in processes of their own.

for fact in measurements.of_shards(SHARDS, limits):
    ...
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator
from contextlib import closing
from dataclasses import dataclass, fields
from pathlib import Path
from struct import Struct
from typing import Any

import pyarrow as pa

from stages.core import facts, images, measurement
from stages.core.errors import IntegrityError
from stages.core.facts import Facts
from stages.core.measurement import Measurement
from stages.core.schemas import IMAGES, MEASUREMENTS
from stages.store import process, tables
from stages.store.isolation import Lost, map_isolated
from stages.store.memo import Memo, fingerprint

MEMO = ".graft/memo/measurements"  # not a path of the stage: no output depends on what is in it
KEPT_EVERY = 2048  # new images: a killed run loses no more
# Lists in Arrow are slow to read; a warm run reads little else.
PACKED = {"layout": Struct(f">{measurement.LAYOUT}h"), "hashes": Struct(f">{len(measurement.ZOOMS)}Q")}
COLUMNS = [field.name for field in fields(Measurement)]


@dataclass(frozen=True)
class Limits:
    """What the decoding of one image may cost."""

    workers: int
    cpu_seconds: float
    memory_bytes: int


def of_shards(folder: Path, images_stored: int, limits: Limits) -> list[Facts]:
    """The facts of every image in the shards of `folder`, in their order.

    Every image's bytes are compared with its image_id, known or not. Raises IntegrityError where they
    differ, and what `tables.iterate` raises.
    """
    # What a file gives can depend on the limits: a codec out of memory may only say that the file is broken.
    limited = {"cpu_seconds": str(limits.cpu_seconds), "memory_bytes": str(limits.memory_bytes)}
    memo = Memo(Path(MEMO) / fingerprint([images, measurement], {**measurement.VERSIONS, **limited}), MEASUREMENTS)
    known = _measurements(memo.read())
    rows: list[dict[str, Any]] = []
    asked: list[tuple[str, int, str | None]] = []  # image_id, size and format of what is not known
    fresh: list[dict[str, Any]] = []

    def unknown() -> Iterator[bytes]:
        seen = set(known)
        for row in process.progress(tables.iterate(folder, IMAGES), "measuring images", images_stored):
            data: bytes = row.pop("bytes")
            if hashlib.sha256(data).hexdigest() != row["image_id"]:
                raise IntegrityError(
                    f"{row['name']!r}: its bytes do not hash to its image_id {row['image_id']}; the stored images "
                    f"are damaged. Run `dvc repro -f download` to rebuild them"
                )
            rows.append(row)
            if row["image_id"] not in seen:
                seen.add(row["image_id"])
                asked.append((row["image_id"], len(data), images.sniff(data)))
                yield data

    measured = map_isolated(
        measurement.measure, unknown(),
        workers=limits.workers, cpu_seconds=limits.cpu_seconds, memory_bytes=limits.memory_bytes,
    )  # fmt: skip
    with closing(measured):
        for at, found in enumerate(measured):
            image_id, size, format = asked[at]
            if isinstance(found, Lost):
                # Not kept: another machine may do better.
                known[image_id] = Measurement(size, format, found.reason, found.detail)
                continue
            known[image_id] = found
            fresh.append(_row(image_id, found))
            if len(fresh) == KEPT_EVERY:
                memo.add(tables.from_rows(fresh, MEASUREMENTS))
                fresh.clear()
    if fresh:
        memo.add(tables.from_rows(fresh, MEASUREMENTS))
    return [facts.of(row, known[row["image_id"]]) for row in rows]


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


def _measurements(table: pa.Table) -> dict[str, Measurement]:
    """The rows of schemas.MEASUREMENTS by image_id."""
    columns = [table[name].to_pylist() for name in COLUMNS]
    for name, packing in PACKED.items():
        at = COLUMNS.index(name)
        columns[at] = [None if value is None else packing.unpack(value) for value in columns[at]]
    return dict(zip(table["image_id"].to_pylist(), map(Measurement, *columns), strict=True))
