"""Facts of one image, measured on pictures whose facts are known beforehand."""

from __future__ import annotations

import hashlib
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stages.core import facts
from stages.core.errors import IntegrityError


def row(data: bytes, name: str = "cats/a.png") -> dict[str, Any]:
    return {
        "name": name,
        "label": "cats",
        "given_split": "val",
        "image_id": hashlib.sha256(data).hexdigest(),
        "bytes": data,
    }


def encode(pixels: Any, format: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.asarray(pixels, np.uint8)).save(file, format)
    return file.getvalue()


def measure(pixels: Any, **options: Any) -> facts.Facts:
    return facts.measure(row(encode(pixels), **options))


def test_known_picture() -> None:
    pixels = np.zeros((30, 60, 3))
    pixels[:, 30:] = 255  # left half black, right half white
    found = measure(pixels)
    assert (found.label, found.given_split) == ("cats", "val")
    assert (found.width, found.height, found.aspect) == (60, 30, 2.0)
    assert (found.format, found.mode, found.frames, found.orientation) == ("PNG", "RGB", 1, 1)
    assert found.brightness == pytest.approx(0.5)
    assert found.contrast == pytest.approx(0.5)
    assert found.decodes
    assert found.extension_matches
    assert found.size_bytes == len(encode(pixels))


def test_flat_picture_has_no_contrast_and_no_sharpness() -> None:
    found = measure(np.full((20, 20, 3), 51))
    assert (found.brightness, found.contrast, found.sharpness) == (pytest.approx(0.2), 0.0, 0.0)


def test_blurring_lowers_sharpness_and_size_does_not() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16)).astype(np.uint8))

    def sharpness(through: int, size: int) -> float:
        small = noise.resize((through, through), Image.Resampling.BILINEAR)
        return measure(small.resize((size, size), Image.Resampling.BICUBIC)).sharpness or 0

    assert sharpness(4, 128) < sharpness(16, 128) / 20
    assert sharpness(16, 256) == pytest.approx(sharpness(16, 128), rel=0.2)


def test_hash_follows_the_picture_and_not_its_encoding() -> None:
    ramp = np.tile(np.arange(0, 240, 4), (60, 1))
    assert measure(ramp).dhash == "f" * 16  # brighter to the right everywhere
    assert measure(ramp[:, ::-1]).dhash == "0" * 16
    assert measure(ramp.T).dhash_down == "f" * 16
    noise = np.random.default_rng(1).integers(0, 256, (40, 40, 3))
    assert facts.measure(row(encode(noise))).dhash == facts.measure(row(encode(noise, "BMP"))).dhash


def test_bytes_that_give_no_pixels_keep_their_reason() -> None:
    found = facts.measure(row(b"<html>"))
    assert (found.reason, found.decodes, found.format, found.width) == ("not_an_image", False, None, None)
    assert facts.measure(row(b"")).reason == "empty"


@pytest.mark.parametrize(
    ("name", "matches"), [("a.png", True), ("A.PNG", True), ("a.jpg", False), ("png", False), ("a", False)]
)
def test_extension(name: str, matches: bool) -> None:
    assert measure(np.zeros((9, 9)), name=name).extension_matches is matches


def test_damaged_bytes_stop_the_stage_and_name_the_file() -> None:
    damaged = row(encode(np.zeros((9, 9)))) | {"image_id": "0" * 64}
    with pytest.raises(IntegrityError, match=r"cats/a\.png"):
        facts.measure(damaged)


def test_two_processes_give_what_one_gives() -> None:
    rng = np.random.default_rng(2)
    rows = [row(encode(rng.integers(0, 256, (9, 9))), name=f"{number}.png") for number in range(70)]
    alone = list(facts.measure_all(rows, 1))
    assert list(facts.measure_all(rows, 2)) == alone
    assert [fact.name for fact in alone] == [f"{number}.png" for number in range(70)]
