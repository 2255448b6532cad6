"""From an image file's bytes to pixels: the one decoder that validates, trains and evaluates.

Rules, one per kind of file (tests/core/test_images.py holds a golden example of each):

    format        by the first bytes, never by the name
    frames        the first one only
    orientation   EXIF 1-8 applied, so pixels are upright
    1-bit         0 and 255
    grey          copied to the three channels
    16-bit        the high byte, so 65535 becomes 255 and nothing clips
    palette       looked up
    alpha         dropped, not blended with a background
    CMYK, YCCK    Pillow's conversion, (255 - ink) * (255 - black) / 255
    ICC profile   ignored
    32-bit, float refused, because no one rule maps them to 0-255

Dropping alpha, keeping the high byte and ignoring profiles is what TensorFlow's decoders with
`channels=3` do, so an exported model that decodes for itself sees the same pixels; of a large JPEG, which
`decode_resized` decodes at a scale, the same within half a grey level on average. TensorFlow applies no
EXIF orientation: the exported model has to turn the image itself.
"""

from __future__ import annotations

import io
import math
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

Pixels = npt.NDArray[np.uint8]

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF")  # what `decode` can read
REASONS = ("empty", "truncated", "format", "not_an_image", "too_large", "decoder_error")
THUMBNAIL_SIDE = 160  # pixels
MAX_PIXELS = 2**26  # 8192 x 8192: 192 MiB once decoded
# The least side that a JPEG decoded at a scale keeps, in sides asked for. Against the whole decoding, of 90
# photographs each at 224 pixels: mean 0.68, 0.40, 0.29, 0.18 and at most 15, 8, 6, 3 grey levels for 1, 1.5, 2, 3.
SCALED_SIDE = 1.5

# Pillow's own limit warns or raises its own error inside Image.open, before the size can be read.
# `_opened` refuses by MAX_PIXELS, which is stricter, before a single pixel is decoded.
Image.MAX_IMAGE_PIXELS = None

_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_BMP_HEADER_SIZES = (12, 16, 40, 52, 56, 64, 108, 124)
_ISO_BRANDS = {b"heic": "HEIC", b"heix": "HEIC", b"mif1": "HEIC", b"avif": "AVIF", b"avis": "AVIF"}


_quiet: list[warnings.catch_warnings[None]] = []  # one entry a file being read, all the same
_quiet_lock = threading.Lock()


class Undecodable(Exception):
    """These bytes give no pixels. `reason` is one of REASONS, `detail` says what was found."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type[Undecodable], tuple[str, str]]:
        return Undecodable, (self.reason, self.detail)  # so that it survives the way out of a process pool


@dataclass(frozen=True)
class Decoded:
    """The picture (upright RGB, 8 bits a channel) and what the file said about itself."""

    image: Image.Image
    format: str
    mode: str  # Pillow's, before conversion
    bit_depth: int  # bits per channel in the file: 1, 2, 4, 8 or 16
    frames: int | None  # None where a later frame is broken and they cannot be counted
    orientation: int  # EXIF 1-8; 1 where absent or illegal


def decode(data: bytes) -> Pixels:
    """The upright RGB pixels of an image file: uint8 [H, W, 3].

    Raises Undecodable, and nothing else, for bytes that give no pixels.
    """
    # A copy: the array must be writable and must outlive the image.
    return np.array(_read(data, count_frames=False).image, dtype=np.uint8)


def decode_resized(data: bytes, size: int) -> Pixels:
    """The upright RGB pixels of an image file at the size of training: uint8 [size, size, 3].

    Equal to `resize(decode(data), size)`, except for a JPEG with at least 2 * SCALED_SIDE * size
    pixels on both sides. That one libjpeg decodes at 1/2, 1/4 or 1/8 (scale_denom in its
    libjpeg.txt), which leaves little work beside reading the file's Huffman code and moves a channel
    by half a grey level on average. Raises Undecodable where `decode` does, with the same reason and
    detail: MAX_PIXELS is about the size in the file, and a file is read to its end at every scale.
    """
    image = _read(data, count_frames=False, size=size).image
    return np.array(image.resize((size, size), Image.Resampling.BILINEAR), dtype=np.uint8)


def examine(data: bytes) -> Decoded:
    """`decode`, and the facts only the decoder sees. Raises Undecodable."""
    return _read(data, count_frames=True)


def resize(pixels: Pixels, size: int) -> Pixels:
    """uint8 [H, W, 3] to uint8 [size, size, 3]: bilinear, antialiased, both sides stretched to `size`."""
    if pixels.shape == (size, size, 3):
        return pixels
    resized = Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(resized, dtype=np.uint8)


def thumbnails(files: Sequence[bytes]) -> list[bytes | None]:
    """`thumbnail` of each, at THUMBNAIL_SIDE."""
    return [thumbnail(data, THUMBNAIL_SIDE) for data in files]


def thumbnail(data: bytes, side: int) -> bytes | None:
    """The image as a small JPEG of at most `side` x `side` pixels, its shape kept; None where undecodable.

    A smaller image is enlarged in whole steps without smoothing, so that its pixels can be seen.
    """
    try:
        image = Image.fromarray(decode(data))
    except Undecodable:
        return None
    longest = max(image.size)
    if longest <= side // 2:
        factor = side // longest
        image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    image.thumbnail((side, side), Image.Resampling.BILINEAR)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=80)
    return file.getvalue()


def sniff(data: bytes) -> str | None:
    """The format the first bytes announce: one of FORMATS, or HEIC, AVIF; None where they announce none."""
    if data[:3] == b"\xff\xd8\xff":
        return "JPEG"
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return "PNG"
    if data[:6] in (b"GIF87a", b"GIF89a"):
        return "GIF"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "TIFF"
    # Two letters alone would make a bitmap of any text that starts with "BM".
    if data[:2] == b"BM" and int.from_bytes(data[14:18], "little") in _BMP_HEADER_SIZES:
        return "BMP"
    if data[4:8] == b"ftyp":
        return _ISO_BRANDS.get(data[8:12])
    return None


def _read(data: bytes, *, count_frames: bool, size: int | None = None) -> Decoded:
    """With `size`, the picture of a JPEG decoded at a scale comes stretched to that size already."""
    found = sniff(data)
    if not data:
        raise Undecodable("empty", "0 bytes")
    if found is None:
        raise Undecodable("not_an_image", f"{len(data)} bytes that start with {data[:16]!r}")
    if found not in FORMATS:
        raise Undecodable("format", f"{found}; this decoder reads {', '.join(FORMATS)}")
    # Pillow overlooks a cut after the last pixel.
    if found == "PNG" and b"IEND" not in data:
        raise Undecodable("truncated", "PNG without its end chunk")
    with _no_warnings():
        try:
            with _opened(data, found) as image:
                mode = image.mode
                # Pillow turns a TIFF while loading it, and forgets what it said.
                said = _orientation(image) if found == "TIFF" else None
                box = _scale(image, size) if size and found == "JPEG" else None
                image.load()
                left = _orientation(image)
                picture: Image.Image = image
                if size and box:
                    # Turned afterwards, because the box is of the picture as it is stored.
                    picture = _rgb(image).resize((size, size), Image.Resampling.BILINEAR, box)
                upright = _rgb(picture.transpose(_TURNS[left]) if left in _TURNS else picture)
                frames = _frames(image) if count_frames else None
        except (Undecodable, MemoryError):
            raise
        # Pillow documents no closed set: a broken file has raised OSError, SyntaxError, ValueError,
        # struct.error, IndexError, KeyError, EOFError, zlib.error, OverflowError and more.
        except Exception as error:
            raise _refusal(data, found, error) from error
    return Decoded(upright, found, mode, _bit_depth(data, found, mode), frames, said or left)


@contextmanager
def _no_warnings() -> Iterator[None]:
    """Pillow warns of odd metadata, which changes no pixel.

    `catch_warnings` puts back what belongs to all threads: where several decode, only the first to come
    may save it and the last to leave restore it.
    """
    with _quiet_lock:
        if not _quiet:
            caught = warnings.catch_warnings()
            caught.__enter__()
            warnings.simplefilter("ignore")
            _quiet.append(caught)
        else:
            _quiet.append(_quiet[0])
    try:
        yield
    finally:
        with _quiet_lock:
            caught = _quiet.pop()
            if not _quiet:
                caught.__exit__(None, None, None)


def _opened(data: bytes, found: str) -> Image.Image:
    if found == "WEBP":
        _check_size(*_webp_size(data))  # Pillow opens one by asking for memory for all of it
    image = Image.open(io.BytesIO(data), formats=[found])
    _check_size(*image.size)
    return image


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise Undecodable("too_large", f"{width} x {height} pixels; at most {MAX_PIXELS} can be decoded")


def _webp_size(data: bytes) -> tuple[int, int]:
    """What the header says (RFC 9649, 2.5 to 2.7, and RFC 6386, 9.1); (0, 0) where it says nothing."""
    if data[12:16] == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if data[12:16] == b"VP8L":
        sides = int.from_bytes(data[21:25], "little")
        return 1 + (sides & 0x3FFF), 1 + (sides >> 14 & 0x3FFF)
    if data[12:16] == b"VP8 ":
        return int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF
    return 0, 0


def _scale(image: Image.Image, size: int) -> tuple[float, float, float, float] | None:
    """Have libjpeg decode a large picture at the smallest scale that keeps SCALED_SIDE * size pixels a side.

    Returns the part of the scaled picture that the file's covers, (0, 0, right, bottom): its last row and
    column may lie partly outside. None where the picture is decoded whole.
    """
    side = math.ceil(SCALED_SIDE * size)
    if min(image.size) < 2 * side:
        return None
    drafted = image.draft(None, (side, side))
    return drafted and drafted[1]


def _orientation(image: Image.Image) -> int:
    # Most photographs say nothing, and asking takes a tenth of the time of decoding a small one.
    if image.format == "JPEG" and not {"exif", "xmp"} & image.info.keys():
        return 1
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # broken metadata raises anything; the pixels are still whole
        return 1
    return value if isinstance(value, int) and value in _TURNS else 1


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        high = (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
        return Image.fromarray(high).convert("RGB")
    if image.mode in ("I", "F"):
        detail = f"mode {image.mode}: 32-bit values have no agreed range; save it with 8 bits"
        raise Undecodable("decoder_error", detail)
    image.info.pop("transparency", None)  # else Pillow maps the transparent colour to something near it
    # Pillow would copy what is RGB already. A file of many frames must be copied: counting them loads others.
    alone = image.format in (None, "JPEG", "BMP")
    return image if image.mode == "RGB" and alone else image.convert("RGB")


def _bit_depth(data: bytes, found: str, mode: str) -> int:
    """Bits per channel; Pillow tells a PNG's 16 bits for grey alone."""
    if found == "PNG":
        return data[24]
    return 16 if mode.startswith("I;16") else 1 if mode == "1" else 8


def _frames(image: Image.Image) -> int | None:
    try:
        return int(getattr(image, "n_frames", 1))
    except Exception:  # counting reads on past the first frame, which is the one that is used
        return None


def _refusal(data: bytes, found: str, error: Exception) -> Undecodable:
    ends = {
        "JPEG": b"\xff\xd9" in data,
        "PNG": b"IEND" in data,
        "GIF": data.rstrip(b"\0").endswith(b";"),
        "BMP": len(data) >= int.from_bytes(data[2:6], "little"),
        "WEBP": len(data) >= 8 + int.from_bytes(data[4:8], "little"),
        "TIFF": True,  # has no end mark
    }
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, UnidentifiedImageError):
        text = "the header cannot be read"  # Pillow's text holds a memory address, which no report may
    cut = "truncated" in text.lower() or isinstance(error, EOFError) or not ends[found]
    return Undecodable("truncated" if cut else "decoder_error", f"{found}: {text}"[:300])
