"""The renderer: letters drawn in many fonts and distorted, as grey masks. Never a digit."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from pretraining.fonts import Glyph, draw_ink, find_fonts, legible_glyphs, sampling_weights
from pretraining.settings import Letters

CELLS = 4  # the warp is bilinear inside each cell of a CELLS x CELLS grid
SIZE_STEP = 8  # drawn font sizes are multiples of this many pixels, so that loaded fonts are reused
CHUNK = 1000  # masks per task of a worker; part of what a seed means


@dataclass(frozen=True)
class Bank:
    """Rendered masks: `masks` uint8 (count, size, size), 255 is ink; `labels` int32 (count,)."""

    masks: NDArray[np.uint8]
    labels: NDArray[np.int32]


def warp_grid(rng: np.random.Generator, settings: Letters) -> NDArray[np.float64]:
    """Where each corner of the grid over the mask looks in the drawing, shape (CELLS + 1, CELLS + 1, 2).

    (x, y) in both: 0 is the centre; +-1 are the edges of the mask, and for the result the ends of the
    glyph's larger side. Composes placement, perspective, rotation, shear, stretch and an elastic part.
    """
    axis = np.linspace(-1.0, 1.0, CELLS + 1)
    points = np.stack(np.meshgrid(axis, axis), axis=-1)
    points = points - rng.normal(0.0, settings.shift, 2)
    points = points / np.maximum(1.0 + points @ rng.normal(0.0, settings.perspective, 2), 0.4)[..., None]
    angle = np.radians(rng.normal(0.0, settings.rotation))
    stretch = np.exp(rng.normal(0.0, settings.aspect) / 2)
    rotate = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    shear = np.array([[1.0, rng.normal(0.0, settings.shear)], [0.0, 1.0]])
    points = points @ (np.diag([1 / stretch, stretch]) @ shear @ rotate).T / rng.uniform(*settings.fill)
    return points + rng.normal(0.0, settings.elastic, points.shape)


def distort(ink: Image.Image, size: int, rng: np.random.Generator, settings: Letters) -> NDArray[np.uint8]:
    """The ink warped at random into a mask, uint8 (size, size)."""
    width, height = ink.size
    margin = 2 + max(ink.size) // 2
    source = Image.new("L", (width + 2 * margin, height + 2 * margin))
    source.paste(ink, (margin, margin))
    reach = max(ink.size) / 2
    corners = warp_grid(rng, settings) * reach + [margin + width / 2, margin + height / 2]
    edges = np.round(np.linspace(0, size, CELLS + 1)).astype(int).tolist()
    mesh = []
    for row in range(CELLS):
        for column in range(CELLS):
            box = (edges[column], edges[row], edges[column + 1], edges[row + 1])
            # Pillow takes the corners anticlockwise from the upper left one.
            quad = [corners[row, column], corners[row + 1, column]]
            quad += [corners[row + 1, column + 1], corners[row, column + 1]]
            mesh.append((box, tuple(np.concatenate(quad).tolist())))
    warped = source.transform((size, size), Image.Transform.MESH, mesh, Image.Resampling.BILINEAR)
    return np.asarray(warped, np.uint8)


def render_one(glyph: Glyph, rng: np.random.Generator, settings: Letters) -> NDArray[np.uint8]:
    """One mask of the glyph, uint8 (size, size): stroke weight changed, then distorted."""
    size = SIZE_STEP * int(rng.integers(4, 9))
    ink = draw_ink(glyph.font, glyph.character, size)
    if ink is None:
        raise RuntimeError(f"{glyph.font} drew {glyph.character!r} when it was judged and does not now")
    if rng.random() < settings.bolder_share:
        stroke = round(size * rng.uniform(0.0, settings.bolder))
        bold = draw_ink(glyph.font, glyph.character, size, stroke)
        # Letters of heavy fonts would close up into blobs. Thin ones, like I, fill their box anyway.
        if bold and (np.asarray(bold).mean() <= 255 * settings.bolder_cover or min(ink.size) < size / 4):
            ink = bold
    if rng.random() < settings.thinner_share:
        thin = ink.filter(ImageFilter.MinFilter(3))
        # Hairlines would vanish: erode only what keeps most of its ink.
        if np.asarray(thin, np.int64).sum() > 0.4 * np.asarray(ink, np.int64).sum():
            ink = thin
    return distort(ink, settings.size, rng, settings)


def _render_chunk(task: tuple[list[Glyph], tuple[int, ...], Letters]) -> NDArray[np.uint8]:
    glyphs, seed, settings = task
    rng = np.random.default_rng(seed)
    return np.stack([render_one(glyph, rng, settings) for glyph in glyphs])


def render_bank(glyphs: list[Glyph], count: int, seed: tuple[int, ...], settings: Letters) -> Bank:
    """`count` masks, classes in equal shares; the same for any number of processes."""
    rng = np.random.default_rng(seed)
    picks = rng.choice(len(glyphs), count, p=sampling_weights(glyphs))
    chosen = [glyphs[pick] for pick in picks.tolist()]
    tasks = [(chosen[start : start + CHUNK], (*seed, start), settings) for start in range(0, count, CHUNK)]
    if settings.processes == 1:
        parts = list(map(_render_chunk, tasks))
    else:
        with ProcessPoolExecutor(settings.processes) as pool:
            parts = list(pool.map(_render_chunk, tasks))
    labels = np.array([glyph.label for glyph in chosen], np.int32)
    return Bank(np.concatenate(parts), labels)


def split_glyphs(glyphs: list[Glyph], share: float, seed: tuple[int, ...]) -> tuple[list[Glyph], list[Glyph]]:
    """Glyphs for training and for validation, no font file in both; `share` of the files are held out."""
    files = sorted({glyph.font for glyph in glyphs})
    rng = np.random.default_rng(seed)
    held = set(rng.choice(files, round(share * len(files)), replace=False).tolist())
    return [g for g in glyphs if g.font not in held], [g for g in glyphs if g.font in held]


def discover(settings: Letters) -> list[Glyph]:
    """Every legible glyph of the installed fonts; raises if there is no font at all."""
    fonts = find_fonts(settings.font_roots)
    if not fonts:
        raise FileNotFoundError(f"no .ttf or .otf file under {', '.join(map(str, settings.font_roots))}")
    return legible_glyphs(fonts, settings)
