"""A set of photographs with known faults, for measuring what validate finds.

Every kind of fault is injected into photographs of its own, drawn with a seed: the same rows and seed give the same
bytes. A fault either takes its photograph's place (a cut file, a dark picture) or stands beside it (a copy). `FOUND_BY`
says what must find each kind; a fault may break further rules, because a cut-off file of 2 kB is bad in many ways.
"""

from __future__ import annotations

import functools
import io
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageFilter

from stages.store import documents, image_shards
from stages.store.records import Record, Source

ARCHIVE = Path("../shared/data/cats_and_dogs_filtered.zip")
SMALLEST = 100  # pixels, shorter side of what faults are made of: 0.4 of it is still compared for look
BOMB_SIDE = 19_000  # pixels
ORIENTATION = 0x0112


@dataclass(frozen=True)
class Row:
    """One file as download would store it."""

    name: str
    label: str
    given_split: str | None
    data: bytes


@dataclass(frozen=True)
class Fault:
    """One injected file; `original` is the photograph it is a copy of and that is still there."""

    kind: str
    name: str
    original: str | None


Finder = tuple[Literal["reason", "rule"], str]  # quarantine's reason code, or the id of a rule
FOUND_BY: dict[str, tuple[Finder, ...]] = {
    "truncated": (("reason", "truncated"),),
    "WEBP named .jpg": (("reason", "format"),),
    "PNG named .jpg": (("rule", "extensions"),),
    "HTML page named .jpg": (("reason", "not_an_image"),),
    "empty": (("reason", "empty"),),
    "bytes behind its end": (("rule", "trailing_bytes"),),
    "grey": (("rule", "odd_colour"),),
    "turned by EXIF": (("rule", "turned"),),
    "exact copy": (("rule", "exact_duplicates"),),
    "resized copy": (("rule", "near_duplicates"),),
    "recompressed copy": (("rule", "near_duplicates"),),
    "cropped copy": (("rule", "near_duplicates"),),
    "leaked into val": (("rule", "leakage"),),
    "relabelled copy": (("reason", "label_conflict"), ("rule", "label_conflicts")),
    "relabelled near copy": (("rule", "near_duplicate_labels"),),
    "dark": (("rule", "dark"),),
    "overexposed": (("rule", "bright"),),
    "blurred": (("rule", "blurred"),),
    "nearly one colour": (("rule", "uniform"),),
    "CMYK": (("rule", "mode"),),
    "16-bit grey": (("rule", "bit_depth"),),
    "16-bit RGB": (("rule", "bit_depth"),),
    "animated GIF": (("rule", "multi_frame"),),
    "animated PNG": (("rule", "multi_frame"),),
    "decompression bomb": (("reason", "too_large"),),
    "too small": (("reason", "too_small"),),
    "extreme aspect": (("reason", "aspect"),),
}
KINDS = tuple(FOUND_BY)


def photographs() -> list[Row]:
    """The photographs of ARCHIVE, by name; `validation` is the split `val`."""
    with zipfile.ZipFile(ARCHIVE) as archive:
        paths = sorted(name for name in archive.namelist() if name.endswith(".jpg"))
        return [photograph(PurePosixPath(path), archive.read(path)) for path in paths]


def photograph(path: PurePosixPath, data: bytes) -> Row:
    """A file of the archive: <top>/<split>/<class>/<file>."""
    split, label, file = path.parts[-3:]
    return Row(f"{split}/{label}/{file}", label, {"validation": "val"}.get(split, split), data)


def inject(rows: Sequence[Row], seed: int, per_kind: int) -> tuple[list[Row], list[Fault]]:
    """`rows` with `per_kind` faults of every kind, and the list of these. No two faults are of one photograph.

    Raises ValueError where there are too few photographs of at least SMALLEST pixels.
    """
    generator = np.random.default_rng(seed)
    large = [at for at, row in enumerate(rows) if min(Image.open(io.BytesIO(row.data)).size) >= SMALLEST]
    wanted = per_kind * len(KINDS)
    if len(large) < wanted:
        raise ValueError(f"{len(large)} photographs of at least {SMALLEST} pixels; {wanted} are needed")
    chosen = iter(generator.choice(large, wanted, replace=False).tolist())
    labels = sorted({row.label for row in rows})
    by_place: dict[int, Row] = dict(enumerate(rows))
    added: list[Row] = []
    faults: list[Fault] = []
    for kind in KINDS:
        for number in range(per_kind):
            at = next(chosen)
            row = rows[at]
            if kind in _COPIES:
                new = _copy(kind, row, labels, generator)
                added.append(new)
            else:
                # The number makes what has no picture in it differ: equal bytes would be another fault.
                new = by_place[at] = _ruined(kind, row, f"{seed}-{number}", generator)
            faults.append(Fault(kind, new.name, row.name if kind in _COPIES else None))
    return [*by_place.values(), *added], faults


def pack(root: Path, rows: Sequence[Row]) -> None:
    """What download would have written under `root`."""
    data = {row.name: row.data for row in rows}
    records = [Record(row.name, row.label, row.given_split, len(row.data), row.name) for row in rows]
    folder = root / "data/download"
    folder.mkdir(parents=True)
    classes = sorted({row.label for row in rows})
    source = Source("folder", records, classes, {}, lambda record: data[record.place])
    image_shards.write(folder / "images", source, SHARD)
    dataset = {
        "classes": classes,
        "images": len(rows),
        "bytes": sum(len(row.data) for row in rows),
        "skipped": [],
    }
    documents.write(folder / "dataset.json", dataset)


def resized(image: Image.Image, generator: np.random.Generator) -> bytes:
    """Both sides times 0.4-0.9."""
    share = generator.uniform(0.4, 0.9)
    return encode(image.resize((round(image.width * share), round(image.height * share)), Image.Resampling.BICUBIC))


def recompressed(image: Image.Image, generator: np.random.Generator) -> bytes:
    """JPEG quality 25-60."""
    return encode(image, quality=int(generator.integers(25, 61)))


def cropped(image: Image.Image, generator: np.random.Generator) -> bytes:
    """5 % of each side cut off, shared at random between its two ends."""
    width, height = round(image.width * 0.95), round(image.height * 0.95)
    left = int(generator.integers(0, image.width - width + 1))
    top = int(generator.integers(0, image.height - height + 1))
    return encode(image.crop((left, top, left + width, top + height)))


def encode(image: Image.Image, format: str = "JPEG", **options: Any) -> bytes:
    """A file's bytes."""
    file = io.BytesIO()
    image.save(file, format, **({"quality": 90} if format == "JPEG" else {}) | options)
    return file.getvalue()


SHARD = 512  # images
Copier = Callable[[Image.Image, np.random.Generator], bytes]
_COPIES: dict[str, Copier | None] = {
    "exact copy": None,
    "resized copy": resized,
    "recompressed copy": recompressed,
    "cropped copy": cropped,
    "leaked into val": recompressed,
    "relabelled copy": None,
    "relabelled near copy": recompressed,
}


def _copy(kind: str, row: Row, labels: Sequence[str], generator: np.random.Generator) -> Row:
    """A copy beside the photograph, under a name that sorts anywhere before or after it."""
    change = _COPIES[kind]
    data = change(_opened(row), generator) if change else row.data
    path = PurePosixPath(row.name)
    name = str(path.with_name(f"{generator.choice(['a', 'z'])}{path.stem} {kind.replace(' ', '_')}{path.suffix}"))
    new = replace(row, name=name, data=data)
    if kind.startswith("relabelled"):
        return replace(new, label=labels[(labels.index(row.label) + 1) % len(labels)])
    if kind == "leaked into val":
        # Most photographs are of train; one of val leaks the other way.
        return replace(new, given_split="val" if row.given_split != "val" else "train")
    return new


def _ruined(kind: str, row: Row, tag: str, generator: np.random.Generator) -> Row:
    """The fault that takes the photograph's place, under its name but for the extension."""
    path = PurePosixPath(row.name)
    match kind:
        case "truncated":
            return replace(row, data=row.data[: int(len(row.data) * generator.uniform(0.1, 0.95))])
        case "HTML page named .jpg":
            return replace(row, data=f"<!DOCTYPE html><title>404</title><p>Nothing here ({tag})".encode())
        case "empty":
            return replace(row, data=b"")
        case "bytes behind its end":
            return replace(row, data=row.data + generator.bytes(int(generator.integers(1, 2000))))
        case "decompression bomb":
            return replace(row, name=str(path.with_suffix(".png")), data=_bomb(tag))
    image = _opened(row)
    pixels = np.asarray(image).astype(np.float64)
    match kind:
        case "WEBP named .jpg":
            return replace(row, data=encode(image, "WEBP"))
        case "PNG named .jpg":
            return replace(row, data=encode(image, "PNG"))
        case "grey":
            return replace(row, data=encode(image.convert("L")))
        case "turned by EXIF":
            exif = Image.Exif()
            exif[ORIENTATION] = int(generator.integers(2, 9))
            return replace(row, data=encode(image, exif=exif))
        case "dark":
            return replace(row, data=_from(pixels * 0.12))
        case "overexposed":
            # Light scattered onto the darkest tenth, and so long an exposure that all the rest is white.
            veiled = pixels + 20
            return replace(row, data=_from(veiled * 255 / np.quantile(veiled, 0.1)))
        case "blurred":
            # 3-5 pixels of 200: what is lost has to be a share of the picture.
            radius = generator.uniform(3, 5) * min(image.size) / 200
            return replace(row, data=encode(image.filter(ImageFilter.GaussianBlur(radius))))
        case "nearly one colour":
            return replace(row, data=_from(generator.uniform(40, 210, 3) + (pixels - pixels.mean()) * 0.03))
        case "CMYK":
            return replace(row, data=encode(image.convert("CMYK")))
        case "16-bit grey":
            deep = np.asarray(image.convert("L")).astype(np.uint16) * 257
            return replace(row, name=str(path.with_suffix(".png")), data=encode(Image.fromarray(deep), "PNG"))
        case "16-bit RGB":
            return replace(row, name=str(path.with_suffix(".png")), data=_deep_png(np.asarray(image)))
        case "animated GIF" | "animated PNG":
            format = kind.split()[1]
            others = [image.rotate(angle) for angle in (20, 40)]
            name = str(path.with_suffix(f".{format.lower()}"))
            return replace(row, name=name, data=encode(image, format, save_all=True, append_images=others))
        case "too small":
            # The least that validate accepts is 8.
            return replace(row, data=encode(image.resize((int(generator.integers(3, 8)), 12))))
        case "extreme aspect":
            return replace(
                row, data=encode(image.resize((int(image.height * generator.uniform(5.5, 9)), image.height)))
            )
    raise AssertionError(kind)


def _opened(row: Row) -> Image.Image:
    return Image.open(io.BytesIO(row.data)).convert("RGB")


def _from(pixels: Any) -> bytes:
    return encode(Image.fromarray(np.clip(pixels + 0.5, 0, 255).astype(np.uint8)))


def _bomb(tag: str) -> bytes:
    """A whole, black 1-bit PNG: 44 kB of file, 19,000 x 19,000 pixels."""
    header = struct.pack(">IIBBBBB", BOMB_SIDE, BOMB_SIDE, 1, 0, 0, 0, 0)
    return _png(header, _black(), _chunk(b"tEXt", b"Comment\0" + tag.encode()))


@functools.cache
def _black() -> bytes:
    """The rows of the bomb, compressed one by one: all at once would be 45 MB."""
    squeeze = zlib.compressobj(9)
    line = bytes(1 + (BOMB_SIDE + 7) // 8)
    return b"".join([*(squeeze.compress(line) for _ in range(BOMB_SIDE)), squeeze.flush()])


def _deep_png(pixels: Any) -> bytes:
    """An RGB PNG of 16 bits a channel, which Pillow cannot write."""
    height, width, _ = pixels.shape
    deep = (pixels.astype(np.uint16) * 257).astype(">u2").reshape(height, -1)
    lines = b"".join(b"\0" + line.tobytes() for line in deep)
    return _png(struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0), zlib.compress(lines))


def _png(header: bytes, compressed: bytes, *more: bytes) -> bytes:
    parts = [_chunk(b"IHDR", header), *more, _chunk(b"IDAT", compressed), _chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
