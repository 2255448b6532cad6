"""The views of an image: number 0 is the image itself, 1… are augmented, each a pure function of bytes and seed."""

from __future__ import annotations

import hashlib

from stages.core.augmentation import Augmentation, Pixels, augment


def pixels_of(pixels: Pixels, image_id: str, number: int, limits: Augmentation, seed: int) -> Pixels:
    """View `number` of an image of uint8 [S, S, 3]."""
    return pixels if number == 0 else augment(pixels, limits, f"{seed}:{image_id}:{number}")


def key(image_id: str, number: int, limits: Augmentation, seed: int) -> bytes:
    """32 bytes that name a view's pixels, given how they are decoded and augmented.

    The image itself is named by its id alone: other augmentations leave it as it is.
    """
    if number == 0:
        return bytes.fromhex(image_id)
    return hashlib.sha256(f"{image_id}:{number}:{seed}:{limits.model_dump_json()}".encode()).digest()
