"""The report shows the very views that were trained on, and says what each parameter allows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from stages.core import augmentation_sheet, views
from stages.core.augmentation import Augmentation
from stages.core.page import Page

LIMITS = Augmentation(cutout=0.3, hue=0.1)
RANDOM = np.random.default_rng(0)
PICTURES = [
    augmentation_sheet.Picture(f"{name}.png", name * 64, label, RANDOM.integers(0, 256, (16, 16, 3), np.uint8))
    for name, label in (("a", "cat"), ("b", "<dog>"), ("c", "cat"))
]


def test_one_of_each_class_comes_first() -> None:
    labels = np.array([1, 1, 1, 0, 2, 0], np.int32)
    assert augmentation_sheet.chosen(labels, 3) == [0, 3, 4]
    assert augmentation_sheet.chosen(labels, 5) == [0, 1, 3, 4, 5]
    assert augmentation_sheet.chosen(labels, 9) == list(range(6))
    assert augmentation_sheet.chosen(np.array([], np.int32), 4) == []


def test_the_views_are_those_that_are_stored() -> None:
    rows = augmentation_sheet.of_views(PICTURES, 3, LIMITS, 7)
    assert [len(row) for row in rows] == [3, 3, 3]
    for picture, row in zip(PICTURES, rows, strict=True):
        assert np.array_equal(row[0][0], picture.pixels)
        for number, (pixels, _) in enumerate(row):
            assert np.array_equal(pixels, views.pixels_of(picture.pixels, picture.image_id, number, LIMITS, 7))
    assert [said for _, said in rows[1]] == ["<dog>: b.png", "view 1", "view 2"]
    assert {len(row) for row in augmentation_sheet.of_views(PICTURES, 64, LIMITS, 7)} == {augmentation_sheet.MOST}


def test_mixed_pictures_stand_over_the_shares_of_their_classes() -> None:
    assert augmentation_sheet.of_mixed(PICTURES, 0.0, 0.0, 1) == []
    averaged, pasted = augmentation_sheet.of_mixed(PICTURES, 1.0, 1.0, 1)
    assert len(averaged) == len(pasted) == 3
    known = [picture.pixels for picture in PICTURES]
    for pixels, said in pasted:
        assert said.startswith("CutMix: ")
        assert "%" in said
        assert all(any((pixel == one[y, x]).all() for one in known) for y, row in enumerate(pixels)
                   for x, pixel in enumerate(row))  # fmt: skip
    assert all(said.startswith("MixUp: ") for _, said in averaged)
    assert [len(augmentation_sheet.of_mixed(PICTURES, *on, 1)) for on in ((0.2, 0.0), (0.0, 1.0))] == [1, 1]
    assert augmentation_sheet.of_mixed([], 1.0, 1.0, 1) == []


@pytest.mark.parametrize("cut", [0, 97])
def test_the_section_says_what_is_on_and_off(cut: int) -> None:
    page = Page("Evaluation")
    page.contents()
    trunk: dict[str, Any] = {"cut": cut, "settings": {"views": 4, "augmentation": {"rotation": 0.25, "cutout": 0.125}}}
    rows = [[(b"png", "<b>cat</b>")]]
    augmentation_sheet.add(page, rows, trunk, {"mixup": 0.0, "cutmix": 0.75})
    html = page.render()
    assert "<b>cat" not in html
    for name, value in (("augmentation.rotation", "0.25"), ("augmentation.cutout", "0.125"), ("cutmix", "0.75")):
        row = html[html.index(f"<td>{name}</td>") :]
        assert value in row[: row.index("</tr>")]
    off = html[html.index("Off: ") :]
    assert "augmentation.saturation" in off[: off.index("</caption>")]
    assert "augmentation.hue" in off
    assert "<td>mixup</td>" not in html
    assert ("activations at layer 97" in html) == (cut == 97)
    assert ("stored as 4 views" in html) == (cut == 97)
    assert ("does the same to their activations" in html) == (cut == 97)
