"""One small picture as every kind of file that cameras, scanners and editors write, and that decoders treat apart."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 61, 40
LARGE = (1220, 800)  # pixels; training reads such a JPEG at a scale, see images.decode_resized


def every_kind() -> dict[str, bytes]:
    """Files by kind, the same bytes at every call with one version of Pillow."""
    rgb = Image.fromarray(_scene())
    grey = rgb.convert("L")
    palette = rgb.quantize(64)
    alpha = Image.fromarray(np.tile(np.linspace(0, 255, WIDTH).astype(np.uint8), (HEIGHT, 1)))
    rgba, grey_alpha = Image.merge("RGBA", [*rgb.split(), alpha]), Image.merge("LA", [grey, alpha])
    deep = np.asarray(rgb).astype(np.uint16) * 256 + 200  # the low byte would round the high one up
    deep_grey, deep_alpha = deep[:, :, :1], np.full_like(deep[:, :, :1], 30_000)
    found = {}
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        found[f"JPEG, EXIF {orientation}"] = _file(rgb, "JPEG", exif=exif.tobytes(), quality=95)
        found[f"PNG, EXIF {orientation}"] = _file(rgb, "PNG", exif=exif.tobytes())
    return found | {
        "JPEG, grey": _file(grey, "JPEG"),
        "JPEG, progressive": _file(rgb, "JPEG", progressive=True),
        "JPEG, colour at full resolution": _file(rgb, "JPEG", subsampling=0),
        "JPEG, CMYK": _file(rgb.convert("CMYK"), "JPEG", quality=95),
        "JPEG, large": _file(Image.fromarray(_scene()).resize(LARGE, Image.Resampling.BICUBIC), "JPEG", quality=90),
        "JPEG, turned by XMP alone": _file(rgb, "JPEG", xmp=_xmp(6)),
        "JPEG, EXIF 8 and XMP 6": _file(rgb, "JPEG", xmp=_xmp(6), exif=exif.tobytes()),
        "PNG, 8-bit RGB": _file(rgb, "PNG"),
        "PNG, grey": _file(grey, "PNG"),
        "PNG, grey with a transparent value": _file(grey, "PNG", transparency=100),
        "PNG, RGB with a transparent colour": _file(rgb, "PNG", transparency=rgb.getpixel((0, 0))),
        "PNG, 1-bit": _file(grey.convert("1"), "PNG"),
        "PNG, grey and alpha": _file(grey_alpha, "PNG"),
        "PNG, RGBA": _file(rgba, "PNG"),
        "PNG, palette": _file(palette, "PNG"),
        "PNG, palette of 4 bits": _file(rgb.quantize(16), "PNG", bits=4),
        "PNG, palette with transparency": _file(palette, "PNG", transparency=bytes(range(0, 256, 4))),
        "PNG, 16-bit grey": _png_16(deep_grey, colour=0),
        "PNG, 16-bit RGB": _png_16(deep, colour=2),
        "PNG, 16-bit grey and alpha": _png_16(np.dstack([deep_grey, deep_alpha]), colour=4),
        "PNG, 16-bit RGBA": _png_16(np.dstack([deep, deep_alpha]), colour=6),
        "PNG, with a gamma": _png_16(deep, colour=2, before=_chunk(b"gAMA", struct.pack(">I", 100_000))),
        "GIF": _file(palette, "GIF"),
        "GIF, transparent": _file(palette, "GIF", transparency=3),
        "GIF, animated": _file(palette, "GIF", save_all=True, append_images=[palette.rotate(180)]),
        "BMP, RGB": _file(rgb, "BMP"),
        "BMP, grey": _file(grey, "BMP"),
        "BMP, palette": _file(palette, "BMP"),
        "BMP, 1-bit": _file(grey.convert("1"), "BMP"),
        "BMP, RGBA": _file(rgba, "BMP"),
        "WebP": _file(rgb, "WEBP"),
        "WebP, lossless": _file(rgb, "WEBP", lossless=True),
        "WebP, alpha": _file(rgba, "WEBP", lossless=True, exact=True),
        "WebP, EXIF 8": _file(rgb, "WEBP", exif=exif.tobytes()),
        "TIFF": _file(rgb, "TIFF"),
    }


def _xmp(orientation: int) -> bytes:
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="{orientation}"/>'
        "</rdf:RDF></x:xmpmeta>"
    ).encode()


def _scene() -> np.ndarray:
    """A smooth picture, uint8 [HEIGHT, WIDTH, 3], that no turn or mirroring leaves as it was."""
    down, across = np.mgrid[0:HEIGHT, 0:WIDTH]
    return np.stack([across * 4, down * 6, (across + 2 * down) * 2], -1).clip(0, 255).astype(np.uint8)


def _file(image: Image.Image, format_: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format_, **options)
    return file.getvalue()


def _png_16(pixels: np.ndarray, colour: int, before: bytes = b"") -> bytes:
    """A PNG of uint16 [H, W, channels], which Pillow writes for grey alone. PNG specification, section 11."""
    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = _chunk(b"IHDR", struct.pack(">2I5B", width, height, 16, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + before + _chunk(b"IDAT", zlib.compress(rows)) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
