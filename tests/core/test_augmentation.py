"""Augmented views: seeded by their key, bounded, and doing what each parameter says."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from stages.core.augmentation import Augmentation, augment

NOTHING = Augmentation(flip=False, rotation=0.0, zoom=0.0, translation=0.0, brightness=0.0, contrast=0.0)
BEFORE = {
    "default": "88e969510ed44a00514e2b29d27cd89934e1135faeac6dfeb3eab8639f9b285f",
    "digits": "06fcafe75348e1a0abf3cc8669a009ff464b4fe89c12c6122cba68936ca0ad00",
}


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


def test_views_made_before_colour_and_cutout_came_are_the_same_bytes() -> None:
    """The digests were taken of the views that the function gave then."""
    random = np.random.default_rng(7)
    noise = random.integers(0, 256, (40, 40, 3), np.uint8)
    kinds = {
        "default": Augmentation(),
        "digits": Augmentation(
            flip=False, rotation=0.03, zoom=0.1, translation=0.06, brightness=0.05, contrast=0.1
        ),
    }  # fmt: skip
    found = {
        name: hashlib.sha256(b"".join(augment(noise, limits, f"1:id:{n}").tobytes() for n in range(30))).hexdigest()
        for name, limits in kinds.items()
    }
    assert found == BEFORE


def test_what_is_added_does_not_move_the_other_draws(pixels: np.ndarray) -> None:
    for key in range(20):
        plain = augment(pixels, Augmentation(), str(key))
        cut = augment(pixels, Augmentation(cutout=0.5), str(key))
        kept = (cut != 128).any(-1)
        assert np.array_equal(cut[kept], plain[kept])


def test_a_vertical_flip_mirrors_half_of_the_views_apart_from_the_other(pixels: np.ndarray) -> None:
    both = NOTHING.model_copy(update={"flip": True, "vertical_flip": True})
    kinds = [pixels, pixels[:, ::-1], pixels[::-1], pixels[::-1, ::-1]]
    found = [[np.array_equal(augment(pixels, both, str(key)), kind) for kind in kinds] for key in range(200)]
    assert all(sum(row) == 1 for row in found)
    assert all(30 <= count <= 70 for count in np.sum(found, axis=0))


def test_saturation_moves_colours_from_grey_and_leaves_grey(pixels: np.ndarray) -> None:
    def colourfulness(picture: np.ndarray) -> float:
        return float(np.mean(picture.max(-1).astype(int) - picture.min(-1)))

    limits = NOTHING.model_copy(update={"saturation": 0.5})
    # Channels far from 0 and 255, so that nothing is clipped.
    mild = (110 + pixels.astype(int) // 8).astype(np.uint8)
    found = np.array([colourfulness(augment(mild, limits, str(key))) for key in range(60)]) / colourfulness(mild)
    assert 0.47 <= found.min() < 0.6
    assert 1.4 < found.max() <= 1.53
    grey = np.repeat(pixels[:, :, :1], 3, axis=-1)
    assert all(np.array_equal(augment(grey, limits, str(key)), grey) for key in range(5))


def test_hue_turns_within_its_range_and_keeps_value_and_saturation() -> None:
    import colorsys

    red = np.full((8, 8, 3), (200, 40, 40), np.uint8)
    limits = NOTHING.model_copy(update={"hue": 0.25})
    views = [augment(red, limits, str(key))[0, 0] for key in range(60)]
    hues, saturations, values = zip(*(colorsys.rgb_to_hsv(*(view / 255)) for view in views), strict=True)
    turns = [(hue + 0.5) % 1 - 0.5 for hue in hues]
    assert -0.255 <= min(turns) < -0.2
    assert 0.2 < max(turns) <= 0.255
    assert saturations == pytest.approx([0.8] * 60, abs=0.01)
    assert values == pytest.approx([200 / 255] * 60, abs=0.005)
    grey = np.full((8, 8, 3), 77, np.uint8)
    assert np.array_equal(augment(grey, limits, "x"), grey)


def test_cutout_greys_one_square_of_at_most_its_share() -> None:
    white = np.full((50, 50, 3), 255, np.uint8)
    limits = NOTHING.model_copy(update={"cutout": 0.4})
    sides, corners = [], 0
    for key in range(200):
        view = augment(white, limits, str(key))
        gone = (view == 128).all(-1)
        assert np.array_equal(view[~gone], white[~gone])
        if not gone.any():
            continue
        rows, columns = np.flatnonzero(gone.any(1)), np.flatnonzero(gone.any(0))
        assert gone[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        inside = rows[0] > 0 and rows[-1] < 49 and columns[0] > 0 and columns[-1] < 49
        corners += not inside
        if inside:
            assert len(rows) == len(columns)
            sides.append(len(rows))
    assert 17 <= max(sides) <= 20
    assert min(sides) <= 3
    assert 20 < corners < 120  # some lie partly outside
