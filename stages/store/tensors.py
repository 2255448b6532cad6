"""Tensors on disk: `.npy` shards, written in any order of rows and read through memory maps.

A set named `pooled-train` lies in `pooled-train-00000.npy`, `pooled-train-00001.npy`, …, each of
`rows_per_shard` rows but the last. Memory maps keep a training's memory flat however many rows there are.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stages.core.errors import IntegrityError

Array = npt.NDArray[Any]
MAX_OPEN = 16  # files a writer holds open at once


class Writer:
    """Puts rows into a set of tensors whose number of rows is known from the start.

    Written by system calls, not through a memory map: a full disk is then an OSError, not a dead process.
    """

    def __init__(
        self, folder: Path, name: str, rows: int, shape: tuple[int, ...], dtype: npt.DTypeLike, rows_per_shard: int
    ) -> None:
        self._folder, self._name, self._rows_per_shard = folder, name, rows_per_shard
        self._shape, self._dtype = shape, np.dtype(dtype)
        self._row_bytes = int(np.prod(shape)) * self._dtype.itemsize
        self._written = np.zeros(rows, bool)
        self._starts: dict[int, int] = {}  # shard → bytes before its rows
        self._open: dict[int, int] = {}  # shard → file descriptor

    def put(self, places: npt.NDArray[np.intp], rows: Array) -> None:
        """Store `rows`, [n, *shape], converted to the set's dtype, as rows `places`, int [n], of the set."""
        data = np.ascontiguousarray(rows, self._dtype)
        if data.shape != (len(places), *self._shape):
            raise ValueError(f"{self._name}: {len(places)} rows of {self._shape} expected, received {data.shape}")
        for place, row in zip(places.tolist(), data, strict=True):
            shard, number = divmod(place, self._rows_per_shard)
            descriptor = self._descriptor(shard)
            view = memoryview(row).cast("B")
            offset = self._starts[shard] + number * self._row_bytes
            while view:
                done = os.pwrite(descriptor, view, offset)
                view, offset = view[done:], offset + done
        self._written[places] = True

    def close(self) -> None:
        """Raise IntegrityError unless every row has been written."""
        self.abort()
        if not self._written.all():
            done = int(self._written.sum())
            raise IntegrityError(f"{self._folder}/{self._name}: {done} rows written, {len(self._written)} announced")

    def abort(self) -> None:
        """Close the files."""
        while self._open:
            os.close(self._open.popitem()[1])

    def _descriptor(self, shard: int) -> int:
        if shard not in self._open:
            if len(self._open) == MAX_OPEN:
                os.close(self._open.pop(next(iter(self._open))))
            path = self._folder / f"{self._name}-{shard:05d}.npy"
            if shard not in self._starts:
                count = min(self._rows_per_shard, len(self._written) - shard * self._rows_per_shard)
                header = {"descr": np.lib.format.dtype_to_descr(self._dtype), "fortran_order": False}
                with path.open("xb") as file:
                    np.lib.format.write_array_header_1_0(file, {**header, "shape": (count, *self._shape)})
                    self._starts[shard] = file.tell()
            self._open[shard] = os.open(path, os.O_WRONLY)
        return self._open[shard]


class Reader:
    """Rows of a set of tensors, by (shard, row)."""

    def __init__(self, folder: Path, name: str) -> None:
        paths = sorted(folder.glob(f"{name}-[0-9]*.npy"))
        if not paths:
            raise IntegrityError(f"{folder}/{name}-*.npy: not found; run dvc repro to rebuild it")
        self._shards: list[Array] = []
        for path in paths:
            try:
                self._shards.append(np.load(path, mmap_mode="r", allow_pickle=False))
            except (ValueError, OSError) as error:
                raise IntegrityError(f"{path}: not a readable tensor ({error}); run dvc repro to rebuild it") from error

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one row."""
        return tuple(self._shards[0].shape[1:])

    def take(self, places: npt.NDArray[np.int32]) -> Array:
        """Copies of the rows at `places`, int [n, 2] of (shard, row), in that order: [n, *shape]."""
        out = np.empty((len(places), *self.shape), self._shards[0].dtype)
        for number, (shard, row) in enumerate(places):
            out[number] = self._shards[shard][row]
        return out
