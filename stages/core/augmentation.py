"""Augmented views of an image: a pure function of its pixels, its id, the view's number and the seed."""

from __future__ import annotations

import hashlib
from functools import cache
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

Pixels = npt.NDArray[np.uint8]
Share = Annotated[float, Field(ge=0.0, le=0.9)]


class Augmentation(BaseModel):
    """How far a view may differ from its image. 0 switches one off; angles are in whole turns."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)

    flip: bool = Field(True, description="mirror left to right, half of the time")
    rotation: float = Field(0.05, ge=0.0, le=0.5, description="largest turn either way, in whole turns")
    zoom: Share = Field(0.1, description="largest change of scale either way, as a share")
    translation: Share = Field(0.05, description="largest shift either way, as a share of the side")
    brightness: Share = Field(0.1, description="largest change either way, as a share of full scale")
    contrast: Share = Field(0.1, description="largest change of contrast either way, as a share")


def augment(pixels: Pixels, limits: Augmentation, key: str) -> Pixels:
    """One augmented view, uint8 [S, S, 3] from uint8 [S, S, 3].

    `key` names the view, e.g. "seed:image_id:view"; the same key gives the same view whatever was
    drawn before. What a turn or shift brings in from outside is the image mirrored at its edge, as
    in Keras's RandomRotation with fill_mode="reflect".
    """
    draws = np.random.default_rng(int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big"))
    flip = bool(draws.random() < 0.5) and limits.flip
    turn, scale, right, down, light, contrast = draws.uniform(-1.0, 1.0, 6)
    size = pixels.shape[0]
    moved = _affine(
        pixels,
        flip,
        angle=2 * np.pi * limits.rotation * turn,
        scale=1.0 + limits.zoom * scale,
        shift=(limits.translation * right * size, limits.translation * down * size),
    )
    if limits.brightness == limits.contrast == 0.0:
        return moved
    cv2 = _opencv()
    # A pixel's new value depends on its old one alone, so 256 values are computed and looked up.
    mean = moved.mean()
    values = (np.arange(256) - mean) * (1.0 + limits.contrast * contrast) + mean + 255.0 * limits.brightness * light
    view: Pixels = cv2.LUT(moved, np.clip(np.rint(values), 0, 255).astype(np.uint8))
    return view


@cache
def _opencv() -> Any:
    """OpenCV, not before a view is made: every stage reads every stage's parameters, so it imports this module."""
    import cv2

    cv2.setNumThreads(1)  # callers have threads of their own, a picture each
    return cv2


def _affine(pixels: Pixels, flip: bool, angle: float, scale: float, shift: tuple[float, float]) -> Pixels:
    """Mirror, turn by `angle` (radians) and zoom about the centre, then shift by (right, down) pixels."""
    if angle == 0.0 and scale == 1.0 and shift == (0.0, 0.0):
        return np.ascontiguousarray(pixels[:, ::-1] if flip else pixels)
    cv2 = _opencv()
    size = pixels.shape[0]
    # Where each output pixel comes from, so this is the inverse of the change.
    cosine, sine = np.cos(angle) / scale, np.sin(angle) / scale
    centre = (size - 1) / 2
    x, y = centre + shift[0], centre + shift[1]
    inverse = np.array(
        [[cosine, sine, centre - cosine * x - sine * y], [-sine, cosine, centre + sine * x - cosine * y]]
    )
    if flip:
        inverse[0] = (0.0, 0.0, size - 1.0) - inverse[0]
    view: Pixels = cv2.warpAffine(
        pixels, inverse, (size, size), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REFLECT
    )
    return view
