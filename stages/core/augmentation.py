"""Augmented views of an image: a pure function of its pixels, its id, the view's number and the seed."""

from __future__ import annotations

import hashlib
from functools import cache
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

Pixels = npt.NDArray[np.uint8]
GREY = 128  # what the bases' preprocessing takes to about 0
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
    vertical_flip: bool = Field(False, description="mirror top to bottom, half of the time")
    saturation: Share = Field(0.0, description="largest change of saturation either way, as a share")
    hue: float = Field(0.0, ge=0.0, le=0.5, description="largest turn of the hue either way, in whole turns")
    cutout: Share = Field(0.0, description="side of the largest square that is greyed out, as a share of the side")


def augment(pixels: Pixels, limits: Augmentation, key: str) -> Pixels:
    """One augmented view, uint8 [S, S, 3] from uint8 [S, S, 3].

    `key` names the view, e.g. "seed:image_id:view"; the same key gives the same view whatever was
    drawn before. What a turn or shift brings in from outside is the image mirrored at its edge, as
    in Keras's RandomRotation with fill_mode="reflect".
    """
    digest = hashlib.sha256(key.encode()).digest()
    draws = np.random.default_rng(int.from_bytes(digest[:8], "big"))
    flip = bool(draws.random() < 0.5) and limits.flip
    turn, scale, right, down, light, contrast = draws.uniform(-1.0, 1.0, 6)
    # From a generator of their own: views without these stay what they were before these came.
    later = np.random.default_rng(int.from_bytes(digest[8:16], "big"))
    over = bool(later.random() < 0.5) and limits.vertical_flip
    colour, tint = later.uniform(-1.0, 1.0, 2)
    square = later.random(3)
    size = pixels.shape[0]
    moved = _affine(
        np.ascontiguousarray(pixels[::-1]) if over else pixels,
        flip,
        angle=2 * np.pi * limits.rotation * turn,
        scale=1.0 + limits.zoom * scale,
        shift=(limits.translation * right * size, limits.translation * down * size),
    )
    lit = _lit(moved, 1.0 + limits.contrast * contrast, 255.0 * limits.brightness * light)
    coloured = _coloured(lit, 1.0 + limits.saturation * colour, limits.hue * tint)
    return _cut_out(coloured, limits.cutout * square[0], (square[1], square[2]))


def _lit(pixels: Pixels, contrast: float, light: float) -> Pixels:
    """Distances from the mean times `contrast`, plus `light`."""
    if contrast == 1.0 and light == 0.0:
        return pixels
    # A pixel's new value depends on its old one alone, so 256 values are computed and looked up.
    mean = pixels.mean()
    values = (np.arange(256) - mean) * contrast + mean + light
    view: Pixels = _opencv().LUT(pixels, np.clip(np.rint(values), 0, 255).astype(np.uint8))
    return view


def _coloured(pixels: Pixels, saturation: float, hue: float) -> Pixels:
    """Distances from grey times `saturation`, then the hue turned by `hue` whole turns, as torchvision's ColorJitter.

    A pixel without colour keeps its value.
    """
    if saturation == 1.0 and hue == 0.0:
        return pixels
    cv2 = _opencv()
    changed = pixels.astype(np.float32)
    grey = cv2.cvtColor(changed, cv2.COLOR_RGB2GRAY)[:, :, None]
    changed = np.clip(grey + (changed - grey) * np.float32(saturation), 0, 255)
    if hue != 0.0:
        turned = cv2.cvtColor(changed, cv2.COLOR_RGB2HSV)  # of float32 the hue is in degrees
        turned[:, :, 0] = (turned[:, :, 0] + np.float32(360 * hue)) % 360
        changed = cv2.cvtColor(turned, cv2.COLOR_HSV2RGB)
    view: Pixels = np.clip(np.rint(changed), 0, 255).astype(np.uint8)
    return view


def _cut_out(pixels: Pixels, share: float, centre: tuple[float, float]) -> Pixels:
    """A grey square of `share` of the side, its `centre` (right, down) in shares of the side.

    What of it lies outside is lost, as in DeVries and Taylor, "Improved Regularization of Convolutional Neural
    Networks with Cutout", 2017; there every square is of one size.
    """
    if share == 0.0:
        return pixels
    size = pixels.shape[0]
    left, top = (round(size * (at - share / 2)) for at in centre)
    right, bottom = left + round(size * share), top + round(size * share)
    view = pixels.copy()
    view[max(top, 0) : bottom, max(left, 0) : right] = GREY
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
