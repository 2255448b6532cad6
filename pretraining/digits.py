"""The handwritten digits that the network is judged on; it never trains on them here."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

SPLIT_SEED = 0  # the split is part of the measurement, not of the recipe


@dataclass(frozen=True)
class Part:
    """Images float32 (count, size, size, 3), pixels 0..255; labels int64 (count,)."""

    images: NDArray[np.float32]
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class Digits:
    """A stratified 70/15/15 split. `test` is for final figures only."""

    train: Part
    validation: Part
    test: Part


def stretch(scan: NDArray[np.float64], size: int) -> NDArray[np.float32]:
    """One 8x8 scan, values 0..16, rounded to 8 bits and stretched bilinearly to (size, size, 3)."""
    pixels = Image.fromarray(np.round(scan * (255 / 16)).astype(np.uint8))
    grey = np.asarray(pixels.resize((size, size), Image.Resampling.BILINEAR), np.float32)
    return np.repeat(grey[..., None], 3, axis=2)


def load(size: int) -> Digits:
    """scikit-learn's 1,797 digits at `size` pixels a side."""
    scans, labels = load_digits(return_X_y=True)
    images = np.stack([stretch(scan.reshape(8, 8), size) for scan in scans])
    rest, held = train_test_split(np.arange(len(labels)), test_size=0.3, stratify=labels, random_state=SPLIT_SEED)
    validation, test = train_test_split(held, test_size=0.5, stratify=labels[held], random_state=SPLIT_SEED)
    return Digits(*(Part(images[part], labels[part]) for part in (rest, validation, test)))
