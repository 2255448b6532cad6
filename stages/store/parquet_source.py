"""A Parquet table with a column of image bytes and a column of labels."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from stages.core import images
from stages.core.errors import DataRejected, IntegrityError
from stages.core.unpacking import Limits, Meter
from stages.store import process
from stages.store.columns import Columns, label_of, split_of
from stages.store.records import Record, Source

ROWS_AT_ONCE = 32


class _Row(NamedTuple):
    label: str
    given_split: str | None
    file_name: str  # "" where the table has none
    data: bytes


class _Stored(NamedTuple):
    label: str
    given_split: str | None
    file_name: str
    digest: str  # SHA-256 of the bytes, hex
    format: str  # of the image in lower case, "bin" where it is none
    offset: int  # in the spool, bytes
    size: int  # bytes


@contextmanager
def from_parquet(path: Path, columns: Columns, limits: Limits, scratch: Path) -> Iterator[Source]:
    """The table's images, named [split/]label/file, where file is the row's own name or its bytes' hash.

    So no name depends on a row's position. The bytes wait in one file in `scratch`, removed at the
    end. Raises DataRejected for a wrong column or value, IntegrityError for damage or a passed limit.
    """
    meter = Meter(str(path), path.stat().st_size, limits)
    spool = scratch / "rows.bytes"
    stored = []
    try:
        with spool.open("wb") as target:
            for row in _rows(path, columns, meter):
                digest = hashlib.sha256(row.data).hexdigest()
                found = (images.sniff(row.data) or "bin").lower()
                stored.append(_Stored(*row[:3], digest, found, target.tell(), len(row.data)))
                target.write(row.data)
        with spool.open("rb") as file:

            def read(record: Record) -> bytes:
                file.seek(record.place)
                return file.read(record.size)

            records = _records(stored)
            yield Source("parquet", records, sorted({record.label for record in records}), {}, read)
    finally:
        spool.unlink(missing_ok=True)


def _records(stored: list[_Stored]) -> list[Record]:
    """Rows with unique names. Only rows equal in every way are numbered, so their order does not matter."""
    shared = Counter(row[:3] for row in stored)
    seen: Counter[str] = Counter()
    records = []
    for row in stored:
        own = PurePosixPath(row.file_name)
        if not row.file_name:
            last = f"{row.digest}.{row.format}"
        elif shared[row[:3]] > 1:
            last = f"{own.stem}~{row.digest}{own.suffix}"
        else:
            last = row.file_name
        folder = f"{row.given_split}/{row.label}" if row.given_split else row.label
        seen[f"{folder}/{last}"] += 1
        count = seen[f"{folder}/{last}"]
        again = f"copy-{count}-" if count > 1 else ""
        records.append(Record(f"{folder}/{again}{last}", row.label, row.given_split, row.size, row.offset))
    return records


def _rows(path: Path, columns: Columns, meter: Meter) -> Iterator[_Row]:
    with _damage_in(path):
        # Without pre-buffering, a row group of any size takes little memory.
        table = pq.ParquetFile(path, pre_buffer=False, buffer_size=2**20)
    with table:
        _check_columns(path, table.schema_arrow, columns)
        meter.add_members(table.metadata.num_rows)
        wanted = [name for name in (columns.image, columns.label, columns.split) if name in table.schema_arrow.names]
        batches = table.iter_batches(batch_size=ROWS_AT_ONCE, columns=wanted)
        total = -(-table.metadata.num_rows // ROWS_AT_ONCE)
        number = 0
        for rows in process.progress(_decoded(path, batches), "read rows", total):
            for row in rows:
                number += 1
                yield _row(row, columns, f"{path} row {number}", meter)


def _row(row: dict[str, Any], columns: Columns, place: str, meter: Meter) -> _Row:
    image = row[columns.image]
    data, path = (image.get("bytes"), image.get("path")) if isinstance(image, dict) else (image, None)
    if data is None and path:
        raise DataRejected(f"{place}: holds the path {path!r} but no bytes; embed the images' bytes in the table")
    meter.add_bytes(len(data or b""))
    label = label_of(row[columns.label], place)
    # A path's folders are those of the machine that wrote the table.
    file_name = PurePosixPath(path).name if path else ""
    return _Row(label, split_of(row.get(columns.split), place), file_name, data or b"")


def _decoded(path: Path, batches: Iterator[pa.RecordBatch]) -> Iterator[list[dict[str, Any]]]:
    while True:
        with _damage_in(path):
            batch = next(batches, None)
            rows = None if batch is None else batch.to_pylist()
        if rows is None:
            return
        yield rows


@contextmanager
def _damage_in(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise _damaged(path, error) from error
    except OSError as error:
        if error.errno is not None:  # the disk's fault, not the table's
            raise
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> IntegrityError:
    return IntegrityError(f"{path}: not a readable Parquet file ({error}); fetch or write it again")


def _check_columns(path: Path, schema: pa.Schema, columns: Columns) -> None:
    """Raise DataRejected listing every column that is missing or of a wrong type."""
    legal = {
        columns.image: ("download.image_column", "binary, or a struct with binary `bytes`", _is_image_type),
        columns.label: ("download.label_column", "text or integers", _is_label_type),
        columns.split: ("download.split_column", "text", _is_text),
    }
    problems = []
    for name, (key, words, fits) in legal.items():
        count = schema.names.count(name)
        if count == 0 and name != columns.split:
            problems.append(f"  {name} ({key}): expected {words}, received no such column")
        elif count > 1:
            problems.append(f"  {name} ({key}): expected one column of that name, received {count}")
        elif count == 1 and not fits(schema.field(name).type):
            problems.append(f"  {name} ({key}): expected {words}, received {schema.field(name).type}")
    if problems:
        held = ", ".join(f"{field.name}: {field.type}" for field in schema)
        raise DataRejected("\n".join([f"{path}: schema differs; it holds {held}", *problems]))


def _is_image_type(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        index = kind.get_field_index("bytes")
        return index >= 0 and _is_image_type(kind.field(index).type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _is_label_type(kind: pa.DataType) -> bool:
    return _is_text(kind) or bool(pa.types.is_integer(kind))


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
