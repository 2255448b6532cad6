"""What follows from an image's name and measurement."""

from __future__ import annotations

from typing import Any

import pytest

from stages.core import facts
from stages.core.measurement import Measurement


def fact(name: str = "cats/a.png", **measured: Any) -> facts.Facts:
    return facts.Facts(name, "cats", None, "0" * 64, Measurement(**{"size_bytes": 9, "format": "PNG"} | measured))


@pytest.mark.parametrize(
    ("name", "format", "matches"),
    [
        ("a.png", "PNG", True),
        ("A.PNG", "PNG", True),
        ("a.jpg", "PNG", False),
        ("a.jpg", "JPEG", True),
        ("a.JPEG", "JPEG", True),
        ("a.tif", "TIFF", True),
        ("a.heic", "HEIC", True),
        ("a.png.jpg", "PNG", False),
        ("png", "PNG", False),
        ("a", "PNG", False),
        ("", "PNG", False),
        ("a.png", None, False),
    ],
)
def test_extension(name: str, format: str | None, matches: bool) -> None:
    assert fact(name, format=format).extension_matches is matches


def test_sides_are_sorted_and_aspect_is_at_least_one() -> None:
    assert fact(width=90, height=60).sides == (60, 90)
    assert fact(width=60, height=90).sides == (60, 90)
    assert fact(width=60, height=90).aspect == 1.5
    assert fact(width=7, height=7).aspect == 1.0


def test_without_pixels_there_is_nothing_to_say() -> None:
    broken = fact(reason="truncated")
    assert not broken.decodes
    assert (broken.sides, broken.aspect, broken.sharpness) == (None, None, None)
    assert fact(width=9, height=9).decodes


@pytest.mark.parametrize(
    ("width", "height", "contrast", "sharpness"),
    [(64, 64, 0.2, 0.3), (64, 900, 0.2, 0.3), (63, 900, 0.2, None), (900, 63, 0.2, None), (900, 900, 0.0, None)],
)
def test_sharpness_of_small_and_of_flat_pictures_is_not_compared(
    width: int, height: int, contrast: float, sharpness: float | None
) -> None:
    found = fact(width=width, height=height, contrast=contrast, sharpness=0.3)
    assert found.sharpness == sharpness
    assert found.measured.sharpness == 0.3


def test_facts_of_a_row_need_no_bytes() -> None:
    measured = Measurement(9, "PNG")
    row = {"name": "a", "label": "cats", "given_split": "val", "image_id": "1" * 64}
    assert facts.of(row, measured) == facts.Facts("a", "cats", "val", "1" * 64, measured)
