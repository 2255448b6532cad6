"""A view's name holds everything that decides its pixels."""

from __future__ import annotations

import numpy as np
import pytest

from stages.core import views
from stages.core.augmentation import Augmentation

IMAGE = "ab" * 32
OTHER = {
    "flip": False, "rotation": 0.2, "zoom": 0.2, "translation": 0.2, "brightness": 0.2, "contrast": 0.2,
    "vertical_flip": True, "saturation": 0.2, "hue": 0.2, "cutout": 0.2,
}  # fmt: skip


def test_every_limit_is_tried() -> None:
    assert set(OTHER) == set(Augmentation.model_fields)


@pytest.mark.parametrize("name", OTHER)
def test_each_limit_decides_a_views_name_and_pixels_but_not_the_images(name: str) -> None:
    limits = Augmentation()
    changed = limits.model_copy(update={name: OTHER[name]})
    assert views.key(IMAGE, 1, limits, 1) != views.key(IMAGE, 1, changed, 1)
    assert views.key(IMAGE, 0, limits, 1) == views.key(IMAGE, 0, changed, 1)
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    made, others = (
        [views.pixels_of(pixels, IMAGE, number, kind, 1) for number in range(6)] for kind in (limits, changed)
    )
    assert np.array_equal(made[0], others[0])
    assert not all(np.array_equal(*pair) for pair in zip(made, others, strict=True))


def test_number_and_seed_name_a_view_too() -> None:
    names = {views.key(IMAGE, number, Augmentation(), seed) for number in (1, 2) for seed in (1, 2)}
    assert len(names) == 4
