"""Tensors on disk: `.npy` shards, written row by row and read through memory maps.

A set named `pooled-train` lies in `pooled-train-00000.npy`, `pooled-train-00001.npy`, …, each of
`rows_per_shard` rows but the last. Memory maps keep a training's memory flat however many rows there are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stages.core.errors import IntegrityError

Array = npt.NDArray[Any]


class Writer:
    """Appends rows to a set of tensors whose number of rows is known from the start."""

    def __init__(
        self, folder: Path, name: str, rows: int, shape: tuple[int, ...], dtype: npt.DTypeLike, rows_per_shard: int
    ) -> None:
        self._folder, self._name, self._rows, self._shape = folder, name, rows, shape
        self._dtype, self._rows_per_shard = np.dtype(dtype), rows_per_shard
        self._next = 0
        self._open: Array | None = None

    def append(self, row: Array) -> tuple[int, int]:
        """Store one row, converted to the set's dtype; returns (shard, row within the shard)."""
        shard, place = divmod(self._next, self._rows_per_shard)
        if place == 0:
            count = min(self._rows_per_shard, self._rows - self._next)
            path = self._folder / f"{self._name}-{shard:05d}.npy"
            self._open = np.lib.format.open_memmap(path, "w+", dtype=self._dtype, shape=(count, *self._shape))
        assert self._open is not None
        self._open[place] = row
        self._next += 1
        if place == len(self._open) - 1:
            self._open.flush()  # type: ignore[attr-defined]
            self._open = None
        return shard, place

    def close(self) -> None:
        """Raise IntegrityError unless every row that was announced has been written."""
        if self._next != self._rows:
            raise IntegrityError(f"{self._folder}/{self._name}: {self._next} rows written, {self._rows} announced")


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
