"""Which characters are drawn, in which fonts: the alphabet, and the glyphs that are legible."""

from __future__ import annotations

import functools
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from pretraining.settings import Letters

# One entry per class. Case pairs of one shape share a class: at an unknown size nothing tells them apart.
ALPHABET: tuple[str, ...] = (
    *("A", "a", "B", "b", "Cc", "D", "d", "E", "e", "F", "f", "G", "g", "H", "h", "Il", "i", "J", "j", "Kk"),
    *("L", "M", "m", "N", "n", "Oo", "Pp", "Q", "q", "R", "r", "Ss", "T", "t", "Uu", "Vv", "Ww", "Xx", "Yy"),
    *("Zz", "Γ", "Δ", "Θ", "Λ", "Ξ", "Π", "Σ", "Φ", "Ψ", "Ω", "β", "δ", "ε", "ζ", "θ", "λ", "μ", "ξ", "π"),
    *("σ", "φ", "ψ"),
)
# A code point no font maps: what it draws is the font's own mark for a missing glyph.
MISSING = "\U000fff00"
LEGIBILITY_FONT_SIZE = 40  # pixels per em, for judging only


@dataclass(frozen=True)
class Glyph:
    """One character in one font file; `label` is its class, an index into ALPHABET."""

    font: str
    character: str
    label: int


def find_fonts(roots: tuple[Path, ...]) -> list[str]:
    """Paths of all .ttf and .otf files under `roots`, sorted, so that a seed means the same draws."""
    files = (path for root in roots for path in root.rglob("*") if path.suffix.lower() in {".ttf", ".otf"})
    return sorted(str(path) for path in files)


@functools.lru_cache(maxsize=4096)
def load_font(path: str, size: int) -> ImageFont.FreeTypeFont:
    """The font at `size` pixels per em, without shaping: single letters need none."""
    return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)


def draw_ink(font: str, character: str, size: int, stroke: int = 0) -> Image.Image | None:
    """The character's ink, cropped to its box, as an 8-bit mask (255 is ink); None if it draws nothing.

    `size` is pixels per em, `stroke` pixels added around the outline.
    """
    canvas = Image.new("L", (3 * size, 3 * size))
    face = load_font(font, size)
    ImageDraw.Draw(canvas).text((size, size // 2), character, fill=255, font=face, stroke_width=stroke)
    box = canvas.getbbox()
    if box is None:
        return None
    return canvas.crop(box)


def normalised(ink: Image.Image, side: int) -> NDArray[np.float32]:
    """The ink fitted into a square without stretching, as a (side * side,) vector of mean 0 and length 1."""
    scale = side / max(ink.size)
    width, height = (max(1, round(scale * extent)) for extent in ink.size)
    square = Image.new("L", (side, side))
    square.paste(ink.resize((width, height), Image.Resampling.BOX), ((side - width) // 2, (side - height) // 2))
    vector = np.asarray(square, np.float32).ravel()
    vector -= vector.mean()
    return vector / max(float(np.linalg.norm(vector)), 1e-6)


def _shapes(font: str, side: int) -> dict[tuple[str, int], NDArray[np.float32]]:
    """Normalised shape per (character, label) that the font really draws; none if the font is unreadable."""
    try:
        missing = draw_ink(font, MISSING, LEGIBILITY_FONT_SIZE)
        inks = {
            (character, label): draw_ink(font, character, LEGIBILITY_FONT_SIZE)
            for label, characters in enumerate(ALPHABET)
            for character in characters
        }
    except OSError:  # Pillow's answer to a damaged or unsupported file
        return {}
    blank = None if missing is None else missing.tobytes()
    return {key: normalised(ink, side) for key, ink in inks.items() if ink and ink.tobytes() != blank}


def legible_glyphs(fonts: list[str], settings: Letters) -> list[Glyph]:
    """Glyphs that look like their letter.

    Each is compared, by correlation of normalised shapes, with the mean shape of every character over
    all fonts. Symbol fonts and missing glyphs resemble nothing; capitals drawn in place of small letters
    resemble another class more than their own. Both would be wrong labels.
    """
    shapes = {font: _shapes(font, settings.template_size) for font in fonts}
    keys = sorted({key for drawn in shapes.values() for key in drawn}, key=lambda key: (key[1], key[0]))
    labels = np.array([label for _, label in keys])
    means = np.stack([np.mean([drawn[key] for drawn in shapes.values() if key in drawn], axis=0) for key in keys])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    glyphs = []
    for font, drawn in shapes.items():
        for (character, label), vector in drawn.items():
            similarity = means @ vector
            own = similarity[labels == label].max()
            rival = similarity[labels != label].max()
            if own >= settings.min_similarity and rival - own <= settings.rival_margin:
                glyphs.append(Glyph(font, character, label))
    return glyphs


def sampling_weights(glyphs: list[Glyph]) -> NDArray[np.float64]:
    """Probability per glyph, shape (glyphs,): classes equally often, a big font family not the more for it.

    Files of one folder share that folder's weight, the square root of its number of glyphs in the class.
    """
    groups = [(glyph.label, str(Path(glyph.font).parent)) for glyph in glyphs]
    sizes = Counter(groups)
    weights = np.array([sizes[group] ** -0.5 for group in groups])
    totals = np.bincount([glyph.label for glyph in glyphs], weights)
    weights /= totals[[glyph.label for glyph in glyphs]]
    return weights / weights.sum()
