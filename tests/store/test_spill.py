"""Rows on disk: the same values as from memory, in a file that nobody sees."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from stages.store import spill, tables
from tests.store.test_tables import SCHEMA, rows


@pytest.mark.parametrize("count", [0, 1, 2 * spill.GROUP + 5])
def test_what_is_spilled_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.chdir(tmp_path)
    table = tables.from_rows(rows(count), SCHEMA)
    found = spill.spilled(table)
    assert found.equals(table)
    assert found.schema.equals(SCHEMA)
    assert list(tmp_path.iterdir()) == [], "the file has no name"


def test_a_spill_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    every = rows(50)
    with spill.Spill(SCHEMA) as kept:
        for at in range(0, 50, 10):
            kept.add(tables.from_rows(every[at : at + 10], SCHEMA))
        found = kept.table()
    assert found.to_pylist() == every, "the pages stay after the file is closed"


def test_values_are_those_of_to_pylist() -> None:
    for batch in tables.from_rows(rows(2 * spill.GROUP), SCHEMA).to_batches(max_chunksize=spill.GROUP):
        for name in SCHEMA.names:
            found, expected = spill.values(batch, name), batch.column(name).to_pylist()
            assert found == expected
            assert list(map(type, found)) == list(map(type, expected))
    lists = pa.record_batch({"layout": pa.array([[1, 2], None])})
    assert spill.values(lists, "layout") == [[1, 2], None]


def test_stored_objects_are_a_sequence() -> None:
    count = spill.GROUP + 3
    stored = spill.Stored(tables.from_rows(rows(count), SCHEMA), lambda batch: spill.values(batch, "name"))
    names = [row["name"] for row in rows(count)]
    assert list(stored) == names
    assert list(stored) == names, "more than once"
    assert (len(stored), stored[0], stored[-1], stored[spill.GROUP]) == (count, names[0], names[-1], names[-3])
    assert stored[2:5] == names[2:5]
    assert names[7] in stored
    for beyond in (count, -count - 1):
        with pytest.raises(IndexError):
            stored[beyond]
