"""Figures of pictures whose figures are known beforehand, alone and in company; and of bytes that are no picture."""

from __future__ import annotations

import io
import random
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter
from scipy.fft import dctn

from stages.core import images, measurement
from stages.core.measurement import Measurement, measure

FIGURES = [
    field.name for field in fields(Measurement) if field.name not in ("size_bytes", "format", "reason", "detail")
]
SMALL, LARGE = 120, 500  # pixels: below and above the side from which a tile is averaged
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,  # as the camera stored it: the inverse of what makes it upright
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def encode(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def scene(seed: int, width: int = SMALL, height: int = SMALL) -> Image.Image:
    """A picture with structure at every scale, as photographs have."""
    rng = np.random.default_rng(seed)
    layers = np.zeros((height, width, 3))
    for cells, weight in ((4, 0.5), (8, 0.3), (24, 0.2)):
        coarse = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        layers += weight * np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))
    return Image.fromarray(layers.clip(0, 255).astype(np.uint8))


def one(data: bytes) -> Measurement:
    (found,) = measure([data])
    return found


def of(image: Image.Image, format: str = "PNG", **options: Any) -> Measurement:
    return one(encode(image, format, **options))


def flat(colour: tuple[int, int, int], side: int = 64) -> Measurement:
    return of(Image.new("RGB", (side, side), colour))


def known(value: float | None) -> float:
    assert value is not None
    return value


def apart(first: Measurement, second: Measurement) -> int:
    """Bits between the hashes of the whole pictures."""
    assert first.hashes is not None
    assert second.hashes is not None
    return (first.hashes[0] ^ second.hashes[0]).bit_count()


@pytest.mark.parametrize("side", [32, 96, 100, 384, 600])
def test_half_black_half_white(side: int) -> None:
    for turned in (False, True):
        pixels = np.zeros((side, side), np.uint8)
        pixels[:, side // 2 :] = 255
        found = of(Image.fromarray(pixels.T if turned else pixels))
        assert found.brightness == pytest.approx(0.5, abs=0.01)
        assert found.contrast == pytest.approx(0.5, abs=0.01)
        assert found.entropy == pytest.approx(1.0, abs=0.02)
        assert (found.saturation, found.warmth) == (0.0, 0.0)


@pytest.mark.parametrize("colour", [(0, 0, 0), (51, 51, 51), (255, 255, 255), (200, 30, 90)])
@pytest.mark.parametrize("side", [64, 700])
def test_flat_picture_has_no_contrast_no_sharpness_and_no_entropy(colour: tuple[int, int, int], side: int) -> None:
    found = flat(colour, side)
    assert (found.contrast, found.sharpness, found.entropy) == (0.0, 0.0, 0.0)
    luma = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]
    assert found.brightness == pytest.approx(luma / 255, abs=0.003)


@pytest.mark.parametrize(
    ("colour", "saturation", "warmth"),
    [
        ((255, 0, 0), 1.0, 1.0),
        ((0, 0, 255), 1.0, -1.0),
        ((0, 255, 0), 1.0, 0.0),
        ((90, 90, 90), 0.0, 0.0),
        ((255, 255, 255), 0.0, 0.0),
        ((204, 153, 102), 0.4, 0.4),
    ],
)
def test_colour(colour: tuple[int, int, int], saturation: float, warmth: float) -> None:
    found = flat(colour)
    assert found.saturation == pytest.approx(saturation)
    assert found.warmth == pytest.approx(warmth)


def test_a_grey_picture_has_no_saturation_whatever_its_file() -> None:
    grey = scene(1).convert("L")
    for image, format in ((grey, "PNG"), (grey, "JPEG"), (grey.convert("RGB"), "BMP")):
        assert of(image, format).saturation == 0.0
    # Chroma of a grey picture saved as a colour JPEG is rounded.
    assert known(of(grey.convert("RGB"), "JPEG").saturation) < 0.004


def test_entropy_counts_levels() -> None:
    levels = np.repeat(np.arange(0, 256, 16, dtype=np.uint8), 6)  # 16 levels, 96 columns
    assert of(Image.fromarray(np.tile(levels, (96, 1)))).entropy == pytest.approx(4.0, abs=0.02)
    noise = np.random.default_rng(0).integers(0, 256, (96, 96), dtype=np.uint8)
    assert 7.5 < known(of(Image.fromarray(noise)).entropy) <= 8


def detailed(seed: int, side: int) -> Image.Image:
    """A scene with fine grain, as a sharp photograph has."""
    grain = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    return Image.blend(scene(seed, side, side), grain.resize((side, side), Image.Resampling.BICUBIC), 0.4)


@pytest.mark.parametrize("side", [SMALL, LARGE])
@pytest.mark.parametrize("seed", range(4))
def test_blurring_lowers_sharpness_and_darkening_does_not(seed: int, side: int) -> None:
    original = detailed(seed, side)
    sharp = known(of(original).sharpness)
    blurred = [known(of(original.filter(ImageFilter.GaussianBlur(side / part))).sharpness) for part in (100, 50, 25)]
    assert sharp > blurred[0] > blurred[1] > blurred[2]
    assert blurred[2] < sharp / 10
    for darker in (0.8, 0.5):
        assert of(original.point(lambda value, by=darker: int(value * by))).sharpness == pytest.approx(sharp, rel=0.1)


@pytest.mark.parametrize("seed", range(4))
def test_a_paler_copy_is_as_sharp(seed: int) -> None:
    original = detailed(seed, LARGE)
    pale = Image.blend(original, Image.new("RGB", original.size, (128, 128, 128)), 0.5)
    assert of(pale).sharpness == pytest.approx(of(original).sharpness, rel=0.1)


@pytest.mark.parametrize(
    ("image", "format", "mode", "depth"),
    [
        (Image.new("RGB", (9, 9)), "PNG", "RGB", 8),
        (Image.fromarray(np.full((9, 9), 40_000, np.uint16)), "PNG", "I;16", 16),
        (Image.new("1", (9, 9)), "PNG", "1", 1),
        (Image.new("L", (9, 9)), "JPEG", "L", 8),
        (Image.new("CMYK", (9, 9)), "JPEG", "CMYK", 8),
        (Image.new("P", (9, 9)), "GIF", "P", 8),
        (Image.new("RGBA", (9, 9)), "PNG", "RGBA", 8),
        (Image.new("LA", (9, 9)), "PNG", "LA", 8),
    ],
)
def test_mode_and_bit_depth_are_the_files(image: Image.Image, format: str, mode: str, depth: int) -> None:
    found = of(image, format)
    assert (found.format, found.mode, found.bit_depth, found.frames) == (format, mode, depth, 1)


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_bytes_behind_the_end_are_counted_and_change_no_other_figure(format: str) -> None:
    data = encode(scene(3), format)
    for at, found in enumerate(measure([data, data + b"x", data + b"garbage" * 9])):
        more = (0, 1, 63)[at]
        assert found == replace(one(data), size_bytes=len(data) + more, trailing_bytes=more)


def test_of_other_formats_no_bytes_behind_the_end_are_counted() -> None:
    for format in ("GIF", "BMP", "WEBP", "TIFF"):
        assert one(encode(scene(3), format) + b"garbage").trailing_bytes is None


def test_sixteen_bits_keep_the_high_byte() -> None:
    found = of(Image.fromarray(np.full((20, 20), 0x66FF, np.uint16)))
    assert found.brightness == pytest.approx(0x66 / 255)


def test_frames_are_counted_and_the_first_is_measured() -> None:
    white, black = Image.new("RGB", (40, 40), (255, 255, 255)), Image.new("RGB", (40, 40))
    grey = Image.new("RGB", (40, 40), (128, 128, 128))
    found = of(white, "GIF", save_all=True, append_images=[black, grey])
    assert (found.frames, found.brightness) == (3, 1.0)


@pytest.mark.parametrize("size", [(60, 40), (90, 180), (800, 500)])
@pytest.mark.parametrize("orientation", TURNS)
def test_a_turned_file_has_the_figures_of_the_upright_picture(orientation: int, size: tuple[int, int]) -> None:
    upright = scene(8, *size)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = of(upright.transpose(TURNS[orientation]), exif=exif.tobytes())
    expected = of(upright)
    assert (stored.width, stored.height, stored.orientation) == (*size, orientation)
    assert replace(stored, orientation=1, size_bytes=expected.size_bytes) == expected


def test_measuring_in_any_company_gives_the_same() -> None:
    rng = random.Random(4)
    files = [b"", b"<html>", encode(scene(0))[:500], encode(Image.new("F", (9, 9)), "TIFF")]
    for seed in range(96):
        width, height = rng.choice([(8, 8), (31, 90), (96, 96), (200, 130), (500, 420), (384, 10)])
        image = Image.new("RGB", (width, height), (seed, 90, 7)) if seed % 9 == 0 else scene(seed, width, height)
        files.append(encode(image, rng.choice(["PNG", "JPEG", "BMP", "WEBP"])))
    rng.shuffle(files)
    alone = [one(data) for data in files]
    assert sum(found.reason is None for found in alone) == 96
    for size in (7, 64, 100):
        chunks = [files[start : start + size] for start in range(0, 100, size)]
        assert [found for chunk in chunks for found in measure(chunk)] == alone
    assert measure(files[::-1]) == alone[::-1]
    assert measure([]) == []


@pytest.mark.parametrize(
    ("data", "format", "reason"),
    [
        (b"", None, "empty"),
        (b"<!doctype html>", None, "not_an_image"),
        (encode(scene(0), "JPEG")[:900], "JPEG", "truncated"),
        (encode(scene(0), "PNG")[:900], "PNG", "truncated"),
        (b"\0\0\0\x18ftypheic" + bytes(40), "HEIC", "format"),
        (encode(Image.new("F", (9, 9)), "TIFF"), "TIFF", "decoder_error"),
        (encode(Image.new("1", (2**14, 2**12 + 1))), "PNG", "too_large"),
    ],
)
def test_bytes_without_pixels_have_a_reason_and_no_figures(data: bytes, format: str | None, reason: str) -> None:
    found = one(data)
    assert (found.size_bytes, found.format, found.reason) == (len(data), format, reason)
    assert reason in images.REASONS
    assert found.detail
    assert {name: getattr(found, name) for name in FIGURES} == dict.fromkeys(FIGURES)


def test_every_figure_is_there_and_in_range() -> None:
    for seed in range(20):
        found = of(scene(seed), "JPEG")
        assert all(getattr(found, name) is not None for name in FIGURES)
        assert found.reason is None
        assert 0 <= known(found.brightness) <= 1
        assert 0 <= known(found.contrast) <= 0.5
        assert 0 <= known(found.entropy) <= 8
        assert known(found.sharpness) >= 0
        assert 0 <= known(found.saturation) <= 1
        assert -1 <= known(found.warmth) <= 1
        assert len(found.layout or ()) == measurement.LAYOUT
        assert len(found.hashes or ()) == len(measurement.ZOOMS)
        assert len(found.shapes or b"") == 64 * len(measurement.ZOOMS)


@pytest.mark.parametrize("level", [0, 1, 100, 255])
def test_the_layout_of_a_flat_picture_is_eight_times_its_luma(level: int) -> None:
    assert flat((level, level, level)).layout == (8 * level, *([0] * 11))


@pytest.mark.parametrize("seed", range(5))
def test_the_layout_is_the_orthonormal_transform_of_block_means(seed: int) -> None:
    """ISO/IEC 15938-3, F.3: the 8 x 8 cosine transform with C(0) = 1 / sqrt(2), read in zigzag order."""
    # Every pixel of a block has one colour, so that it does not matter which pixels are read.
    blocks = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    found = of(Image.fromarray(blocks.repeat(12, axis=0).repeat(12, axis=1)))
    red, green, blue = np.moveaxis(blocks.astype(float), 2, 0)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    expected: list[float] = []
    for plane, count in ((luma, 6), (0.564 * (blue - luma), 3), (0.713 * (red - luma), 3)):
        spectrum = dctn(plane, norm="ortho")
        expected += [spectrum[place] for place in ((0, 0), (0, 1), (1, 0), (2, 0), (1, 1), (0, 2))[:count]]
    assert found.layout == pytest.approx(expected, abs=2)


def test_the_first_bit_of_every_hash_is_zero() -> None:
    for seed in range(50):
        noise = np.random.default_rng(seed).integers(0, 256, (50, 70, 3), dtype=np.uint8)
        for image in (Image.fromarray(noise), scene(seed), Image.new("L", (40, 40), seed)):
            assert all(number >> 63 == 0 for number in of(image).hashes or (1 << 63,))


def test_hashes_of_copies_are_near_and_those_of_strangers_far() -> None:
    scenes = [scene(seed, 160, 120) for seed in range(25)]
    whole = [of(image) for image in scenes]
    for image, found in zip(scenes, whole, strict=True):
        for quality in (90, 40):
            assert apart(found, of(image, "JPEG", quality=quality)) <= 6
        assert apart(found, of(image.resize((80, 60)))) <= 6
        assert apart(found, of(image.resize((640, 480), Image.Resampling.BICUBIC))) <= 6
    distances = [apart(found, other) for at, found in enumerate(whole) for other in whole[:at]]
    assert min(distances) > 12
    assert 28 < float(np.mean(distances)) < 36


def test_a_copy_without_its_edges_has_the_hash_of_the_middle() -> None:
    for seed in range(12):
        image = scene(seed, 400, 400)
        for cut in (10, 20):  # 5 % and 10 % of a side
            copy = of(image.crop((cut, cut, 400 - cut, 400 - cut))).hashes or (0,)
            assert min((number ^ copy[0]).bit_count() for number in of(image).hashes or ()) <= 6


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (1, 10_000), (10_000, 1), (10_000, 2), (2, 383), (384, 1), (95, 97)])
def test_pictures_of_any_shape(size: tuple[int, int]) -> None:
    found = of(scene(2, *size))
    assert found.reason is None
    assert (found.width, found.height) == size
    assert all(getattr(found, name) is not None for name in FIGURES)


def test_a_large_photograph() -> None:
    found = of(scene(6, 4000, 3000), "JPEG")
    small = of(scene(6, 400, 300), "JPEG")
    assert (found.width, found.height) == (4000, 3000)
    assert found.brightness == pytest.approx(small.brightness, abs=0.01)
    assert found.contrast == pytest.approx(small.contrast, abs=0.01)
    assert apart(found, small) <= 6


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF"])
def test_no_damage_raises(format: str) -> None:
    """A few hundred files with bytes changed, cut out or put in; each is measured or has its reason."""
    rng = random.Random(format)
    animated = {"save_all": True, "append_images": [scene(1, 40, 30)]} if format in ("GIF", "WEBP", "TIFF") else {}
    whole = encode(scene(0, 40, 30), format, **animated)
    damaged = []
    for _ in range(80):
        data = bytearray(whole)
        for _ in range(rng.choice((1, 2, 8, 40))):
            # Half the damage to the head, where the sizes and the tables are.
            at = rng.randrange(len(data) if rng.random() < 0.5 else 100)
            match rng.randrange(4):
                case 0:
                    data[at : at + 1] = rng.randbytes(1)
                case 1:
                    data[at : at + rng.randrange(1, 9)] = b""
                case 2:
                    data[at:at] = rng.randbytes(rng.randrange(1, 9))
                case 3:
                    data[at : at + 4] = rng.choice((b"\0\0\0\0", b"\xff\xff\xff\xff", b"\0\0\0\1"))
        damaged.append(bytes(data))
    damaged += [whole[: rng.randrange(len(whole))] for _ in range(10)]
    damaged += [whole[:12] + rng.randbytes(rng.randrange(300)) for _ in range(10)]
    for data, found in zip(damaged, measure(damaged), strict=True):
        assert found.size_bytes == len(data)
        if found.reason is None:
            assert found.layout is not None
            assert known(found.width) >= 1
            assert known(found.height) >= 1
        else:
            assert found.reason in images.REASONS
            assert found.detail
            assert found.layout is None


def test_random_bytes_raise_nothing() -> None:
    rng = random.Random(12)
    heads = (b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"RIFF\0\0\0\0WEBP", b"II*\0", b"MM\0*")
    files = [rng.choice(heads) + rng.randbytes(rng.randrange(200)) for _ in range(300)]
    assert all(found.reason in images.REASONS for found in measure(files))
