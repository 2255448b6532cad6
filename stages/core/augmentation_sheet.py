"""Some training images with the views that training saw of them, and how pairs are mixed: pictures for the report.

Made by the calls and keys that made the training's, so what is shown is what was trained on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from stages.core import views
from stages.core.augmentation import Augmentation, Pixels
from stages.core.mixing import Mixing
from stages.core.page import Page

IMAGES = 4  # rows of views
MOST = 6  # views in a row
Tile = tuple[Pixels, str]


class Picture(NamedTuple):
    """A training image, uint8 [S, S, 3]."""

    name: str
    image_id: str
    label: str
    pixels: Pixels


def chosen(labels: npt.NDArray[np.int32], count: int = IMAGES) -> list[int]:
    """Numbers of up to `count` images, ascending: the first of each class, then the second of each, and so on."""
    taken: dict[int, int] = {}
    turns = []
    for number, label in enumerate(labels.tolist()):
        turn = taken[label] = taken.get(label, -1) + 1
        if turn < count:
            turns.append((turn, number))
    return sorted(number for _, number in sorted(turns)[:count])


def of_views(pictures: Sequence[Picture], count: int, limits: Augmentation, seed: int) -> list[list[Tile]]:
    """A row for each image: itself, then its views 1 to `count` - 1, at most MOST in all."""
    return [
        [
            (
                views.pixels_of(picture.pixels, picture.image_id, number, limits, seed),
                f"{picture.label}: {picture.name}" if number == 0 else f"view {number}",
            )
            for number in range(min(count, MOST))
        ]
        for picture in pictures
    ]


def of_mixed(pictures: Sequence[Picture], mixup: float, cutmix: float, seed: int) -> list[list[Tile]]:
    """A row for each kind that is on: the images mixed with each other, each under the shares of its classes."""
    classes = list(dict.fromkeys(picture.label for picture in pictures))
    labels = np.array([classes.index(picture.label) for picture in pictures], np.int32)
    rows = []
    for name, kind in (("MixUp", Mixing(mixup, 0.0, len(classes))), ("CutMix", Mixing(0.0, cutmix, len(classes)))):
        if (kind.mixup or kind.cutmix) and pictures:
            inputs = np.stack([picture.pixels for picture in pictures]).astype(np.float32)
            mixed, shares = kind.apply(inputs, labels, np.random.default_rng([seed, 2, 0, 0]))
            said = [
                f"{name}: " + ", ".join(f"{share:.0%} {of}" for share, of in zip(row, classes, strict=True) if share)
                for row in shares.tolist()
            ]
            rows.append(list(zip(np.rint(mixed).astype(np.uint8), said, strict=True)))
    return rows


def add(
    page: Page, rows: Sequence[Sequence[tuple[bytes, str]]], extracted: Mapping[str, Any], trained: Mapping[str, Any]
) -> None:
    """The section of a report: what each parameter allows, then `rows` as (PNG, caption).

    `extracted` is the content of trunk.json, `trained` the settings in training.json.
    """
    settings, cut = extracted["settings"], extracted["cut"]
    page.heading("What training saw", id="augmentation")
    seen = (
        f"Each training image is stored as {settings['views']:,} views, itself and augmented ones; an epoch sees one."
        if cut
        else "Every epoch of phase 2 draws a new view of each training image; these are the first ones'."
    )
    page.paragraph(f"{seen} Below are some of the images, each with the very views that were trained on.")
    fields = Augmentation.model_fields
    allowed = [
        [f"augmentation.{name}", settings["augmentation"].get(name, field.default), field.description]
        for name, field in fields.items()
    ]
    where = f"of activations at layer {cut}, where the frozen part ends" if cut else "of pictures"
    mixed = [
        [name, trained[name], f"alpha of {said} in phase 2, {where}"]
        for name, said in (("mixup", "MixUp"), ("cutmix", "CutMix"))
        if trained[name]
    ]
    off = [str(name) for name, value, _ in allowed if not value]
    page.table(
        ["parameter", "value", "what it allows"],
        [row for row in [*allowed, *mixed] if row[1]],
        caption=f"Off: {', '.join(off)}." if off else "",
    )
    for row in rows:
        page.gallery(row, row=True)
    if mixed and cut:
        page.paragraph("MixUp and CutMix are drawn here on the pictures; phase 2 does the same to their activations.")
