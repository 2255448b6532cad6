"""Pictures for people: single PNGs and one contact sheet, the same pixels giving the same bytes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

GAP = 4  # pixels between pictures


def png(pixels: npt.NDArray[np.uint8], side: int) -> bytes:
    """uint8 [S, S, 3] as a PNG of `side` pixels a side."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((side, side), Image.Resampling.BILINEAR).save(buffer, "PNG")
    return buffer.getvalue()


def strip(pictures: Sequence[npt.NDArray[np.uint8]], side: int) -> bytes:
    """uint8 [S, S, 3] arrays side by side as one PNG, each of `side` pixels a side."""
    buffer = io.BytesIO()
    sheet = Image.new("RGB", (len(pictures) * side, side))
    for number, pixels in enumerate(pictures):
        sheet.paste(Image.fromarray(pixels).resize((side, side), Image.Resampling.BILINEAR), (number * side, 0))
    sheet.save(buffer, "PNG")
    return buffer.getvalue()


def contact_sheet(path: Path, pictures: Sequence[bytes], columns: int, side: int) -> None:
    """PNGs of `side` pixels side by side on white, row by row; one blank cell where there are none."""
    rows = max(1, -(-len(pictures) // columns))
    step = side + GAP
    sheet = Image.new("RGB", (columns * step + GAP, rows * step + GAP), "white")
    for number, picture in enumerate(pictures):
        row, column = divmod(number, columns)
        sheet.paste(Image.open(io.BytesIO(picture)), (GAP + column * step, GAP + row * step))
    sheet.save(path, "PNG")
