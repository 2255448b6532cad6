"""Pixels of chosen images out of the raw shards, in the shards' order."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from stages.core import images
from stages.core.errors import IntegrityError
from stages.core.schemas import IMAGES
from stages.store import tables

RAW = Path("data/download/images")


def read(names: Collection[str], size: int, folder: Path = RAW) -> Iterator[tuple[str, npt.NDArray[np.uint8]]]:
    """(name, uint8 [size, size, 3]) of every named image, decoded and resized as for training.

    Raises IntegrityError where a named image is missing or does not decode: validate accepted it.
    """
    for name, data in read_bytes(names, folder):
        try:
            yield name, images.resize(images.decode(data), size)
        except images.Undecodable as error:
            raise IntegrityError(f"{name}: accepted by validate but {error}; run dvc repro --force") from error


def read_bytes(names: Collection[str], folder: Path = RAW) -> Iterator[tuple[str, bytes]]:
    """(name, file bytes) of every named image, one row group in memory at a time."""
    wanted = set(names)
    if not wanted:
        return
    for row in tables.iterate(folder, IMAGES, ["name", "bytes"]):
        if row["name"] in wanted:
            wanted.discard(row["name"])
            yield row["name"], row["bytes"]
            if not wanted:
                return
    if wanted:
        first = min(wanted)
        raise IntegrityError(f"{folder}: {len(wanted)} accepted images are missing, first {first!r}; run dvc repro")
