"""The built-in source: 1,797 scans of handwritten digits that come with scikit-learn."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from stages.store.records import Record, Source

FULL_INK = 16  # the scans' largest value


def from_digits() -> Source:
    """8 x 8 grayscale PNGs named like 7/digit-0042.png, labelled "0" to "9"."""
    from sklearn.datasets import load_digits

    scans = load_digits()
    records = []
    for number, (values, digit) in enumerate(zip(scans.images, scans.target, strict=True)):
        pixels = np.rint(values * 255 / FULL_INK).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        data = file.getvalue()
        records.append(Record(f"{digit}/digit-{number:04d}.png", str(digit), None, len(data), data))
    return Source(
        "digits",
        records,
        sorted({record.label for record in records}),
        {},
        lambda record: bytes(record.place),
    )
