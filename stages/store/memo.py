"""What a pure function made of byte strings, kept across runs. Safe to delete, and shared by concurrent processes.

A folder of immutable Parquet files, each named by the SHA-256 of its own bytes: what was damaged, cut short or put
there by something else does not carry its own name. A file comes into being by a rename, whole.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stages.store.memo_files import MemoFolder

KEY = "^[0-9a-f]{64}$"
MAX_FILES = 16  # more are merged into one
ROUNDS = 8  # listings at most, while others merge the files just listed


def fingerprint(modules: Sequence[ModuleType], versions: Mapping[str, str]) -> str:
    """16 hex digits over the modules' names and source texts and over `versions`, in whatever order.

    Raises OSError where a source cannot be read, ValueError for a module that has none.
    """
    sources = {}
    for module in modules:
        path = getattr(module, "__file__", None)
        if path is None:
            raise ValueError(f"{module.__name__} has no source file")
        sources[module.__name__] = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    text = json.dumps([sources, dict(versions)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Memo:
    """Rows of `schema` by their first field: the SHA-256, 64 hex digits, of what the rest was computed from.

    One folder holds what one version of the function made: put a `fingerprint` into its path. Losing any of it costs
    time and nothing else, so no trouble with the folder raises: it is logged.
    """

    def __init__(self, folder: Path, schema: pa.Schema) -> None:
        if not pa.types.is_string(schema.field(0).type):
            raise ValueError(f"the first field is the key, a string; received {schema.field(0)}")
        self._files = MemoFolder(folder)
        self._schema = schema.remove_metadata()
        self._key = schema.names[0]

    def read(self) -> pa.Table:
        """All entries, one row a key, in the order of keys; of rows with one key, that of the file named first.

        Removes Parquet files that are not entries, and temporary files of writers that died a day ago. Merges the
        rest where there are many.
        """
        tables = self._tables()
        merged = self._merge(list(tables.values()))
        if len(tables) > MAX_FILES:
            name = self._write(merged)
            if name is not None:
                for other in tables.keys() - {name}:
                    self._files.remove(self._files.path / other)
        self._files.sweep()
        return merged

    def add(self, rows: pa.Table) -> None:
        """Keep `rows` as one new file. A folder that cannot be written to, or a full disk, is logged once.

        Raises ValueError where `rows` are not of the memo's schema.
        """
        if not rows.schema.equals(self._schema):
            raise ValueError(f"rows of another schema: expected\n{self._schema}\nreceived\n{rows.schema}")
        if rows.num_rows:
            self._write(self._merge([rows]))

    def _tables(self) -> dict[str, pa.Table]:
        """Contents by file name, in the order of names. A name says what is in it, so each is read once."""
        tables: dict[str, pa.Table] = {}
        seen: set[str] = set()
        # Another process may merge files while they are listed and opened. Its file is there before those go, so
        # the next listing has it; one that shows nothing new ends this.
        for _ in range(ROUNDS):
            new = [path for path in self._files.listed("*.parquet") if path.name not in seen]
            if not new:
                break
            for path in new:
                try:
                    data = path.read_bytes()
                except FileNotFoundError:
                    continue
                except OSError as error:
                    self._files.warn(path, f"cannot be read ({error})")
                else:
                    table = self._parse(path, data)
                    if table is not None:
                        tables[path.name] = table
                        self._files.touch(path)
                seen.add(path.name)
        return dict(sorted(tables.items()))

    def _parse(self, path: Path, data: bytes) -> pa.Table | None:
        """The rows in a file's bytes; None, and the file is gone, where it is not what its name says."""
        if hashlib.sha256(data).hexdigest() == path.stem:
            try:
                file = pq.ParquetFile(pa.BufferReader(data))
                if file.schema_arrow.equals(self._schema):
                    table = file.read()
                    return table.filter(pc.match_substring_regex(table[self._key], KEY))
                fault = "has other columns"
            except (pa.ArrowException, OSError) as error:
                fault = f"is no Parquet file ({error})"
        else:
            fault = "is damaged"
        self._files.warn(path, f"{fault}; it is removed, and its entries are computed again")
        self._files.remove(path)
        return None

    def _merge(self, tables: list[pa.Table]) -> pa.Table:
        """Rows of all tables in the order of keys, the first of each key."""
        table = pa.concat_tables([table.cast(self._schema) for table in tables] or [self._schema.empty_table()])
        table = table.combine_chunks()
        if table.num_rows < 2:
            return table
        keys = table[self._key]
        if not pc.all(pc.less(keys[:-1], keys[1:])).as_py():
            table = table.take(pc.sort_indices(keys))  # stable: rows of one key stay in the order of the tables
            keys = table[self._key]
            new = pc.not_equal(keys[1:], keys[:-1]).combine_chunks()
            table = table.filter(pa.concat_arrays([pa.array([True]), new])).combine_chunks()
        return table

    def _write(self, table: pa.Table) -> str | None:
        """Write a file and return its name; None, and a warning, where that is not possible."""
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
        data = memoryview(sink.getvalue())
        name = f"{hashlib.sha256(data).hexdigest()}.parquet"
        return name if self._files.write(name, [data]) else None
