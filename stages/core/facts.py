"""What is measured about one image, as a pure function of its name and bytes."""

from __future__ import annotations

import hashlib
import multiprocessing
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from PIL import Image

from stages.core import images
from stages.core.errors import IntegrityError

CHUNK = 64  # images handed to a process at a time
SHARPNESS_SIDE = 64  # pixels; images are compared at one size, or large ones would look sharper
EXTENSIONS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png", ".apng"),
    "GIF": (".gif",),
    "BMP": (".bmp", ".dib"),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
    "HEIC": (".heic", ".heif"),
    "AVIF": (".avif",),
}


@dataclass(frozen=True)
class Facts:
    """Facts of one image; units and meaning as in schemas.FACTS. None where it gives no pixels."""

    name: str
    label: str
    given_split: str | None
    image_id: str
    size_bytes: int
    format: str | None
    extension_matches: bool
    reason: str | None = None  # why it gives no pixels: one of images.REASONS
    detail: str = ""
    width: int | None = None
    height: int | None = None
    aspect: float | None = None
    mode: str | None = None
    frames: int | None = None
    orientation: int | None = None
    brightness: float | None = None
    contrast: float | None = None
    sharpness: float | None = None
    dhash: str | None = None
    dhash_down: str | None = None  # as `dhash` but of neighbours above and below; in no table

    @property
    def decodes(self) -> bool:
        return self.reason is None


def measure(row: Mapping[str, Any]) -> Facts:
    """Facts of one row of schemas.IMAGES.

    Raises IntegrityError where the bytes are not those `image_id` was taken from.
    """
    data: bytes = row["bytes"]
    if hashlib.sha256(data).hexdigest() != row["image_id"]:
        raise IntegrityError(
            f"{row['name']!r}: its bytes do not hash to its image_id {row['image_id']}; the stored images "
            f"are damaged. Run `dvc repro -f download` to rebuild them"
        )
    found = images.sniff(data)
    known: dict[str, Any] = {
        "name": row["name"],
        "label": row["label"],
        "given_split": row["given_split"],
        "image_id": row["image_id"],
        "size_bytes": len(data),
        "format": found,
        "extension_matches": row["name"].lower().endswith(EXTENSIONS.get(found or "", ())),
    }
    try:
        decoded = images.examine(data)
    except images.Undecodable as error:
        return Facts(**known, reason=error.reason, detail=error.detail)
    height, width, _ = decoded.pixels.shape
    luma = Image.fromarray(decoded.pixels).convert("L")
    brightness, contrast = _level(luma)
    return Facts(
        **known,
        width=width,
        height=height,
        aspect=max(width, height) / min(width, height),
        mode=decoded.mode,
        frames=decoded.frames,
        orientation=decoded.orientation,
        brightness=brightness,
        contrast=contrast,
        sharpness=_sharpness(luma),
        dhash=_difference_hash(luma),
        dhash_down=_difference_hash(luma.transpose(Image.Transpose.TRANSPOSE)),
    )


def measure_all(rows: Iterable[Mapping[str, Any]], workers: int) -> Iterator[Facts]:
    """`measure` for every row, in order, over `workers` processes (1: in this one).

    The result is the same for every number. A few chunks are in flight at a time, so memory holds
    those chunks' bytes and not the data set's.
    """
    if workers == 1:
        yield from map(measure, rows)
        return
    source = iter(rows)
    # Not fork: a forked copy of a process that runs threads can hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        flying: deque[Future[list[Facts]]] = deque()
        while True:
            while len(flying) < 2 * workers and (chunk := list(islice(source, CHUNK))):
                flying.append(pool.submit(_measure_chunk, chunk))
            if not flying:
                return
            yield from flying.popleft().result()


def _measure_chunk(rows: list[Mapping[str, Any]]) -> list[Facts]:
    return [measure(row) for row in rows]


def _level(luma: Image.Image) -> tuple[float, float]:
    """Mean (0-1) and standard deviation (0-0.5) of luma, from whole counts, so that order cannot matter."""
    counts = np.array(luma.histogram(), dtype=np.int64)
    values = np.arange(256, dtype=np.int64)
    total = int(counts.sum())
    mean = int(counts @ values) / total
    variance = max(0.0, int(counts @ values**2) / total - mean**2)
    return mean / 255, variance**0.5 / 255


def _sharpness(luma: Image.Image) -> float:
    """Variance of the Laplacian at 64 x 64, on the 0-1 scale: near 0 for a blurred or empty picture."""
    grey = np.asarray(luma.resize((SHARPNESS_SIDE, SHARPNESS_SIDE), Image.Resampling.BILINEAR), dtype=np.int64)
    sides = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
    laplacian = sides - 4 * grey[1:-1, 1:-1]
    count = laplacian.size
    variance = int((laplacian**2).sum()) / count - (int(laplacian.sum()) / count) ** 2
    return max(0.0, variance) / 255**2


def _difference_hash(luma: Image.Image) -> str:
    """16 hex digits, a bit per pair of neighbours in a 9 x 8 thumbnail: is the right one brighter?"""
    grey = np.asarray(luma.resize((9, 8), Image.Resampling.BILINEAR))
    bits = (grey[:, 1:] > grey[:, :-1]).ravel()
    return np.packbits(bits).tobytes().hex()
