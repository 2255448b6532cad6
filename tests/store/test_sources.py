"""Every kind of source as records: names, labels, splits, what is skipped, what is refused."""

from __future__ import annotations

import hashlib
import io
import os
import socket
import stat
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from stages.core.errors import ConfigError, DataRejected, GraftError, IntegrityError
from stages.core.unpacking import Limits
from stages.store import sources
from stages.store.columns import Columns
from stages.store.fetch import Patience
from stages.store.records import Source

OPTIONS = sources.Options(None, Limits(2**30, 1000, 200), Patience(5.0, 0), Columns(), 0.0)
Rows = dict[str, tuple[str, str | None, bytes]]


def write(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


class Opener:
    """Opens a source and reads it to the end; the scratch folder must be gone afterwards."""

    def __init__(self, folder: Path) -> None:
        self._scratch = folder / "scratch"

    def __call__(self, source: Path | str, options: sources.Options = OPTIONS) -> tuple[Rows, Source]:
        with sources.opened(str(source), options, self._scratch) as (found, _):
            rows = {r.name: (r.label, r.given_split, found.read(r)) for r in found.records}
            assert len(rows) == len(found.records)
            assert [len(rows[r.name][2]) for r in found.records] == [r.size for r in found.records]
        assert not self._scratch.exists()
        return rows, found

    def fails(self, kind: type[GraftError], source: Path | str, options: sources.Options = OPTIONS) -> str:
        with pytest.raises(kind) as caught:
            self(source, options)
        assert not self._scratch.exists()
        return str(caught.value)


@pytest.fixture
def read(tmp_path_factory: pytest.TempPathFactory) -> Opener:
    return Opener(tmp_path_factory.mktemp("work"))


# Folders


def test_folder_drops_nothing_from_its_classes(tmp_path: Path, read: Opener) -> None:
    files = {"cats/1.jpg": b"1", "cats/old/empty.jpg": b"", "cats/notes.txt": b"t", "dogs/x": b"x"}
    write(tmp_path, files | {"vectorize.py": b"", "cats/.DS_Store": b"", ".git/config": b""})
    (tmp_path / "birds").mkdir()
    rows, source = read(tmp_path)
    assert rows == {name: (name.split("/")[0], None, data) for name, data in files.items()}
    assert (source.format, source.classes) == ("folder", ["birds", "cats", "dogs"])
    assert source.skipped == {"vectorize.py": "no_class", "cats/.DS_Store": "litter", ".git": "litter"}


def test_links_pipes_and_sockets_are_named_and_not_touched(tmp_path: Path, read: Opener) -> None:
    secret = write(tmp_path / "outside", {"1.jpg": b"secret"})
    root = write(tmp_path / "in", {"cats/1.jpg": b"1", "dogs/2.jpg": b"2"})
    (root / "cats/link.jpg").symlink_to(secret / "1.jpg")
    (root / "cats/loop").symlink_to(root)
    (root / "birds").symlink_to(secret)
    os.mkfifo(root / "dogs/pipe.jpg")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(root / "dogs/socket.jpg"))
        rows, source = read(root)
    assert set(rows) == {"cats/1.jpg", "dogs/2.jpg"}
    odd = ["birds", "cats/link.jpg", "cats/loop", "dogs/pipe.jpg", "dogs/socket.jpg"]
    assert source.skipped == dict.fromkeys(odd, "not_regular_file")
    assert source.classes == ["cats", "dogs"]


def test_a_device_is_named_and_not_opened(tmp_path: Path, read: Opener) -> None:
    """A copy of /dev/zero, which would be read without an end."""
    root = write(tmp_path / "in", {"cats/1.jpg": b"1", "dogs/2.jpg": b"2"})
    device = root / "cats/zero.jpg"
    try:
        os.mknod(device, stat.S_IFCHR | 0o666, os.stat("/dev/zero").st_rdev)
    except PermissionError:
        pytest.skip("making a device needs root, or CAP_MKNOD")
    opened: list[str] = []
    watching = True

    def heard(event: str, arguments: tuple[Any, ...]) -> None:
        if watching and event == "open" and isinstance(arguments[0], str | bytes):
            opened.append(Path(os.fsdecode(arguments[0])).name)
            assert opened[-1] != device.name  # raised here, the device is not opened

    sys.addaudithook(heard)  # cannot be taken away again
    try:
        rows, source = read(root)
    finally:
        watching = False
    assert set(rows) == {"cats/1.jpg", "dogs/2.jpg"}
    assert source.skipped == {"cats/zero.jpg": "not_regular_file"}
    assert {"1.jpg", "2.jpg"} <= set(opened)  # so it is heard what is opened
    assert device.name not in opened


def test_names_of_any_kind(tmp_path: Path, read: Opener) -> None:
    root = os.fsencode(tmp_path)
    names = [b"caf\xe9.jpg", b"caf\\xe9.jpg", "ü🐈.jpg".encode(), b"a\nb.jpg", b"<script>.jpg", b"x" * 255]
    for label in (b"cats", b"-rf"):
        os.mkdir(root + b"/" + label)
        for name in names:
            with open(b"/".join([root, label, name]), "wb") as file:
                file.write(name)
    rows, _ = read(tmp_path)
    shown = ["caf\\xe9.jpg", "caf\\\\xe9.jpg", "ü🐈.jpg", "a\nb.jpg", "<script>.jpg", "x" * 255]
    assert rows == {
        f"{label}/{name}": (label, None, raw)
        for label in ("cats", "-rf")
        for name, raw in zip(shown, names, strict=True)
    }


def test_a_file_that_changes_while_it_is_read(tmp_path: Path, read: Opener) -> None:
    write(tmp_path, {"cats/1.jpg": b"1", "dogs/2.jpg": b"2"})
    with sources.opened(str(tmp_path), OPTIONS, tmp_path.parent / "s") as (source, _):
        write(tmp_path, {"cats/1.jpg": b"12"})
        (tmp_path / "dogs/2.jpg").unlink()
        for record in source.records:
            with pytest.raises(IntegrityError, match="changed while it was read"):
                source.read(record)


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({}, "0 files in 0 classes (none) and 0 files outside"),
        ({"1.jpg": b"1", "2.jpg": b"2"}, "0 files in 0 classes (none) and 2 files outside"),
        ({"cats/1.jpg": b"1"}, "1 files in 1 classes ('cats')"),
        ({"train/1.jpg": b"1", "test/2.jpg": b"2"}, "0 files in 0 classes (none) and 2 files outside"),
    ],
)
def test_too_little(files: dict[str, bytes], found: str, tmp_path: Path, read: Opener) -> None:
    message = read.fails(DataRejected, write(tmp_path, files))
    assert found in message
    assert "expected class folders" in message


def test_folders_beside_splits_are_pointed_out(tmp_path: Path, read: Opener, caplog: pytest.LogCaptureFixture) -> None:
    _, source = read(write(tmp_path, {"train/cats/1.jpg": b"1", "val/cats/2.jpg": b"2", "extra/3.jpg": b"3"}))
    assert source.classes == ["extra", "train", "val"]
    assert "read as classes, not splits, because 'extra' is there as well" in caplog.text


def test_empty_classes_alone_are_no_data(tmp_path: Path, read: Opener) -> None:
    (tmp_path / "cats").mkdir()
    (tmp_path / "dogs").mkdir()
    assert "0 files in 2 classes" in read.fails(DataRejected, tmp_path)


# Where a source may be


def test_a_folder_must_be_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {"data/images/cats/1.jpg": b"", "pets/cats/1.jpg": b"", "pets.zip": b""})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "again").symlink_to("pets")
    out = Path("data/download")
    for source, watch in [
        ("data/images", "data/images"), ("./data/../data/images/", str(tmp_path / "data/images")), ("~/pets", "pets"),
        ("pets", "again"), ("pets.zip", "data/images"), ("digits", "x"), ("https://host/x.zip", "x"),
    ]:  # fmt: skip
        sources.check_place(source, watch, out)
    with pytest.raises(ConfigError, match=r"set download\.watch to 'pets'"):
        sources.check_place("pets", "data/images", out)
    for wrong in ("no-such-folder", "~no-such-user/x", "ftp://host/x.zip", "/dev/null", "data", "data/download"):
        with pytest.raises(ConfigError, match=r"download\.source"):
            sources.check_place(wrong, wrong, out)


# Single files


def test_the_pin_is_checked_before_anything_is_parsed(tmp_path: Path, read: Opener) -> None:
    archive = tmp_path / "a.zip"
    archive.write_bytes(b"PK\x03\x04 no zip at all")
    assert "download.sha256 pins" in read.fails(IntegrityError, archive, OPTIONS._replace(sha256="0" * 64))
    assert "damaged" in read.fails(IntegrityError, archive)


def test_archives_are_known_by_their_bytes(tmp_path: Path, read: Opener) -> None:
    with zipfile.ZipFile(tmp_path / "photos.tar.gz", "w") as archive:
        archive.writestr("pets/train/cats/1.jpg", b"1")
        archive.writestr("pets/validation/dogs/2.jpg", b"2")
        archive.writestr("pets/train/birds/", b"")
        archive.writestr("pets/vectorize.py", b"")
        archive.writestr("__MACOSX/pets/._x", b"")
    rows, source = read(tmp_path / "photos.tar.gz")
    assert rows == {"train/cats/1.jpg": ("cats", "train", b"1"), "validation/dogs/2.jpg": ("dogs", "val", b"2")}
    assert source.format == "zip"
    assert source.classes == ["birds", "cats", "dogs"]
    assert source.skipped == {"pets/vectorize.py": "no_class", "__MACOSX": "litter"}


@pytest.mark.parametrize("data", [b"", b"Rar!\x1a\x07", b"<!doctype html><html>", b"file,label\n"])
def test_files_of_another_kind(data: bytes, tmp_path: Path, read: Opener) -> None:
    (tmp_path / "x.zip").write_bytes(data)
    message = read.fails(IntegrityError, tmp_path / "x.zip")
    assert ("an HTML page" in message) == (b"html" in data)


def test_digits(read: Opener) -> None:
    from sklearn.datasets import load_digits

    scans = load_digits()
    rows, source = read("digits")
    assert len(rows) == 1797
    assert source.classes == [str(digit) for digit in range(10)]
    name = f"{scans.target[42]}/digit-0042.png"
    label, split, data = rows[name]
    assert (label, split) == (str(scans.target[42]), None)
    image = Image.open(io.BytesIO(data))
    assert (image.format, image.mode, image.size) == ("PNG", "L", (8, 8))
    np.testing.assert_array_equal(np.asarray(image), np.floor(scans.images[42] * 255 / 16 + 0.5))


# Parquet


def parquet(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def test_parquet_names_do_not_depend_on_the_order_of_rows(tmp_path: Path, read: Opener) -> None:
    png = b"\x89PNG\r\n\x1a\n" + b"1"
    data, labels = [png, b"2", png, b"", None], [7, 1, 7, 1, 0]
    rows, source = read(parquet(tmp_path / "a", image=data, label=labels))
    assert sorted(row[0] for row in rows.values()) == ["0", "1", "1", "7", "7"]
    digest = hashlib.sha256(png).hexdigest()
    assert {name: row[2] for name, row in rows.items() if row[0] == "7"} == {
        f"7/{digest}.png": png,
        f"7/copy-2-{digest}.png": png,
    }
    assert (source.format, source.classes) == ("parquet", ["0", "1", "7"])
    assert read(parquet(tmp_path / "b", image=data[::-1], label=labels[::-1]))[0] == rows


def test_parquet_as_hugging_face_writes_it(tmp_path: Path, read: Opener) -> None:
    images = [
        {"bytes": b"1", "path": "/home/me/a.jpg"},
        {"bytes": b"2", "path": "b.jpg"},
        {"bytes": b"3", "path": "b.jpg"},
        {"bytes": b"4", "path": "b.jpg"},
    ]
    table = parquet(
        tmp_path / "x", picture=images, kind=["cat", "dog", "dog", "dog"], part=["Training", None, "", "valid"]
    )
    options = OPTIONS._replace(columns=Columns(image="picture", label="kind", split="part"))
    rows, _ = read(table, options)
    assert {"train/cat/a.jpg", "val/dog/b.jpg"} < set(rows)
    assert rows["val/dog/b.jpg"] == ("dog", "val", b"4")
    twins = sorted(name for name in rows if name.startswith("dog/"))
    assert sorted(rows[name][2] for name in twins) == [b"2", b"3"]
    assert all(name.startswith("dog/b~") and name.endswith(".jpg") for name in twins)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"picture": [b"1"], "label": ["a"]}, "image (download.image_column): expected binary"),
        ({"image": [b"1"]}, "label (download.label_column): expected text or integers, received no such column"),
        ({"image": ["1"], "label": ["a"]}, "received string"),
        ({"image": [b"1"], "label": [0.5]}, "received double"),
        ({"image": [b"1"], "label": [True]}, "received bool"),
        ({"image": [b"1"], "label": ["a"], "split": [1]}, "split (download.split_column): expected text"),
        ({"image": [b"1", b"2"], "label": ["a", None]}, "row 2: has no label"),
        ({"image": [b"1"], "label": ["a"], "split": ["holdout"]}, "row 1: received the split 'holdout'"),
        ({"image": [{"bytes": None, "path": "/etc/passwd"}], "label": ["a"]}, "row 1: holds the path '/etc/passwd'"),
    ],
)
def test_parquet_of_another_shape(columns: dict[str, Any], message: str, tmp_path: Path, read: Opener) -> None:
    if columns.get("image") == [{"bytes": None, "path": "/etc/passwd"}]:
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        columns = columns | {"image": pa.array(columns["image"], kind)}
    assert message in read.fails(DataRejected, parquet(tmp_path / "x", **columns))


def test_damaged_parquet(tmp_path: Path, read: Opener) -> None:
    path = parquet(tmp_path / "x", image=[os.urandom(500) for _ in range(20)], label=["a", "b"] * 10)
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    assert "not a readable Parquet file" in read.fails(IntegrityError, path)
    path.write_bytes(whole[:4] + b"\xff" * 40 + whole[44:])
    assert "not a readable Parquet file" in read.fails(IntegrityError, path)


def test_parquet_keeps_the_limits(tmp_path: Path, read: Opener) -> None:
    path = tmp_path / "x"
    zeros = pa.table({"image": [bytes(2**20)] * 3, "label": ["a", "b", "c"]})
    pq.write_table(zeros, path, compression="zstd")
    assert "download.max_ratio" in read.fails(IntegrityError, path)
    few = OPTIONS._replace(limits=Limits(2**30, 2, 10**9))
    assert "download.max_members allows 2" in read.fails(IntegrityError, path, few)
    small = OPTIONS._replace(limits=Limits(2**21, 3, 10**9))
    assert "download.max_bytes allows 2,097,152" in read.fails(IntegrityError, path, small)


# CSV


def csv(root: Path, text: str) -> Path:
    path = root / "labels.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_csv(tmp_path: Path, read: Opener) -> None:
    write(tmp_path, {"in/1.jpg": b"1", "in/2.jpg": b"2", "3.jpg": b"3", "readme.txt": b"", ".x/4.jpg": b""})
    table = csv(tmp_path, "\ufefffile,label,split\nin/1.jpg,cat,TRAIN\n./in//2.jpg,=cmd(),\n3.jpg,../x,test\n")
    rows, source = read(table)
    assert rows == {
        "in/1.jpg": ("cat", "train", b"1"), "in/2.jpg": ("=cmd()", None, b"2"), "3.jpg": ("../x", "test", b"3"),
    }  # fmt: skip
    assert (source.format, source.classes, source.skipped) == ("csv", ["../x", "=cmd()", "cat"], {})


def test_csv_rows_without_files_and_files_without_rows(tmp_path: Path, read: Opener) -> None:
    write(tmp_path, {"1.jpg": b"1", "2.jpg": b"2", "more.png": b""})
    (tmp_path / "link.jpg").symlink_to("1.jpg")
    table = csv(tmp_path, "file,label\n1.jpg,a\n2.jpg,b\ngone.jpg,a\nlink.jpg,b\n")
    message = read.fails(DataRejected, table)
    for part in (
        "2 rows without a file ('gone.jpg', 'link.jpg')",
        "1 image files without a row ('more.png')",
        "60.00%",
    ):
        assert part in message
    assert "60.00%" in read.fails(DataRejected, table, OPTIONS._replace(max_missing_fraction=0.59))
    rows, source = read(table, OPTIONS._replace(max_missing_fraction=0.6))
    assert set(rows) == {"1.jpg", "2.jpg"}
    assert source.skipped == {"gone.jpg": "no_file", "more.png": "no_row", "link.jpg": "not_regular_file"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has the columns []"),
        ("path,label\n1.jpg,a\n", "needs 'file' (download.file_column)"),
        ("file,label,label\n1.jpg,a,b\n", "a column name stands twice"),
        ("file,label\n1.jpg\n", "line 2: has other than the header's 2 fields"),
        ("file,label\n1.jpg,a,b\n", "line 2: has other than the header's 2 fields"),
        ("file,label\n1.jpg,\n", "line 2: has no label"),
        ("file,label\n../x.jpg,a\n", "without '..'"),
        ("file,label\n/etc/passwd,a\n", "without '..'"),
        ("file,label\n,a\n", "without '..'"),
        ("file,label\n1.jpg,a\n./1.jpg,a\n", "line 3: '1.jpg' stands on line 2 already"),
        ("file,label,split\n1.jpg,a,holdout\n", "line 2: received the split 'holdout'"),
        ('file,label\n"1.jpg,a\n', "not readable as a UTF-8 CSV"),
    ],
)
def test_csv_that_is_wrong(text: str, message: str, tmp_path: Path, read: Opener) -> None:
    write(tmp_path, {"1.jpg": b"1"})
    assert message in read.fails(DataRejected, csv(tmp_path, text))
