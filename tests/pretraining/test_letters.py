"""The renderer: its alphabet, its repeatability, its output."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from pretraining.fonts import ALPHABET, Glyph, draw_ink, find_fonts, legible_glyphs, sampling_weights
from pretraining.letters import Bank, distort, render_bank, split_glyphs
from pretraining.settings import Letters, load_settings

FONTS = 12


@pytest.fixture(scope="module")
def settings() -> Letters:
    return load_settings().letters.model_copy(update={"processes": 1})


@pytest.fixture(scope="module")
def glyphs(settings: Letters) -> list[Glyph]:
    fonts = find_fonts(settings.font_roots)
    if not fonts:
        pytest.skip("no fonts installed under the configured folders")
    # Evenly over the sorted list, so that one family does not set the mean shapes alone.
    return legible_glyphs(fonts[:: max(1, len(fonts) // FONTS)], settings)


def test_alphabet_has_no_digit_or_number() -> None:
    drawn = "".join(ALPHABET)
    assert [c for c in drawn if c.isdigit() or c.isnumeric() or c.isdecimal()] == []
    assert all(character.isalpha() for character in drawn)


def test_alphabet_has_each_character_once() -> None:
    drawn = "".join(ALPHABET)
    assert len(set(drawn)) == len(drawn)


def test_glyphs_are_drawn_from_the_alphabet_only(glyphs: list[Glyph]) -> None:
    assert glyphs
    assert all(glyph.character in ALPHABET[glyph.label] for glyph in glyphs)


def test_masks_are_grey_8_bit_squares_with_ink(glyphs: list[Glyph], settings: Letters) -> None:
    bank = render_bank(glyphs, 64, (1,), settings)
    assert bank.masks.shape == (64, settings.size, settings.size)
    assert bank.masks.dtype == np.uint8
    assert bank.labels.shape == (64,)
    assert bank.labels.dtype == np.int32
    assert bank.masks.min() == 0
    assert bank.masks.max() > 200
    assert (bank.masks.reshape(64, -1).max(axis=1) > 60).mean() > 0.9


def test_same_seed_same_masks_for_any_number_of_processes(glyphs: list[Glyph], settings: Letters) -> None:
    def render(seed: int, processes: int) -> Bank:
        changed = settings.model_copy(update={"processes": processes})
        return render_bank(glyphs, 1100, (seed,), changed)

    first, again, other = render(1, 1), render(1, 2), render(2, 1)
    np.testing.assert_array_equal(first.masks, again.masks)
    np.testing.assert_array_equal(first.labels, again.labels)
    assert (first.masks != other.masks).any()


def test_distortion_without_randomness_keeps_the_glyph_centred_and_filling(settings: Letters) -> None:
    still = dict.fromkeys(("aspect", "rotation", "shear", "perspective", "elastic", "shift"), 0.0)
    steady = settings.model_copy(update={**still, "fill": (1.0, 1.0), "size": 48})
    mask = distort(Image.new("L", (20, 40), 255), 48, np.random.default_rng(0), steady)
    rows, columns = np.nonzero(mask > 127)
    assert (rows.min(), rows.max()) == (0, 47)
    assert abs((columns.min() + columns.max()) / 2 - 23.5) <= 1
    assert abs((columns.max() - columns.min() + 1) - 24) <= 2


def test_classes_are_equally_likely(glyphs: list[Glyph]) -> None:
    totals = np.bincount([glyph.label for glyph in glyphs], sampling_weights(glyphs))
    present = totals[totals > 0]
    np.testing.assert_allclose(present, 1 / len(present))


def test_held_out_fonts_are_never_trained_on(glyphs: list[Glyph]) -> None:
    train, held = split_glyphs(glyphs, 0.25, (3,))
    assert held
    assert not {glyph.font for glyph in train} & {glyph.font for glyph in held}
    assert len(train) + len(held) == len(glyphs)


def test_a_blank_character_draws_nothing(glyphs: list[Glyph]) -> None:
    assert draw_ink(glyphs[0].font, " ", 40) is None
