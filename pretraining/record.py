"""What is written about a run besides the weights: record.json and the contact sheet."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image

from pretraining.augment import paint
from pretraining.fonts import ALPHABET, Glyph
from pretraining.letters import render_bank
from pretraining.settings import ROOT, Settings

SHEET = "letters.png"  # beside the record
SHEET_SHAPE = (8, 14)  # rows, columns
PACKAGES = ("tensorflow", "keras", "numpy", "pillow", "scikit-learn")


def sha256(path: Path) -> str:
    """Hex digest of the file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def describe(glyphs: list[Glyph], settings: Settings) -> dict[str, Any]:
    """The run's circumstances: settings, fonts, classes, versions, cores."""
    return {
        "settings": settings.model_dump(mode="json", exclude={"transfer"}),
        "font_files": len({glyph.font for glyph in glyphs}),
        "glyphs": len(glyphs),
        "classes": list(ALPHABET),
        "cores": os.cpu_count(),
        "processor": platform.machine(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
    }


def write_record(content: dict[str, Any], settings: Settings) -> None:
    """Write the record, with size and digest of the weights as they are on disk."""
    weights = ROOT / settings.network.weights
    facts = {"file": weights.name, "bytes": weights.stat().st_size, "sha256": sha256(weights)}
    path = ROOT / settings.network.record
    path.write_text(json.dumps({**content, "weights": facts}, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_record(settings: Settings) -> dict[str, Any]:
    """The record as written."""
    record: dict[str, Any] = json.loads((ROOT / settings.network.record).read_text(encoding="utf-8"))
    return record


def save_sheet(glyphs: list[Glyph], settings: Settings) -> None:
    """A picture of training images at 56 pixels each, sorted by class."""
    rows, columns = SHEET_SHAPE
    side = 56
    bank = render_bank(glyphs, rows * columns, (settings.seed, 3), settings.letters)
    masks = bank.masks[np.argsort(bank.labels, kind="stable")]
    groups = [
        paint(
            tf.constant(masks[row * columns : (row + 1) * columns]),
            side,
            tf.constant([settings.seed, row]),
            settings.augment,
        ).numpy()
        for row in range(rows)
    ]
    tiles = np.concatenate(groups).astype(np.uint8).reshape(rows, columns, side, side, 3)
    picture = Image.fromarray(tiles.transpose(0, 2, 1, 3, 4).reshape(rows * side, columns * side, 3))
    palette = picture.quantize(128)  # keeps the file small
    palette.save((ROOT / settings.network.record).with_name(SHEET), optimize=True)
