"""Measuring stored images: the same facts cold and warm, nothing measured twice, nothing believed that is damaged."""

from __future__ import annotations

import hashlib
import io
import logging
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from stages.core import images, measurement
from stages.core.errors import IntegrityError
from stages.core.facts import Facts
from stages.core.schemas import IMAGES
from stages.store import measurements, tables
from stages.store.measurements import Limits

SHARDS = Path("images")
LIMITS = Limits(workers=1, cpu_seconds=60.0, memory_bytes=2**30)
# Under these no worker could even take an item in: whoever asks one for anything fails.
NOTHING = Limits(workers=1, cpu_seconds=0.001, memory_bytes=1)


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def encode(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def picture(seed: int, side: int = 40) -> bytes:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return encode(Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC))


def mixture() -> dict[str, bytes]:
    """Files of every kind, by name."""
    exif = Image.Exif()
    exif[0x0112] = 6
    grey = Image.new("RGB", (30, 20), (90, 90, 90))
    return {
        **{f"cats/{seed:03}.png": picture(seed) for seed in range(70)},
        "dogs/000.gif": encode(grey, "GIF", save_all=True, append_images=[Image.new("RGB", (30, 20))]),
        "dogs/001.jpg": encode(grey, "JPEG", exif=exif.tobytes()),
        "dogs/002.jpg": b"",
        "dogs/003.jpg": b"<html>",
        "dogs/004.png": picture(0)[:60],
        "dogs/005.png": encode(Image.fromarray(np.full((9, 9), 40_000, np.uint16))),
        "dogs/006.png": picture(3),  # the bytes of cats/003.png
        "dogs/007.heic": b"\0\0\0\x18ftypheic" + bytes(40),
    }


def pack(files: dict[str, bytes], shards: int = 3, **ids: str) -> list[dict[str, Any]]:
    """What download would have written; `ids` gives an image another id than that of its bytes."""
    rows = [
        {
            "name": name,
            "label": name.split("/")[0],
            "given_split": "train" if at % 2 else None,
            "image_id": ids.get(name, hashlib.sha256(data).hexdigest()),
            "bytes": data,
        }
        for at, (name, data) in enumerate(sorted(files.items()))
    ]
    SHARDS.mkdir(exist_ok=True)
    for number in range(shards):
        part = rows[len(rows) * number // shards : len(rows) * (number + 1) // shards]
        tables.write(SHARDS / f"{number}.parquet", tables.from_rows(part, IMAGES))
    return rows


def measured(limits: Limits = LIMITS) -> list[Facts]:
    return list(measurements.of_shards(SHARDS, 0, limits))


def kept() -> dict[str, bytes]:
    """The memo's files."""
    return {str(path): path.read_bytes() for path in Path(measurements.MEMO).rglob("*") if path.is_file()}


def kept_ids() -> list[str]:
    return [key for path in kept() for key in pq.read_table(path)["image_id"].to_pylist()]


def test_facts_are_those_of_the_bytes_in_the_order_stored() -> None:
    files = mixture()
    rows = pack(files)
    found = measured()
    assert [fact.name for fact in found] == sorted(files)
    assert [fact.measured for fact in found] == measurement.measure([row["bytes"] for row in rows])
    for fact, row in zip(found, rows, strict=True):
        assert (fact.label, fact.given_split, fact.image_id) == (row["label"], row["given_split"], row["image_id"])
    assert {fact.measured.reason for fact in found} == {None, "empty", "not_an_image", "truncated", "format"}


def test_a_warm_run_gives_the_same_and_measures_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    pack(mixture())
    cold = measured()
    before = kept()
    assert len(before) == 1
    # No worker could be started to measure anything.
    monkeypatch.setattr(sys, "executable", "/nonexistent")
    assert measured() == cold
    assert kept() == before


def test_only_what_is_new_is_measured() -> None:
    files = mixture()
    pack(files)
    first = measured()
    files["cats/new.png"] = picture(500)
    del files["cats/000.png"]
    pack(files)
    found = {fact.name: fact for fact in measured()}
    assert set(found) == set(files)
    assert all(found[fact.name].measured == fact.measured for fact in first if fact.name in found)
    (new,) = set(map(str, Path(measurements.MEMO).rglob("*.parquet"))) - {
        str(path) for path in Path(measurements.MEMO).rglob("*.parquet") if pq.read_table(path).num_rows > 1
    }
    assert pq.read_table(new)["image_id"].to_pylist() == [found["cats/new.png"].image_id]


def test_equal_bytes_are_measured_once() -> None:
    files = {f"cats/{at}.png": picture(at % 2) for at in range(150)}
    pack(files)
    found = measured()
    assert sorted(kept_ids()) == sorted({fact.image_id for fact in found})
    assert len(kept_ids()) == 2
    assert [fact.measured for fact in found] == [
        measurement.measure([data])[0] for _, data in sorted(files.items())
    ]  # fmt: skip
    assert measured() == found


def test_one_worker_and_three_give_the_same() -> None:
    pack({**mixture(), **{f"wolves/{seed}.png": picture(seed) for seed in range(100, 300)}})
    one = measured()
    for path in kept():
        Path(path).unlink()
    assert measured(replace(LIMITS, workers=3)) == one


def damage_middle(data: bytes) -> bytes:
    return data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 255]) + data[len(data) // 2 + 1 :]


@pytest.mark.parametrize(
    "damage", [damage_middle, lambda data: data[:-40], lambda data: b"", lambda data: b"no Parquet at all"]
)
def test_a_damaged_memo_is_computed_again(damage: Any, caplog: pytest.LogCaptureFixture) -> None:
    pack(mixture())
    cold, before = measured(), kept()
    (path,) = before
    Path(path).write_bytes(damage(before[path]))
    with caplog.at_level(logging.WARNING):
        assert measured() == cold
    assert path in caplog.text
    assert kept() == before  # the same measurements, so the same file


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("at", [0, 40, 77])
def test_damaged_bytes_stop_the_run_and_name_the_image_known_or_not(at: int, warm: bool) -> None:
    files = mixture()
    rows = pack(files)
    if warm:
        measured()
    name = rows[at]["name"]
    damaged = files | {name: files[name] + b"!"}
    pack(damaged, **{name: rows[at]["image_id"]})
    with pytest.raises(IntegrityError, match=f"'{name}'.*dvc repro -f download"):
        measured()
    # Nothing was learnt of the damaged bytes under the id of the whole ones.
    pack(files)
    assert [fact.measured for fact in measured()] == measurement.measure([row["bytes"] for row in rows])


def test_an_image_that_is_lost_is_not_kept_and_costs_no_other() -> None:
    big = encode(Image.new("RGB", (7000, 7000), (200, 10, 10)))  # 140 MiB of pixels
    files = mixture() | {"cats/big.png": big}
    rows = pack(files)
    few = {fact.name: fact for fact in measured(replace(LIMITS, memory_bytes=100 * 2**20))}
    lost = few["cats/big.png"]
    assert (lost.measured.reason, lost.measured.format, lost.measured.size_bytes) == ("memory", "PNG", len(big))
    assert "100 MiB" in lost.measured.detail
    assert not lost.decodes
    assert lost.image_id not in kept_ids()
    assert len(kept_ids()) == len({row["image_id"] for row in rows}) - 1
    many = {fact.name: fact for fact in measured()}
    assert (many["cats/big.png"].measured.width, many["cats/big.png"].measured.reason) == (7000, None)
    assert {name: fact for name, fact in many.items() if name != "cats/big.png"} == {
        name: fact for name, fact in few.items() if name != "cats/big.png"
    }
    assert lost.image_id in kept_ids()


def test_a_folder_that_cannot_be_written_to_costs_only_time(caplog: pytest.LogCaptureFixture) -> None:
    pack(mixture())
    Path(".graft").write_text("in the way")
    with caplog.at_level(logging.WARNING):
        found = measured()
    assert ".graft" in caplog.text
    assert measured() == found


def test_without_shards_the_run_stops() -> None:
    SHARDS.mkdir()
    with pytest.raises(IntegrityError, match="no Parquet file"):
        measured()


def test_thumbnails_of_the_named_images_only() -> None:
    pack(mixture())
    names = ["dogs/001.jpg", "cats/003.png", "dogs/002.jpg", "dogs/004.png", "absent.png"]
    found = measurements.thumbnails(SHARDS, names, LIMITS)
    assert set(found) == set(names) - {"absent.png"}
    assert found["dogs/002.jpg"] is None
    assert found["dogs/004.png"] is None
    assert found["cats/003.png"] == images.thumbnails([picture(3)])[0]
    upright = found["dogs/001.jpg"]
    assert upright is not None
    with Image.open(io.BytesIO(upright)) as image:
        assert image.height > image.width
    assert measurements.thumbnails(SHARDS, [], NOTHING) == {}
