"""Augmented views: seeded by their key, bounded, and doing what each parameter says."""

from __future__ import annotations

import numpy as np
import pytest

from stages.core.augmentation import Augmentation, augment

NOTHING = Augmentation(flip=False, rotation=0.0, zoom=0.0, translation=0.0, brightness=0.0, contrast=0.0)


@pytest.fixture
def pixels() -> np.ndarray:
    ramp = np.linspace(20, 220, 48)
    channels = [np.tile(ramp, (48, 1)), np.tile(ramp[:, None], (1, 48)), np.full((48, 48), 90)]
    return np.stack(channels, -1).astype(np.uint8)


def test_the_key_decides_the_view(pixels: np.ndarray) -> None:
    views = [augment(pixels, Augmentation(), f"1:id:{number}") for number in (1, 2, 1)]
    assert views[0].shape == pixels.shape
    assert views[0].dtype == np.uint8
    assert np.array_equal(views[0], views[2])
    assert not np.array_equal(views[0], views[1])


def test_all_off_changes_nothing(pixels: np.ndarray) -> None:
    assert all(np.array_equal(augment(pixels, NOTHING, str(key)), pixels) for key in range(5))


def test_flip_mirrors_half_of_the_views(pixels: np.ndarray) -> None:
    limits = NOTHING.model_copy(update={"flip": True})
    flipped = [np.array_equal(augment(pixels, limits, str(key)), pixels[:, ::-1]) for key in range(100)]
    assert 35 <= sum(flipped) <= 65


def test_a_flip_with_a_turn_is_the_turned_mirror_image(pixels: np.ndarray) -> None:
    turned = NOTHING.model_copy(update={"rotation": 0.1, "translation": 0.1})
    keys = [str(key) for key in range(40)]
    mirrored = 0
    for key in keys:
        plain = augment(pixels, turned, key).astype(int)
        both = augment(pixels, turned.model_copy(update={"flip": True}), key).astype(int)
        of_mirror = augment(np.ascontiguousarray(pixels[:, ::-1]), turned, key).astype(int)
        if not np.array_equal(both, plain):
            mirrored += 1
            assert np.abs(both - of_mirror).max() <= 4  # the interpolation's rounding
    assert 8 <= mirrored <= 32


def test_a_shift_moves_content_by_at_most_its_share() -> None:
    dot = np.zeros((41, 41, 3), np.uint8)
    dot[20, 20] = 255
    limits = NOTHING.model_copy(update={"translation": 0.2})
    found = [np.argwhere(augment(dot, limits, str(key))[:, :, 0] > 60).mean(0) - 20 for key in range(60)]
    assert 4 < np.abs(found).max() <= 8.6
    assert np.std(np.array(found), axis=0).min() > 1


def test_a_turn_keeps_the_centre_and_moves_the_rim() -> None:
    bar = np.zeros((41, 41, 3), np.uint8)
    bar[20, :] = 255
    view = augment(bar, NOTHING.model_copy(update={"rotation": 0.25}), "a")
    assert view[20, 20, 0] > 150
    assert not np.array_equal(view, bar)


def test_zoom_changes_the_size_of_things() -> None:
    square = np.zeros((60, 60, 3), np.uint8)
    square[20:40, 20:40] = 255
    limits = NOTHING.model_copy(update={"zoom": 0.5})
    areas = [(augment(square, limits, str(key))[:, :, 0] > 127).sum() for key in range(40)]
    assert min(areas) < 250
    assert max(areas) > 700


def test_brightness_and_contrast_stay_in_range(pixels: np.ndarray) -> None:
    light = [augment(pixels, NOTHING.model_copy(update={"brightness": 0.3}), str(key)).mean() for key in range(40)]
    assert max(light) - pixels.mean() == pytest.approx(0.3 * 255, abs=12)
    spread = [augment(pixels, NOTHING.model_copy(update={"contrast": 0.5}), str(key)).std() for key in range(40)]
    assert min(spread) < 0.7 * pixels.std()
    assert max(spread) > 1.3 * pixels.std()
    assert not np.array_equal(augment(pixels, NOTHING.model_copy(update={"brightness": 0.9}), "x"), pixels)
