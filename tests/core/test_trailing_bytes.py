"""Bytes behind the end of pictures as encoders write them, and of files made to mislead or to cost time."""

from __future__ import annotations

import io
import re
import struct
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image

from stages.core import images, trailing_bytes
from stages.core.trailing_bytes import count

END = b"\xff\xd9"
NOISE = Image.fromarray(np.random.default_rng(3).integers(0, 256, (60, 80, 3), dtype=np.uint8))


def encode(image: Image.Image = NOISE, format: str = "JPEG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def exif_with(thumbnail: bytes) -> bytes:
    """Exif data whose second directory points at a JPEG (tags 513 and 514), as cameras write them."""
    first = struct.pack("<HHHLLL", 1, 0x0112, 3, 1, 1, 26)
    second = struct.pack("<HHHLLHHLLL", 2, 513, 4, 1, 56, 514, 4, 1, len(thumbnail), 0)
    return b"Exif\0\0II*\0\x08\0\0\0" + first + second + thumbnail


WHOLE = {
    "baseline": encode(),
    "many stuffed bytes": encode(quality=100, subsampling=0),
    "progressive": encode(progressive=True),
    "restart markers": encode(restart_marker_blocks=2),
    "progressive with restart markers": encode(progressive=True, restart_marker_blocks=3),
    "grey": encode(NOISE.convert("L")),
    "CMYK": encode(NOISE.convert("CMYK")),
    "CMYK, progressive": encode(NOISE.convert("CMYK"), progressive=True),
    "thumbnail in EXIF": encode(exif=exif_with(encode(NOISE.resize((16, 12))))),
    "end marker in a comment and a profile": encode(comment=b"the end: \xff\xd9", icc_profile=END * 40_000),
    "fill bytes before markers": re.sub(rb"\xff([\xc0\xc4\xda\xd9])", b"\xff\xff\xff\xff\\1", encode()),
    "PNG": encode(format="PNG"),
    "PNG that names its end in a text": encode(format="PNG", exif=b"Exif\0\0IEND\xae\x42\x60\x82"),
    "animated PNG": encode(format="PNG", save_all=True, append_images=[NOISE.rotate(90)]),
}
BEHIND = (b"\0", b"\n", b"garbage" * 9, b"\xff", b"\xff" * 64, END, END * 2, b"\xff\xe1\xff\xff", bytes(70_000))


def test_the_pictures_have_what_they_are_named_for() -> None:
    assert WHOLE["many stuffed bytes"].count(b"\xff\0") > 50
    assert WHOLE["progressive"].count(b"\xff\xda") > 5
    assert len(re.findall(rb"\xff[\xd0-\xd7]", WHOLE["restart markers"])) > 5
    assert len(re.findall(rb"\xff[\xd0-\xd7]", WHOLE["progressive with restart markers"])) > 20
    assert WHOLE["thumbnail in EXIF"].count(END) == 2
    assert WHOLE["end marker in a comment and a profile"].count(END) > 40_000
    assert WHOLE["fill bytes before markers"].endswith(b"\xff\xff\xff\xff\xd9")
    assert WHOLE["PNG that names its end in a text"].count(b"IEND") == 2
    with Image.open(io.BytesIO(WHOLE["thumbnail in EXIF"])) as image:
        assert image.getexif().get_ifd(ExifTags.IFD.IFD1)[514] > 100


@pytest.mark.parametrize("kind", WHOLE)
def test_what_lies_behind_is_counted_to_the_byte_and_no_pixel_hangs_on_it(kind: str) -> None:
    data = WHOLE[kind]
    pixels = images.decode(data)
    assert count(data, images.sniff(data)) == 0
    for more in (*BEHIND, data, WHOLE["progressive"], WHOLE["PNG"]):
        assert count(data + more, images.sniff(data)) == len(more)
    np.testing.assert_array_equal(images.decode(data + BEHIND[2]), pixels)


@pytest.mark.parametrize("kind", [kind for kind in WHOLE if kind != "PNG that names its end in a text"])
def test_the_end_is_where_the_decoder_needs_the_file_to_reach(kind: str) -> None:
    """Without the bytes behind it the picture is whole, without a few more it is not."""
    data = WHOLE[kind]
    longer = data + BEHIND[2]
    end = len(longer) - (count(longer, images.sniff(data)) or 0)
    np.testing.assert_array_equal(images.decode(longer[:end]), images.decode(data))
    with pytest.raises(images.Undecodable, match="truncated"):
        # Pillow asks for no checksum of the last chunk, and now and then for no second byte of an end marker.
        images.decode(longer[: end - (5 if "PNG" in kind else 3)])


def test_the_second_picture_of_a_multi_picture_file_is_counted() -> None:
    other = NOISE.rotate(180)
    data = encode(format="MPO", save_all=True, append_images=[other])
    behind = count(data, images.sniff(data))
    assert behind
    second = data[-behind:]
    np.testing.assert_array_equal(images.decode(second), images.decode(encode(other)))
    assert count(second, "JPEG") == 0


@pytest.mark.parametrize("kind", WHOLE)
def test_a_cut_file_has_no_end(kind: str) -> None:
    data = WHOLE[kind]
    last = len(data) - (12 if "PNG" in kind else 0)  # the end chunk of a PNG counts once its name is there
    for cut in {*range(3, last, max(1, len(data) // 60)), last - 1}:
        assert count(data[:cut], images.sniff(data)) is None


def test_a_cut_end_chunk_has_nothing_behind_it() -> None:
    data = WHOLE["PNG"]
    assert [count(data[:-cut], "PNG") for cut in (1, 2, 3, 4)] == [0] * 4


@pytest.mark.parametrize("format", ["GIF", "BMP", "WEBP", "TIFF", None])
def test_other_formats_are_not_looked_at(format: str | None) -> None:
    data = encode(format=format or "PNG") + b"behind"
    assert count(data, format) is None


@pytest.mark.parametrize("length", [0, 1, 60_000])
def test_a_segment_whose_length_lies_has_no_end_behind_it(length: int) -> None:
    data = b"\xff\xd8\xff\xe1" + length.to_bytes(2, "big") + bytes(90) + END + b"behind"
    assert count(data, "JPEG") is None


def test_a_picture_that_begins_before_the_first_one_ends_is_no_end() -> None:
    whole = WHOLE["baseline"]
    assert count(whole[:-2] + whole, "JPEG") is None
    # The bytes behind its mark are no length, even where they could be one.
    assert count(whole[:-2] + b"\xff\xd8\0\2" + END + b"behind", "JPEG") is None


class Counted:
    """A pattern that counts its searches and the bytes they passed over."""

    def __init__(self, pattern: re.Pattern[bytes]) -> None:
        self.pattern = pattern
        self.searches = self.passed = 0

    def search(self, data: bytes, start: int) -> re.Match[bytes] | None:
        found = self.pattern.search(data, start)
        self.searches += 1
        self.passed += (found.end() if found else len(data)) - start
        return found


@pytest.mark.parametrize(
    ("body", "most"),
    [
        (b"\xff" * 2**22, 1),
        (b"\xff\0" * 2**21, 1),
        (b"\xff\xd3" * 2**21, 1),
        (b"\xff\x01" * 2**21, 1),
        (bytes(2**22), 1),
        (b"\xff\xe0\0\2" * 5000, 1000),
        (b"\xff\xe0\xff\xff" * 5000, 1000),
    ],
    ids=["fill bytes", "stuffed bytes", "restarts", "marks that stand alone", "zeros", "segments", "long segments"],
)
def test_a_hostile_file_is_passed_over_once_in_few_steps(
    body: bytes, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = Counted(trailing_bytes._MARKER)
    monkeypatch.setattr(trailing_bytes, "_MARKER", counted)
    monkeypatch.setattr(trailing_bytes, "MAX_PARTS", 1000)
    data = b"\xff\xd8" + body
    assert count(data, "JPEG") is None
    assert counted.searches <= most
    assert counted.passed <= len(data)


def test_so_many_parts_are_walked_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trailing_bytes, "MAX_PARTS", 100)
    jpeg = b"\xff\xd8" + b"\xff\xe0\0\2" * 99 + END + b"behind"
    assert (count(jpeg, "JPEG"), count(jpeg[:2] + jpeg[2:6] + jpeg[2:], "JPEG")) == (6, None)
    chunk = b"\0\0\0\0tEXt\0\0\0\0"
    png = b"\x89PNG\r\n\x1a\n" + chunk * 99 + b"\0\0\0\0IEND\xae\x42\x60\x82" + b"behind"
    assert (count(png, "PNG"), count(png[:8] + chunk + png[8:], "PNG")) == (6, None)
