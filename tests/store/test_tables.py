"""Tables a block at a time: the same file as all at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from stages.store import tables

SCHEMA = pa.schema(
    [
        pa.field("name", pa.string(), nullable=False),
        pa.field("data", pa.binary()),
        pa.field("size", pa.int32()),
        pa.field("share", pa.float64()),
        pa.field("kept", pa.bool_()),
    ]
)


def rows(count: int) -> list[dict[str, Any]]:
    return [
        {
            "name": f"bild-{at}-ü",
            "data": bytes([at % 256]) * (at % 7) if at % 5 else None,
            "size": at if at < tables.GROUP or at % 3 else None,
            "share": at / 7 if at % 11 else None,
            "kept": at % 2 == 0 if at % 13 else None,
        }
        for at in range(count)
    ]


@pytest.mark.parametrize("count", [0, 1, tables.GROUP - 1, tables.GROUP, 2 * tables.GROUP + 5])
def test_rows_give_the_same_file_as_their_table(tmp_path: Path, count: int) -> None:
    tables.write(tmp_path / "whole.parquet", tables.from_rows(rows(count), SCHEMA))
    tables.write_rows(tmp_path / "rows.parquet", iter(rows(count)), SCHEMA)
    assert (tmp_path / "rows.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    assert tables.read(tmp_path / "rows.parquet", SCHEMA).to_pylist() == rows(count)


@pytest.mark.parametrize("rows_per_batch", [1, 700, 1024, 5000])
def test_batches_of_any_length_give_the_same_file(tmp_path: Path, rows_per_batch: int) -> None:
    whole = tables.from_rows(list(rows(3000)), SCHEMA)
    tables.write(tmp_path / "whole.parquet", whole)
    tables.write_batches(tmp_path / "batches.parquet", whole.to_batches(max_chunksize=rows_per_batch), SCHEMA)
    assert (tmp_path / "batches.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    read = list(tables.batches(tmp_path / "batches.parquet", SCHEMA, SCHEMA.names))
    assert pa.concat_tables(read).equals(whole)
    assert [len(part) for part in read] == [1024, 1024, 952]


def test_a_table_in_parts_gives_the_same_file(tmp_path: Path) -> None:
    whole = tables.from_rows(rows(3000), SCHEMA)
    parts = pa.concat_tables([whole.slice(0, 700), whole.slice(700, 1500), whole.slice(2200)])
    tables.write(tmp_path / "whole.parquet", whole)
    tables.write(tmp_path / "parts.parquet", parts)
    assert (tmp_path / "parts.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()
