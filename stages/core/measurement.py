"""What is measured of an image's bytes: a pure function, and so kept from run to run.

The picture is decoded whole, by the decoder that trains; everything else is taken from a few small
versions of it, so that measuring costs little beside decoding. Sums are of whole numbers, or of one
image's own row: its figures do not depend on which others are measured with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import PIL
from PIL import Image, features

from stages.core import images, trailing_bytes

Bytes = npt.NDArray[np.uint8]
Figures = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int64]

TILE = 96  # pixels; every picture is stretched to TILE x TILE, which all figures but its size are taken from
AVERAGED_FROM = 4  # times TILE: where a pixel of the tile is the mean of a block, and not one of its pixels
SIDE = 32  # pixels of the grey and colour miniatures; TILE is a multiple
BLOCKS = 8  # a colour layout averages 8 x 8 blocks
FREQUENCIES = 8  # of a perceptual hash, each way
# A picture whose edges were cut off looks like a zoomed one: the hash of the whole copy is near to the
# hash of the original's middle.
ZOOMS = (1.0, 0.95, 0.9)  # share of each side that is kept
FLAT = 1 / 255  # contrast below one grey level
SCALE = 1 << 12  # of cosines, as whole numbers

# In the order of the zigzag of ISO/IEC 15938-3 (MPEG-7), whose colour layout has 6 luma and 3 + 3 chroma numbers.
_ZIGZAG = ((0, 0), (0, 1), (1, 0), (2, 0), (1, 1), (0, 2))
LAYOUT = 12

VERSIONS = {
    "pillow": PIL.__version__,
    "numpy": np.__version__,
    **{name: str(features.version(name)) for name in ("libjpeg_turbo", "zlib", "webp", "libtiff")},
}


@dataclass(frozen=True, slots=True)
class Measurement:
    """Figures of one file; None where it gives no pixels. `reason` is then one of quarantine.REASONS."""

    size_bytes: int
    format: str | None  # by magic bytes
    reason: str | None = None
    detail: str = ""
    width: int | None = None  # pixels, upright
    height: int | None = None
    mode: str | None = None  # Pillow's, before conversion
    bit_depth: int | None = None  # bits per channel in the file
    frames: int | None = None
    orientation: int | None = None  # EXIF 1-8
    trailing_bytes: int | None = None  # behind the picture's end; None also where trailing_bytes.count finds no end
    brightness: float | None = None  # mean luma, 0-1
    contrast: float | None = None  # standard deviation of luma, 0-0.5
    entropy: float | None = None  # of luma, bits 0-8
    sharpness: float | None = None  # mean square of luma's second differences / its variance; 0 where flat
    saturation: float | None = None  # mean of largest - smallest channel, 0-1
    warmth: float | None = None  # mean red - mean blue, -1 to 1
    layout: tuple[int, ...] | None = None  # colour layout: 6 luma, 3 blue-yellow, 3 red-green coefficients
    hashes: tuple[int, ...] | None = None  # 64-bit perceptual hashes, one per zoom
    shapes: bytes | None = None  # int8 [zooms, 64]: the coefficients behind the hashes, to unit length x 127


def measure(files: Sequence[bytes]) -> list[Measurement]:
    """One measurement per file, in order. Raises nothing but MemoryError for any bytes."""
    found: list[Measurement] = []
    drawn: list[tuple[int, int, int, images.Decoded]] = []
    # One tall sheet of tiles: one call converts, reduces or reads them all.
    sheet = Image.new("RGB", (TILE, TILE * len(files)))
    for data in files:
        try:
            decoded = images.examine(data)
        except images.Undecodable as error:
            found.append(Measurement(len(data), images.sniff(data), error.reason, error.detail))
            continue
        sheet.paste(_tile(decoded.image), (0, TILE * len(drawn)))
        # The picture itself is let go: memory that is used again at once is far faster than fresh memory.
        drawn.append((len(found), *decoded.image.size, replace(decoded, image=_NOTHING)))
        behind = trailing_bytes.count(data, decoded.format)
        found.append(Measurement(len(data), decoded.format, trailing_bytes=behind))
    if not drawn:
        return found
    sheet = sheet.crop((0, 0, TILE, TILE * len(drawn)))
    grey = sheet.convert("L")
    lumas = np.asarray(grey).reshape(-1, TILE, TILE)
    colours = np.asarray(sheet).reshape(-1, TILE, TILE, 3)[:, 1 :: TILE // SIDE, 1 :: TILE // SIDE]
    levels = _levels(lumas)
    sharpness = _sharpness(lumas)
    saturation, warmth = _colour(colours)
    layouts = _layouts(colours)
    hashes, shapes = _perceptual(np.asarray(grey.reduce(TILE // SIDE)).reshape(-1, SIDE, SIDE))
    for row, (at, width, height, decoded) in enumerate(drawn):
        found[at] = Measurement(
            size_bytes=found[at].size_bytes,
            format=decoded.format,
            width=width,
            height=height,
            mode=decoded.mode,
            bit_depth=decoded.bit_depth,
            frames=decoded.frames,
            orientation=decoded.orientation,
            trailing_bytes=found[at].trailing_bytes,
            brightness=float(levels[row, 0]),
            contrast=float(levels[row, 1]),
            entropy=float(levels[row, 2]),
            sharpness=_per_variance(float(sharpness[row]), float(levels[row, 1])),
            saturation=float(saturation[row]),
            warmth=float(warmth[row]),
            layout=tuple(layouts[row].tolist()),
            hashes=tuple(hashes[row].tolist()),
            shapes=shapes[row].tobytes(),
        )
    return found


def _tile(image: Image.Image) -> Image.Image:
    if max(image.size) >= AVERAGED_FROM * TILE:
        return image.resize((TILE, TILE), Image.Resampling.BOX, reducing_gap=1.0)
    # Every second or third pixel of a small picture tells as much, in a sixth of the time.
    return image.resize((TILE, TILE), Image.Resampling.NEAREST)


def _levels(lumas: Bytes) -> Figures:
    """Mean (0-1), standard deviation (0-0.5) and entropy (bits) of luma: [N, 3]."""
    pixels = lumas.reshape(len(lumas), -1)
    wide = pixels.astype(np.uint32)
    mean = pixels.sum(axis=1, dtype=np.int64) / pixels.shape[1]
    variance = np.einsum("np,np->n", wide, wide, dtype=np.uint64) / pixels.shape[1] - mean**2
    some = pixels[:, :: pixels.shape[1] // SIDE**2].astype(np.int64)
    rows = np.arange(len(some))[:, None]
    counts = np.bincount((256 * rows + some).ravel(), minlength=256 * len(some)).reshape(-1, 256)
    entropy = np.log2(some.shape[1]) - (counts * np.log2(np.maximum(counts, 1))).sum(axis=1) / some.shape[1]
    levels: Figures = np.stack([mean / 255, np.sqrt(np.maximum(variance, 0)) / 255, np.maximum(entropy, 0)], axis=1)
    return levels


def _sharpness(lumas: Bytes) -> Figures:
    """Mean square of the second differences along rows and columns, [N]: near 0 for a blurred picture.

    The one-dimensional form of the energy of the Laplacian (Pertuz et al., Pattern Recognition 2013).
    """
    # Every second line is enough.
    rows, columns = lumas[:, ::2].astype(np.int16), lumas[:, :, ::2].astype(np.int16)
    along = 2 * rows[:, :, 1:-1] - rows[:, :, :-2] - rows[:, :, 2:]
    down = 2 * columns[:, 1:-1] - columns[:, :-2] - columns[:, 2:]
    squares = [np.einsum("nij,nij->n", lines, lines, dtype=np.int64) for lines in (along, down)]
    energy: Figures = (squares[0] + squares[1]) / (2 * along[0].size) / 255**2
    return energy


def _per_variance(energy: float, contrast: float) -> float:
    """Sharpness that a darker or paler copy keeps; 0 where there is next to nothing to see."""
    return energy / contrast**2 if contrast >= FLAT else 0.0


def _colour(colours: Bytes) -> tuple[Figures, Figures]:
    """Mean of largest - smallest channel (0-1) and of red - blue (-1 to 1): [N] each."""
    # Planes, because NumPy is slow along an axis of three.
    red, green, blue = (np.ascontiguousarray(colours[..., channel]) for channel in range(3))
    largest = np.maximum(np.maximum(red, green), blue)
    spread = largest - np.minimum(np.minimum(red, green), blue)
    sums = [plane.sum(axis=(1, 2), dtype=np.int64) for plane in (spread, red, blue)]
    return sums[0] / (255 * SIDE**2), (sums[1] - sums[2]) / (255 * SIDE**2)


def _layouts(colours: Bytes) -> Numbers:
    """Colour layout descriptors of ISO/IEC 15938-3 without its quantisation: int64 [N, LAYOUT].

    Low frequencies of the cosine transform of 8 x 8 block means, in luma and two chroma channels.
    """
    step = SIDE // BLOCKS
    # Whole numbers below 2**53 throughout, so that no sum is rounded.
    blocks = colours.reshape(-1, BLOCKS, step, SIDE, 3).sum(axis=2, dtype=np.uint16)
    blocks = blocks.reshape(-1, BLOCKS, BLOCKS, step, 3).sum(axis=3, dtype=np.uint16)
    planes = (blocks.reshape(-1, 3).astype(np.float64) @ _CHANNELS.T).reshape(-1, BLOCKS, BLOCKS, 3)
    # One axis at a time, moved to the end: one large product instead of many small ones.
    down = planes.transpose(0, 2, 3, 1).reshape(-1, BLOCKS) @ _BLOCK_COSINES.T
    across = down.reshape(-1, BLOCKS, 3, 3).transpose(0, 2, 3, 1).reshape(-1, BLOCKS) @ _BLOCK_COSINES.T
    spectrum = across.reshape(-1, 3, 3, 3)
    # Undo the scales, and make the transform of 8 x 8 values orthonormal: half of 8 for the lengths of two cosines,
    # and twice that along an axis whose cosine is constant.
    constant = np.array([0.5**0.5, 1.0, 1.0])
    spectrum = spectrum * np.outer(constant, constant) / (1000 * step**2 * SCALE**2 * BLOCKS / 2)
    spectrum = np.rint(spectrum).astype(np.int64)
    luma = [spectrum[:, 0, u, v] for u, v in _ZIGZAG]
    chroma = [spectrum[:, plane, u, v] for plane in (1, 2) for u, v in _ZIGZAG[:3]]
    return np.stack([*luma, *chroma], axis=1)


# BT.601 in thousandths: luma, blue - yellow, red - cyan.
_CHANNELS = np.array([[299, 587, 114], [-169, -331, 500], [500, -419, -81]], dtype=np.float64)


def _perceptual(greys: Bytes) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int8]]:
    """Per zoom a hash (uint64 [N, zooms]) and its unit-length coefficients (int8 [N, zooms, 64]).

    The hash is pHash's (Zauner 2010): which low frequencies of the cosine transform exceed their median.
    """
    pixels = greys.astype(np.float64)  # of whole numbers below 2**53, so that no sum is rounded
    spectra = np.stack([zoom @ pixels @ zoom.T for zoom in _ZOOMED_COSINES], axis=1)
    spectra = spectra.reshape(len(greys), len(ZOOMS), FREQUENCIES**2)
    spectra[:, :, 0] = 0  # the mean, which says nothing of the look
    middle = np.median(spectra[:, :, 1:], axis=2, keepdims=True)
    bits = spectra > middle
    bits[:, :, 0] = False
    hashes = np.packbits(bits, axis=2).view(np.dtype(">u8"))[:, :, 0].astype(np.uint64)
    length = np.sqrt((spectra**2).sum(axis=2, keepdims=True))
    shapes = np.rint(127 * spectra / np.maximum(length, 1.0)).astype(np.int8)
    return hashes, shapes


def _cosines(frequencies: int, size: int) -> Figures:
    """Rows of the cosine transform (DCT-II), in whole SCALEths: float64 [frequencies, size]."""
    angles = np.pi * np.arange(frequencies)[:, None] * (2 * np.arange(size)[None] + 1) / (2 * size)
    cosines: Figures = np.rint(SCALE * np.cos(angles))
    return cosines


def _zoom(share: float) -> Figures:
    """Linear resampling of SIDE pixels to the SIDE pixels that their middle `share` makes: [SIDE, SIDE]."""
    at = (np.arange(SIDE) + 0.5) * share + SIDE * (1 - share) / 2 - 0.5
    low = np.clip(np.floor(at).astype(int), 0, SIDE - 2)
    weight = np.clip(at - low, 0, 1)
    matrix = np.zeros((SIDE, SIDE))
    matrix[np.arange(SIDE), low] = 1 - weight
    matrix[np.arange(SIDE), low + 1] += weight
    return matrix


_NOTHING = Image.new("RGB", (1, 1))
_BLOCK_COSINES = _cosines(3, BLOCKS)
_ZOOMED_COSINES = [np.rint(_cosines(FREQUENCIES, SIDE) @ _zoom(share)) for share in ZOOMS]
