"""All that is known of one image: whose it is, and what was measured of its bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stages.core.measurement import FLAT, Measurement

EXTENSIONS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png", ".apng"),
    "GIF": (".gif",),
    "BMP": (".bmp", ".dib"),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
    "HEIC": (".heic", ".heif"),
    "AVIF": (".avif",),
}
COMPARED_FROM = 64  # pixels, shorter side: an enlarged thumbnail is smooth however sharp it was


@dataclass(frozen=True, slots=True)
class Facts:
    """One image; units and meaning as in schemas.FACTS. None where it gives no pixels."""

    name: str
    label: str
    given_split: str | None
    image_id: str
    measured: Measurement

    @property
    def extension_matches(self) -> bool:
        """Whether the name ends as its format's names do; False where the bytes are no known format."""
        return self.name.lower().endswith(EXTENSIONS.get(self.measured.format or "", ()))

    @property
    def decodes(self) -> bool:
        return self.measured.reason is None

    @property
    def sides(self) -> tuple[int, int] | None:
        """Pixels, (shorter, longer); None where it does not decode."""
        if self.measured.width is None or self.measured.height is None:
            return None
        return min(self.measured.width, self.measured.height), max(self.measured.width, self.measured.height)

    @property
    def aspect(self) -> float | None:
        """Longer side / shorter side, >= 1."""
        return self.sides[1] / self.sides[0] if self.sides else None

    @property
    def sharpness(self) -> float | None:
        """None also for a picture too small to compare, or with nothing on it that could be sharp."""
        if self.sides is None or self.sides[0] < COMPARED_FROM or (self.measured.contrast or 0.0) < FLAT:
            return None
        return self.measured.sharpness


def of(row: Mapping[str, Any], measured: Measurement) -> Facts:
    """The facts of a row of schemas.IMAGES, of which `bytes` is not needed."""
    return Facts(row["name"], row["label"], row["given_split"], row["image_id"], measured)
