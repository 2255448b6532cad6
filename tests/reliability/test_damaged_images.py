"""Pictures cut at every hundredth, and what fuzzing kept: a reason or pixels, the same for validator and trainer."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks import fuzz, fuzz_mutations, fuzz_targets
from stages.core import images, measurement
from stages.core.measurement import Measurement
from stages.store.isolation import Lost, map_isolated

CORPUS = Path(__file__).parents[1] / "corpus"
CUTS = range(100)  # hundredths that are left
RNG = np.random.default_rng(9)
SMALL = Image.fromarray(RNG.integers(0, 256, (9, 12, 3), dtype=np.uint8)).resize((60, 45), Image.Resampling.BICUBIC)
LARGE = SMALL.resize((150, 120), Image.Resampling.BICUBIC)  # a JPEG of it is decoded at a scale, see fuzz_targets.SIDE
KINDS: dict[str, tuple[Image.Image, str, dict[str, Any]]] = {
    "JPEG": (LARGE, "JPEG", {}),
    "JPEG, progressive": (LARGE, "JPEG", {"progressive": True}),
    "JPEG, CMYK": (SMALL.convert("CMYK"), "JPEG", {}),
    "PNG": (SMALL, "PNG", {}),
    "PNG, palette": (SMALL.quantize(16), "PNG", {"bits": 4}),
    "GIF": (SMALL, "GIF", {}),
    "GIF, animated": (SMALL, "GIF", {"save_all": True, "append_images": [SMALL.rotate(180)]}),
    "BMP": (SMALL, "BMP", {}),
    "WebP": (SMALL, "WEBP", {}),
    "WebP, lossless": (SMALL, "WEBP", {"lossless": True}),
    "TIFF": (SMALL, "TIFF", {}),
    "TIFF, deflated": (SMALL, "TIFF", {"compression": "tiff_adobe_deflate"}),
}


def encode(image: Image.Image, format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def judged(files: list[bytes]) -> Iterator[tuple[bytes, str]]:
    """Each file with what was decided of it in a process of its own, as validate decides."""
    answers = map_isolated(fuzz_targets.judge_images, files, workers=1, cpu_seconds=60, memory_bytes=fuzz.MEMORY)
    for data, answer in zip(files, answers, strict=True):
        assert not isinstance(answer, Lost), (answer, data[:64])
        yield data, answer


@pytest.fixture(scope="module")
def cut() -> dict[str, list[str]]:
    """By kind, what was decided of it cut to each hundredth, and of all of it; one process for them all."""
    whole = {kind: encode(image, format, **options) for kind, (image, format, options) in KINDS.items()}
    files = [data[: len(data) * part // 100] for data in whole.values() for part in (*CUTS, 100)]
    answers = [answer for _, answer in judged(files)]
    each = len(CUTS) + 1
    return {kind: answers[each * at : each * (at + 1)] for at, kind in enumerate(whole)}


@pytest.mark.parametrize("kind", KINDS)
def test_cut_at_every_hundredth(kind: str, cut: dict[str, list[str]]) -> None:
    *parts, whole = cut[kind]
    assert not [answer for answer in parts if answer.startswith(fuzz_targets.DEFECT)]
    format = KINDS[kind][1]
    width, height = KINDS[kind][0].size
    assert whole.startswith(f"{format} {width} x {height} ")
    assert parts[0] == "None empty: 0 bytes"
    # Before half of it is there, no picture is whole, whatever the kind: a second frame is not asked for.
    reasons = {answer.split()[1].rstrip(":") for answer in parts[1:45]}
    assert reasons <= {"truncated", "not_an_image", "decoder_error"}, parts[1:45]
    assert "truncated" in reasons or format == "TIFF"
    refused = [answer for answer in parts if " x " not in answer.split(" ", 1)[1][:12]]
    if kind not in ("GIF, animated",):
        assert len(refused) >= 98, parts[-6:]


def test_the_kept_corpus_of_pictures() -> None:
    """What an earlier search kept: seeds of every kind, inputs of each new kind of answer, and every finding."""
    files = fuzz.corpus("images")
    assert len(files) > 40
    answers = [answer for _, answer in judged(files)]
    assert not [answer for answer in answers if answer.startswith(fuzz_targets.DEFECT)]
    reasons = {answer.split()[1].rstrip(":") for answer in answers}
    assert {"truncated", "decoder_error"} <= reasons
    assert sum(path.stat().st_size for path in CORPUS.rglob("*")) < 300_000


def test_a_disagreement_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(SMALL, "PNG")
    assert fuzz_targets.judge_images([data]) == ["PNG 60 x 45 RGB 8 1"]
    monkeypatch.setattr(images, "decode", lambda _: np.zeros((45, 60, 4), np.uint8))
    assert "DEFECT validate says '60 x 45'" in fuzz_targets.judge_images([data])[0]
    monkeypatch.setattr(images, "examine", lambda _: 1 // 0)
    assert "ZeroDivisionError" in fuzz_targets.judge_images([data])[0]


def test_mutations_are_drawn_from_the_seed() -> None:
    import random

    known = [encode(SMALL, "PNG"), encode(SMALL, "GIF")]
    drawn = [[fuzz_mutations.mutated("images", random.Random(seed), known) for _ in range(1)] for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    mended = fuzz_mutations.with_checksums(known[0][:30] + b"\x01" + known[0][31:])
    assert zlib.crc32(mended[12:29]) == struct.unpack(">I", mended[29:33])[0]


def measured(data: bytes) -> Measurement:
    (found,) = measurement.measure([data])
    return found


@pytest.mark.parametrize("format", ["GIF", "PNG", "TIFF", "WEBP"])
def test_a_picture_of_many_frames_is_its_first_and_never_four_dimensional(format: str) -> None:
    first, second = Image.new("RGB", (60, 45), (200, 30, 90)), Image.new("RGB", (60, 45), (0, 0, 255))
    data = encode(first, format, save_all=True, append_images=[second, second.rotate(90)], lossless=True)
    assert images.decode(data).shape == (45, 60, 3)
    assert images.decode_resized(data, 32).shape == (32, 32, 3)
    assert np.abs(images.decode(data)[20, 30].astype(int) - (200, 30, 90)).max() < 4
    assert (measured(data).frames, measured(data).reason) == (3, None)
    assert measured(data).warmth == pytest.approx((200 - 90) / 255, abs=0.02)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def zeros(size: int) -> bytes:
    packer = zlib.compressobj(9)
    block = bytes(2**20)
    return b"".join(packer.compress(block) for _ in range(size >> 20)) + packer.flush()


def test_a_bomb_is_refused_from_its_header_in_little_memory() -> None:
    """19,000 x 19,000 pixels of one bit: 44 KB on disk, a gigabyte once it is RGB."""
    side = 19_000
    rows = zeros(side * (side // 8 + 1))
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">2I5B", side, side, 1, 0, 0, 0, 0))
    bomb += chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    assert len(bomb) < 50_000
    (found,) = map_isolated(measurement.measure, [bomb], workers=1, cpu_seconds=20, memory_bytes=64 * 2**20)
    assert isinstance(found, Measurement), found  # not ended by its limit of memory
    assert found.reason == "too_large"


def webp_bombs() -> dict[str, bytes]:
    """Small WebP files whose headers say 16,383 x 16,383 pixels, a gigabyte."""
    side = 16_383
    lossy = encode(SMALL, "WEBP")
    lossless = encode(SMALL, "WEBP", lossless=True)
    extended = encode(SMALL, "WEBP", exif=Image.Exif().tobytes())
    assert (lossy[12:16], lossless[12:16], extended[12:16]) == (b"VP8 ", b"VP8L", b"VP8X")
    sides = struct.pack("<I", (side - 1) | (side - 1) << 14)
    canvas = (side - 1).to_bytes(3, "little") * 2
    return {
        "VP8": lossy[:26] + struct.pack("<2H", side, side) + lossy[30:],
        "VP8L": lossless[:21] + sides + lossless[25:],
        "VP8X": extended[:24] + canvas + extended[30:],
    }


@pytest.mark.parametrize("kind", ["VP8", "VP8L", "VP8X"])
def test_a_webp_bomb_is_refused_before_it_is_opened(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found by fuzzing: Pillow asks for all of a WebP's memory to open it, so the verdict hung on what there was."""
    bomb = webp_bombs()[kind]
    (found,) = map_isolated(measurement.measure, [bomb], workers=1, cpu_seconds=20, memory_bytes=64 * 2**20)
    assert isinstance(found, Measurement), found
    assert (found.reason, found.detail) == ("too_large", "16383 x 16383 pixels; at most 67108864 can be decoded")
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("it was opened"))
    with pytest.raises(images.Undecodable, match="too_large"):
        images.decode(bomb)


@pytest.mark.parametrize(
    ("kind", "head"), [(b"zTXt", b"Comment\0\0"), (b"iTXt", b"Comment\0\1\0\0\0"), (b"iCCP", b"profile\0\0")]
)
def test_metadata_that_unpack_to_much_take_little_memory(kind: bytes, head: bytes) -> None:
    whole = encode(SMALL, "PNG")
    packed, mib = zeros(2**28), zeros(2**20)
    # 256 MiB in one chunk, and 200 MiB in chunks that are each within Pillow's limit.
    bombs = [whole[:33] + part + whole[33:] for part in (chunk(kind, head + packed), chunk(kind, head + mib) * 200)]
    answers = map_isolated(measurement.measure, bombs, workers=1, cpu_seconds=20, memory_bytes=128 * 2**20)
    for bomb, found in zip(bombs, answers, strict=True):
        assert isinstance(found, Measurement), found  # not ended by its limit of memory
        assert found.reason in (None, "decoder_error")
        if found.reason is None:
            np.testing.assert_array_equal(images.decode(bomb), np.asarray(SMALL))
