"""Rows kept on disk and not in memory while a stage works: a file without a name, mapped, read a block at a time."""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Self, TypeVar

import pyarrow as pa

T = TypeVar("T")
GROUP = 1024  # rows that are made into objects at a time


class Spill:
    """A table that grows in a file without a name, and is then mapped into memory.

    Its pages are the file's: the system takes them back when it needs memory, and reads them again.

    with Spill(schema) as spill:
        spill.add(table)
        mapped = spill.table()
    """

    def __init__(self, schema: pa.Schema) -> None:
        # In the current folder, because the system's own for such files is memory on some machines.
        self._file = tempfile.TemporaryFile(dir=".")  # noqa: SIM115  # closed at the end
        self._writer = pa.ipc.new_file(pa.PythonFile(self._file, "w"), schema)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, table: pa.Table) -> None:
        """Append rows."""
        self._writer.write_table(table, max_chunksize=GROUP)

    def table(self) -> pa.Table:
        """All of it, for as long as it is used. Nothing can be added any more."""
        self._writer.close()
        self._file.flush()
        mapped = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        return pa.ipc.open_file(pa.py_buffer(mapped)).read_all()


def spilled(table: pa.Table) -> pa.Table:
    """The same rows, mapped from a file."""
    with Spill(table.schema) as spill:
        spill.add(table)
        return spill.table()


class Stored(Sequence[T]):
    """One object a row of a table, made of a block of rows when it is asked for, and not kept."""

    def __init__(self, table: pa.Table, make: Callable[[pa.RecordBatch], Iterable[T]]) -> None:
        self._table = table
        self._make = make

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def __iter__(self) -> Iterator[T]:
        for batch in self._table.to_batches(max_chunksize=GROUP):
            yield from self._make(batch)

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, slice):
            return [self[number] for number in range(*at.indices(len(self)))]
        if not -len(self) <= at < len(self):
            raise IndexError(at)
        (batch,) = self._table.slice(at % len(self), 1).to_batches()
        (found,) = self._make(batch)
        return found


def values(batch: pa.RecordBatch, name: str) -> list[Any]:
    """A column as Python values. Quicker than to_pylist, which makes an object of Arrow's of each first."""
    column = batch.column(name)
    nested = pa.types.is_nested(column.type)
    # NumPy has no null among numbers; texts and bytes become objects there, and nulls None.
    numbers = not (pa.types.is_string(column.type) or pa.types.is_binary(column.type))
    found: list[Any]
    if nested or (numbers and column.null_count):
        found = column.to_pylist()
    else:
        found = column.to_numpy(zero_copy_only=False).tolist()
    return found
