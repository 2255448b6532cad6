"""Pixels of chosen images out of the raw shards, in the shards' order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from stages.core import images
from stages.core.errors import IntegrityError
from stages.core.schemas import IMAGES
from stages.store import tables

T = TypeVar("T")
Pixels = npt.NDArray[np.uint8]
RAW = Path("data/download/images")
AHEAD = 8  # pictures per thread that are prepared before they are asked for


def read(names: Iterable[str], size: int, folder: Path = RAW) -> Iterator[tuple[str, Pixels]]:
    """(name, uint8 [size, size, 3]) of every named image, decoded and resized as for training.

    `names` ascend, as the shards' do: so none needs to be remembered. Raises IntegrityError where one is missing or
    does not decode, though validate accepted it.
    """
    return mapped(lambda _, pixels: pixels, names, size, 1, folder)


def mapped(
    function: Callable[[int, Pixels], T], names: Iterable[str], size: int, threads: int, folder: Path = RAW
) -> Iterator[tuple[str, T]]:
    """(name, function(its number among `names`, pixels)) as `read` gives them, computed by threads some ahead."""

    def work(number: int, name: str, data: bytes) -> T:
        try:
            pixels = images.decode_resized(data, size)
        except images.Undecodable as error:
            raise IntegrityError(f"{name}: accepted by validate but {error}; run dvc repro --force") from error
        return function(number, pixels)

    waiting: deque[tuple[str, Future[T]]] = deque()
    pool = ThreadPoolExecutor(threads)
    try:
        for number, (name, data) in enumerate(read_bytes(names, folder)):
            waiting.append((name, pool.submit(work, number, name, data)))
            if len(waiting) > threads * AHEAD:
                first, done = waiting.popleft()
                yield first, done.result()
        for first, done in waiting:
            yield first, done.result()
    finally:
        pool.shutdown(cancel_futures=True)


def read_bytes(names: Iterable[str], folder: Path = RAW) -> Iterator[tuple[str, bytes]]:
    """(name, file bytes) of every named image, one row group in memory at a time. `names` ascend."""
    left = iter(names)
    wanted = next(left, None)
    if wanted is None:
        return
    for row in tables.iterate(folder, IMAGES, ["name", "bytes"]):
        if row["name"] > wanted:
            break
        if row["name"] == wanted:
            yield row["name"], row["bytes"]
            wanted = next(left, None)
            if wanted is None:
                return
    raise IntegrityError(f"{folder}: {wanted!r}, which validate accepted, is missing; run dvc repro")
