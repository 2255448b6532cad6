"""Chosen images out of the shards."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stages.core.errors import IntegrityError
from stages.core.schemas import IMAGES
from stages.store import pictures, tables

NAMES = [f"cats/{number:02}.png" for number in range(12)]


def picture(number: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (number, 2 * number, 0)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Twelve pictures, each of its number's colour, five to a shard; the eighth is not one."""
    rows = [
        {"name": name, "label": "cats", "given_split": None, "bytes": b"no picture" if number == 7 else picture(number)}
        for number, name in enumerate(NAMES)
    ]
    for row in rows:
        row["image_id"] = hashlib.sha256(row["bytes"]).hexdigest()
    for start in range(0, len(rows), 5):
        tables.write(tmp_path / f"{start:02}.parquet", tables.from_rows(rows[start : start + 5], IMAGES))
    return tmp_path


@pytest.mark.parametrize("threads", [1, 3])
def test_each_is_given_with_its_number_among_those_asked_for(shards: Path, threads: int) -> None:
    asked = [NAMES[at] for at in (0, 3, 4, 5, 9, 11)]

    def colour(number: int, pixels: np.ndarray) -> tuple[int, int]:
        return number, int(pixels[0, 0, 0])

    found = list(pictures.mapped(colour, iter(asked), 4, threads, shards))
    assert found == list(zip(asked, [(0, 0), (1, 3), (2, 4), (3, 5), (4, 9), (5, 11)], strict=True))
    assert [name for name, _ in pictures.read_bytes(asked, shards)] == asked
    assert list(pictures.read([], 4, shards)) == []


@pytest.mark.parametrize("absent", ["cats/035.png", "cats/99.png", "a"])
def test_what_is_missing_is_named(shards: Path, absent: str) -> None:
    with pytest.raises(IntegrityError, match=f"'{absent}', which validate accepted, is missing; run dvc repro"):
        list(pictures.read_bytes(sorted([NAMES[2], absent, NAMES[8]]), shards))


def test_what_does_not_decode_is_named(shards: Path) -> None:
    with pytest.raises(IntegrityError, match=r"cats/07\.png: accepted by validate but not_an_image"):
        list(pictures.read(NAMES, 4, shards))
