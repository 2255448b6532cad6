"""The decoder's rules, each against pixels made here, and every reason it refuses for."""

from __future__ import annotations

import io
import pickle
import struct
import warnings
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stages.core import images

# How a camera held each way stores the upright pixels, by EXIF orientation.
STORED: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.transpose(1, 0, 2),
    6: lambda upright: np.rot90(upright),
    7: lambda upright: np.rot90(upright, 2).transpose(1, 0, 2),
    8: lambda upright: np.rot90(upright, -1),
}
# Four flat quarters: red, green, blue, white. Every turn of it differs from every other.
QUARTERS = np.zeros((32, 48, 3), np.uint8)
QUARTERS[:16, :24] = (255, 0, 0)
QUARTERS[:16, 24:] = (0, 255, 0)
QUARTERS[16:, :24] = (0, 0, 255)
QUARTERS[16:, 24:] = 255
NOISE = np.random.default_rng(7).integers(0, 256, (60, 80, 3), dtype=np.uint8)


def encode(image: Image.Image, format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def refusal(data: bytes) -> images.Undecodable:
    with pytest.raises(images.Undecodable) as caught:
        images.decode(data)
    assert caught.value.reason in images.REASONS
    return caught.value


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF"])
def test_lossless_formats_come_back_exactly(format: str) -> None:
    decoded = images.examine(encode(Image.fromarray(NOISE), format))
    np.testing.assert_array_equal(np.array(decoded.image), NOISE)
    assert np.array(decoded.image).dtype == np.uint8
    assert np.array(decoded.image).flags.writeable
    assert (decoded.format, decoded.mode, decoded.frames, decoded.orientation) == (format, "RGB", 1, 1)


@pytest.mark.parametrize("format", ["JPEG", "WEBP"])
def test_lossy_formats_come_back_nearly(format: str) -> None:
    decoded = images.examine(encode(Image.fromarray(QUARTERS), format, quality=95))
    assert np.abs(np.array(decoded.image)[4:12, 4:20].astype(int) - QUARTERS[4:12, 4:20]).max() < 8
    assert decoded.format == format


@pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_comes_out_upright(orientation: int, format: str) -> None:
    stored = STORED[orientation](QUARTERS)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95, "subsampling": 0} if format == "JPEG" else {}
    data = encode(Image.fromarray(np.ascontiguousarray(stored)), format, exif=exif.tobytes(), **options)
    decoded = images.examine(data)
    assert decoded.orientation == orientation
    assert np.array(decoded.image).shape == QUARTERS.shape
    assert np.abs(np.array(decoded.image)[8, 8].astype(int) - (255, 0, 0)).max() < 8
    assert np.abs(np.array(decoded.image)[8, 40].astype(int) - (0, 255, 0)).max() < 8
    assert np.abs(np.array(decoded.image)[24, 8].astype(int) - (0, 0, 255)).max() < 8


def test_illegal_exif_orientation_counts_as_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 77
    decoded = images.examine(encode(Image.fromarray(NOISE), "PNG", exif=exif.tobytes()))
    assert decoded.orientation == 1
    np.testing.assert_array_equal(np.array(decoded.image), NOISE)


def test_broken_exif_leaves_the_pixels() -> None:
    data = encode(Image.fromarray(NOISE), "PNG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    np.testing.assert_array_equal(images.decode(data), NOISE)


def test_cmyk_jpeg() -> None:
    ink = np.zeros((32, 32, 4), np.uint8)
    ink[:, :16] = (0, 255, 255, 0)  # magenta and yellow: red
    ink[:, 16:] = (0, 0, 0, 128)  # half black
    decoded = images.examine(encode(Image.fromarray(ink, mode="CMYK"), "JPEG", quality=100))
    assert decoded.mode == "CMYK"
    assert np.abs(np.array(decoded.image)[16, 4].astype(int) - (255, 0, 0)).max() < 6
    assert np.abs(np.array(decoded.image)[16, 28].astype(int) - 127).max() < 6


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_16_bit_grey_keeps_the_high_byte(format: str) -> None:
    grey = np.array([[0, 255, 256, 32768, 65279, 65535]], np.uint16)
    pixels = images.decode(encode(Image.fromarray(grey), format))
    assert pixels[0].tolist() == [[v] * 3 for v in (0, 0, 1, 128, 254, 255)]


def test_16_bit_colour_keeps_the_high_byte() -> None:
    row = b"\0" + struct.pack(">6H", 0, 255, 256, 32768, 65279, 65535)
    data = png(2, 1, depth=16, colour=2, rows=row)
    assert images.decode(data)[0].tolist() == [[0, 0, 1], [128, 254, 255]]


def test_palette_is_looked_up_and_its_transparency_ignored() -> None:
    image = Image.new("P", (3, 1))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.putdata([2, 0, 1])
    for options in ({}, {"transparency": 0}, {"transparency": bytes([0, 128, 255])}):
        pixels = images.decode(encode(image, "PNG", **options))
        assert pixels[0].tolist() == [[70, 80, 90], [10, 20, 30], [40, 50, 60]]


def test_alpha_is_dropped_not_blended() -> None:
    rgba = np.dstack([NOISE, np.zeros(NOISE.shape[:2], np.uint8)])
    np.testing.assert_array_equal(images.decode(encode(Image.fromarray(rgba), "PNG")), NOISE)
    la = Image.merge("LA", [Image.fromarray(NOISE[:, :, 0]), Image.new("L", (80, 60), 0)])
    np.testing.assert_array_equal(images.decode(encode(la, "PNG")), np.repeat(NOISE[:, :, :1], 3, axis=2))


def test_transparent_grey_and_colour_keep_their_value() -> None:
    grey = Image.fromarray(NOISE[:, :, 0])
    pixels = images.decode(encode(grey, "PNG", transparency=int(NOISE[0, 0, 0])))
    np.testing.assert_array_equal(pixels, np.repeat(NOISE[:, :, :1], 3, axis=2))


def test_1_bit_becomes_0_and_255() -> None:
    bits = Image.fromarray(np.array([[True, False, True]]))
    assert images.decode(encode(bits, "PNG"))[0].tolist() == [[255] * 3, [0] * 3, [255] * 3]


def test_animated_gif_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (12, 8), colour) for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    decoded = images.examine(encode(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert (decoded.frames, decoded.format) == (3, "GIF")
    assert np.array(decoded.image).shape == (8, 12, 3)
    assert (np.array(decoded.image) == (255, 0, 0)).all()


def test_trailing_bytes_after_a_jpeg_are_accepted() -> None:
    data = encode(Image.fromarray(NOISE), "JPEG")
    np.testing.assert_array_equal(images.decode(data + b"garbage" * 9), images.decode(data))


@pytest.mark.parametrize("progressive", [False, True])
def test_stray_bytes_before_the_end_of_a_jpeg_are_accepted(progressive: bool) -> None:
    data = encode(Image.fromarray(NOISE), "JPEG", progressive=progressive)
    np.testing.assert_array_equal(images.decode(data[:-2] + b"garbage" * 9 + data[-2:]), images.decode(data))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF"])
@pytest.mark.parametrize("part", [0.5, 0.99])
def test_cut_files_are_truncated(format: str, part: float) -> None:
    data = encode(Image.fromarray(NOISE), format)
    assert refusal(data[: int(len(data) * part)]).reason == "truncated"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"<!doctype html><title>404</title>", "not_an_image"),
        (b"BMW makes cars, this is a text about them", "not_an_image"),
        (b"\0\0\0\x18ftypheic" + bytes(64), "format"),
        (b"II*\0" + b"\xff" * 40, "decoder_error"),
    ],
)
def test_refusals(data: bytes, reason: str) -> None:
    assert refusal(data).reason == reason


def test_32_bit_images_are_refused_with_the_way_out() -> None:
    error = refusal(encode(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"))
    assert error.reason == "decoder_error"
    assert "8 bits" in error.detail


def png(width: int, height: int, depth: int = 8, colour: int = 2, rows: bytes = b"") -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">2I5B", width, height, depth, colour, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_bomb_is_refused_from_its_header() -> None:
    error = refusal(png(19_000, 19_000))
    assert error.reason == "too_large"
    assert "19000 x 19000" in error.detail


def test_detail_is_the_same_every_time() -> None:
    data = b"II*\0" + b"\xff" * 40
    assert refusal(data).detail == refusal(data).detail
    assert "0x" not in refusal(data).detail


def test_refusal_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(images.Undecodable("empty", "0 bytes")))
    assert (error.reason, error.detail) == ("empty", "0 bytes")


def test_nothing_but_undecodable_escapes() -> None:
    """Flip bytes of every format: pixels or Undecodable, never Pillow's own error or warning."""
    rng = np.random.default_rng(3)
    small = Image.fromarray(NOISE[:20, :20])
    outcomes = set()
    for format in images.FORMATS:
        whole = encode(small, format)
        for _ in range(40):
            broken = bytearray(whole)
            for at in rng.integers(0, min(len(whole), 200), 4):
                broken[at] = rng.integers(0, 256)
            try:
                assert images.decode(bytes(broken)).ndim == 3
                outcomes.add("pixels")
            except images.Undecodable as error:
                outcomes.add(error.reason)
    assert {"pixels", "decoder_error"} <= outcomes


def test_resize_stretches_and_antialiases() -> None:
    checks = np.indices((64, 128)).sum(axis=0) % 2 * 255
    board = np.repeat(checks[:, :, None], 3, axis=2).astype(np.uint8)
    small = images.resize(board, 16)
    assert small.shape == (16, 16, 3)
    assert small.dtype == np.uint8
    assert np.abs(small.astype(int) - 127).max() < 12  # without antialiasing it would be 0 and 255
    np.testing.assert_array_equal(images.resize(small, 16), small)
    wide = images.resize(QUARTERS, 96)
    assert wide[8, 8].tolist() == [255, 0, 0]
    assert wide[8, 88].tolist() == [0, 255, 0]


def scenery(width: int, height: int) -> Image.Image:
    """A picture without symmetry, as smooth as a photograph, with a fine grain."""
    colours = np.random.default_rng(5).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    pixels = np.asarray(Image.fromarray(colours).resize((width, height), Image.Resampling.BICUBIC), dtype=np.int16)
    grain = np.random.default_rng(6).integers(-12, 13, (height, width, 1), dtype=np.int16)
    return Image.fromarray(np.clip(pixels + grain, 0, 255).astype(np.uint8))


def whole(data: bytes, size: int) -> np.ndarray:
    return images.resize(images.decode(data), size)


def apart(one: np.ndarray, other: np.ndarray) -> tuple[float, int]:
    """Mean and largest difference, in grey levels."""
    difference = np.abs(one.astype(int) - other)
    return float(difference.mean()), int(difference.max())


LARGE = scenery(1201, 903)  # divisible by no scale: the last row and column of a scaled picture are cut pixels


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("size", "denominator"), [(224, 2), (128, 4), (64, 8)])
def test_large_jpegs_of_every_orientation_come_out_upright(size: int, denominator: int, orientation: int) -> None:
    assert scale_of(LARGE.size, size) == denominator
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](np.asarray(LARGE))))
    data = encode(stored, "JPEG", quality=92, exif=exif)
    seen = images.decode_resized(data, size)
    assert (seen.shape, seen.dtype, seen.flags.writeable) == ((size, size, 3), np.uint8, True)
    mean, largest = apart(seen, whole(data, size))
    assert mean < 0.75
    assert largest <= 8
    upright = np.asarray(LARGE.resize((size, size), Image.Resampling.BILINEAR))
    far = {number: apart(seen, turn(upright))[0] for number, turn in STORED.items()}
    assert far.pop(1) < 2
    assert min(far.values()) > 20


def scale_of(shape: tuple[int, int], size: int) -> int:
    """The denominator the rule gives: the largest of 8, 4, 2, 1 that leaves SCALED_SIDE * size pixels a side."""
    return next(s for s in (8, 4, 2, 1) if s == 1 or min(shape) / s >= images.SCALED_SIDE * size)


@pytest.mark.parametrize(
    "options",
    [{"progressive": True}, {"subsampling": 0}, {"subsampling": 1}, {"restart_marker_rows": 1}, {"optimize": True}],
)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_every_kind_of_large_jpeg_is_nearly_the_whole_decoding(mode: str, options: dict[str, Any]) -> None:
    data = encode(LARGE.convert(mode), "JPEG", quality=92, **options)
    pixels = images.decode(data)
    for size in (224, 128, 64):
        mean, largest = apart(images.decode_resized(data, size), images.resize(pixels, size))
        assert mean < 0.75
        assert largest <= 8


def test_large_ycck_jpeg_is_nearly_the_whole_decoding() -> None:
    # libjpeg reads four components as YCCK where Adobe's marker says transform 2.
    data = encode(LARGE.convert("CMYK"), "JPEG", quality=92)
    marker = data.index(b"Adobe")
    data = data[: marker + 11] + b"\x02" + data[marker + 12 :]
    with Image.open(io.BytesIO(data)) as image:
        assert image.info["adobe_transform"] == 2
    assert apart(images.decode_resized(data, 64), whole(data, 64))[0] < 1.5


def test_the_cut_pixels_at_the_end_move_nothing() -> None:
    # 1201 pixels at 1/8 are 150.125: stretched from all 151, the right end would move by a third of a pixel.
    wave = 127 + 100 * np.sin(2 * np.pi * np.arange(1201) / 150)
    bars = np.broadcast_to(wave.astype(np.uint8)[None, :, None], (903, 1201, 3))
    data = encode(Image.fromarray(np.ascontiguousarray(bars)), "JPEG", quality=95)
    assert apart(images.decode_resized(data, 64), whole(data, 64))[1] <= 8


@pytest.mark.parametrize(("width", "height"), [(1, 5000), (5000, 1), (80, 60), (224, 224), (671, 5000), (5000, 671)])
@pytest.mark.parametrize("orientation", [1, 6])
def test_what_is_not_large_on_both_sides_is_decoded_whole(width: int, height: int, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(scenery(width, height), "JPEG", exif=exif)
    assert scale_of((width, height), 224) == 1
    np.testing.assert_array_equal(images.decode_resized(data, 224), whole(data, 224))


def test_the_smallest_picture_decoded_at_a_scale() -> None:
    data = encode(scenery(672, 672), "JPEG")
    assert 0 < apart(images.decode_resized(data, 224), whole(data, 224))[0] < 0.75


@pytest.mark.parametrize("format", ["PNG", "GIF", "BMP", "WEBP", "TIFF"])
def test_other_formats_are_decoded_whole(format: str) -> None:
    data = encode(scenery(400, 300), format)
    np.testing.assert_array_equal(images.decode_resized(data, 64), whole(data, 64))
    assert images.decode_resized(data, 64).flags.writeable


def test_large_mpo_gives_its_first_picture() -> None:
    data = encode(LARGE, "MPO", save_all=True, append_images=[Image.new("RGB", LARGE.size, (255, 0, 0))])
    assert images.sniff(data) == "JPEG"
    assert apart(images.decode_resized(data, 64), whole(data, 64))[0] < 0.75


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_blocks": 8}])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_cut_and_damaged_large_jpegs_are_judged_alike(mode: str, options: dict[str, Any]) -> None:
    data = encode(scenery(390, 390).convert(mode), "JPEG", **options)
    rng = np.random.default_rng(4)
    ends = [*range(0, 600, 41), *range(len(data) - 8, len(data)), *rng.integers(600, len(data), 12).tolist()]
    files = [data[:end] for end in ends]
    for _ in range(12):
        broken = bytearray(data)
        for at in rng.integers(0, len(data), 3):
            broken[at] = rng.integers(0, 256)
        files.append(bytes(broken))
    outcomes = set()
    for file in files:
        judged = verdict(lambda file=file: images.decode(file))
        outcomes.add(judged.partition(":")[0])
        for size in (128, 64, 32):
            assert verdict(lambda file=file, size=size: images.decode_resized(file, size)) == judged
    assert {"pixels", "truncated"} <= outcomes


def verdict(action: Callable[[], np.ndarray]) -> str:
    try:
        action()
    except images.Undecodable as error:
        return str(error)
    return "pixels"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<!doctype html><title>404</title>",
        b"\0\0\0\x18ftypheic" + bytes(64),
        b"II*\0" + b"\xff" * 40,
        b"\xff\xd8\xff" + bytes(64),
        b"\x89PNG\r\n\x1a\n" + bytes(64),
        # A JPEG header of 65,535 x 65,535 pixels.
        b"\xff\xd8\xff\xc0\0\x11\x08\xff\xff\xff\xff\3\1\x22\0\2\x11\1\3\x11\1\xff\xda\0\x0c\3\1\0\2\x11\3\x11\0\x3f\0",
    ],
)
def test_refusals_at_a_size_are_those_of_decode(data: bytes) -> None:
    judged = verdict(lambda: images.decode(data))
    assert judged != "pixels"
    assert verdict(lambda: images.decode_resized(data, 64)) == judged


def test_too_large_is_said_of_the_size_in_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(LARGE, "JPEG")
    monkeypatch.setattr(images, "MAX_PIXELS", 1201 * 903 - 1)
    with pytest.raises(images.Undecodable, match="too_large: 1201 x 903 pixels"):
        images.decode_resized(data, 64)


def test_threads_decode_without_each_others_warnings() -> None:
    broken = encode(scenery(96, 96), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        before = list(warnings.filters)
        with ThreadPoolExecutor(8) as pool:
            pictures = list(pool.map(lambda _: images.decode_resized(broken, 32), range(400)))
        assert warnings.filters == before
        with pytest.raises(UserWarning, match="still heard"):
            warnings.warn("still heard", stacklevel=1)
    assert all((picture == pictures[0]).all() for picture in pictures)


def test_sniff_reads_magic_bytes() -> None:
    for format in images.FORMATS:
        assert images.sniff(encode(Image.fromarray(NOISE), format)) == format
    assert images.sniff(b"\0\0\0\x18ftypavif") == "AVIF"
    assert images.sniff(b"hello") is None
