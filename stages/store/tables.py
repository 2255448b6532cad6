"""Parquet files against a named schema, written so that the same rows give the same bytes."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from stages.core.errors import DataRejected, IntegrityError

GROUP = 1024  # rows of a Parquet file's row group


def write(path: Path, table: pa.Table) -> None:
    """Write one Parquet file. Image bytes are compressed already, so only other columns are."""
    with _writer(path, table.schema) as writer:
        writer.write_table(table, row_group_size=GROUP)


def write_rows(path: Path, rows: Iterable[dict[str, Any]], schema: pa.Schema) -> None:
    """Write the same file as `write` would, holding one row group in memory at a time."""
    left = iter(rows)
    blocks = iter(lambda: list(islice(left, GROUP)), [])
    write_batches(path, (batch for block in blocks for batch in from_rows(block, schema).to_batches()), schema)


def write_batches(path: Path, batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> None:
    """Write the same file as `write` would of them together, holding little more than a row group in memory at a time.

    Where a batch begins and ends is not seen in the file.
    """
    waiting = schema.empty_table()
    groups = 0
    with _writer(path, schema) as writer:
        for batch in batches:
            waiting = pa.concat_tables([waiting, pa.Table.from_batches([batch])])
            while len(waiting) >= GROUP:
                writer.write_table(waiting.slice(0, GROUP).combine_chunks(), row_group_size=GROUP)
                waiting = waiting.slice(GROUP)
                groups += 1
        # A file without rows has a group, too.
        if len(waiting) or not groups:
            writer.write_table(waiting.combine_chunks(), row_group_size=GROUP)


def _writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    compression = {field.name: "NONE" if pa.types.is_binary(field.type) else "ZSTD" for field in schema}
    return pq.ParquetWriter(path, schema, compression=compression, write_page_checksum=True)


def write_csv(path: Path, rows: Sequence[dict[str, Any]], columns: Sequence[str] = ()) -> None:
    """Rows as CSV with a header: `columns`, or the first row's keys; nothing where there are neither."""
    with path.open("w", encoding="utf-8", newline="") as file:
        write_csv_to(file, rows, columns)


def write_csv_to(file: TextIO, rows: Sequence[dict[str, Any]], columns: Sequence[str] = ()) -> None:
    """`write_csv` into an open file."""
    writer = csv.DictWriter(file, columns or (list(rows[0]) if rows else []), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _inert(value) for key, value in row.items()} for row in rows)


def _inert(value: Any) -> Any:
    """A text that a spreadsheet would take for a formula gets an apostrophe before it.

    Python's CSV writer does not quote a lone carriage return, which spreadsheets take for the end of a row.
    """
    if not isinstance(value, str):
        return value
    formula = value.startswith(("=", "+", "-", "@", "\t", "\r"))
    return f"'{value}".replace("\r", "⟨U+000D⟩")[0 if formula else 1 :]


def from_rows(rows: Sequence[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """Rows as a table; pyarrow raises where a value does not fit its field."""
    return pa.Table.from_pylist(list(rows), schema=schema)


def read(path: Path, schema: pa.Schema, columns: Sequence[str] | None = None) -> pa.Table:
    """One Parquet file. Raises IntegrityError where it is unreadable, DataRejected where its schema differs."""
    with _opened(path, schema) as file:
        try:
            return file.read(columns=list(columns) if columns else None)
        except (pa.ArrowException, OSError) as error:
            raise _damaged(path, error) from error


def batches(path: Path, schema: pa.Schema, columns: Sequence[str]) -> Iterator[pa.Table]:
    """One Parquet file's rows in order, holding one row group in memory at a time. Raises as `read`."""
    with _opened(path, schema) as file:
        for number in range(file.num_row_groups):
            try:
                yield file.read_row_group(number, columns=list(columns))
            except (pa.ArrowException, OSError) as error:
                raise _damaged(path, error) from error


def iterate(folder: Path, schema: pa.Schema, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """Rows of all shards in order, holding one row group in memory at a time."""
    for path in shards(folder):
        with _opened(path, schema) as file:
            batches = file.iter_batches(batch_size=256, columns=list(columns) if columns else None)
            while True:
                try:
                    batch = next(batches, None)
                except (pa.ArrowException, OSError) as error:
                    raise _damaged(path, error) from error
                if batch is None:
                    break
                yield from batch.to_pylist()


def shards(folder: Path) -> list[Path]:
    """The Parquet files of a folder, ordered by name. Raises IntegrityError where there is none."""
    found = sorted(folder.glob("*.parquet"))
    if not found:
        raise IntegrityError(f"{folder}: no Parquet file; run the stage that writes it again (dvc repro)")
    return found


def _opened(path: Path, schema: pa.Schema) -> pq.ParquetFile:
    try:
        file = pq.ParquetFile(path, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, error) from error
    if not file.schema_arrow.equals(schema):
        raise DataRejected(f"{path}: schema differs\n{schema_difference(schema, file.schema_arrow)}")
    return file


def _damaged(path: Path, error: Exception) -> IntegrityError:
    return IntegrityError(f"{path}: not a readable Parquet file ({error}); run dvc repro to rebuild it")


def schema_difference(expected: pa.Schema, received: pa.Schema) -> str:
    """One line per field that is missing, extra or of another type."""
    lines = []
    for name in dict.fromkeys([*expected.names, *received.names]):
        want = expected.field(name) if name in expected.names else None
        got = received.field(name) if name in received.names else None
        if want is None or got is None or not want.equals(got):
            lines.append(f"  {name}: expected {want and want.type}, received {got and got.type}")
    return "\n".join(lines) or "  the same fields in another order"
