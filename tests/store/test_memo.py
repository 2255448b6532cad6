"""Entries that come back as they were, or not at all: damage, killed writers, and processes at the same time."""

from __future__ import annotations

import fcntl
import hashlib
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages.store import memo, memo_files
from stages.store.memo import Memo, fingerprint

ROOT = Path(__file__).parents[2]
SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("width", pa.int32()),
        pa.field("sharpness", pa.float64()),
        pa.field("detail", pa.string(), nullable=False),
        pa.field("hashes", pa.list_(pa.uint64())),
        pa.field("shapes", pa.binary()),
    ]
)


def key(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def row(number: int) -> dict[str, Any]:
    """An entry; some have nulls."""
    known = number % 3 > 0
    return {
        "image_id": key(number),
        "width": number if known else None,
        "sharpness": number / 7 if known else None,
        "detail": f"entry {number}",
        "hashes": [2**64 - 1 - number, number] if known else None,
        "shapes": bytes([number % 256]) * 5 if known else None,
    }


def table(*numbers: int) -> pa.Table:
    return pa.Table.from_pylist([row(number) for number in numbers], schema=SCHEMA)


def ordered(*numbers: int) -> list[dict[str, Any]]:
    """What a memo with these entries reads."""
    return sorted((row(number) for number in numbers), key=lambda entry: str(entry["image_id"]))


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.parquet"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "memo" / "facts" / "0123"


@pytest.fixture
def kept(folder: Path) -> Memo:
    return Memo(folder, SCHEMA)


def test_what_goes_in_comes_out_in_the_order_of_keys(kept: Memo, folder: Path) -> None:
    empty = kept.read()
    assert empty.num_rows == 0
    assert empty.schema.equals(SCHEMA)
    assert not folder.exists()
    kept.add(table(5, 3, 9))
    kept.add(table(1, 2))
    kept.add(table())
    assert len(files(folder)) == 2
    found = Memo(folder, SCHEMA).read()
    assert found.schema.equals(SCHEMA)
    assert found.to_pylist() == ordered(1, 2, 3, 5, 9)
    assert not list(folder.glob(".*"))


def test_identical_rows_are_one_file_in_whatever_order_and_pieces(kept: Memo, folder: Path) -> None:
    kept.add(table(1, 2, 3))
    (file,) = files(folder)
    assert file.stem == hashlib.sha256(file.read_bytes()).hexdigest()
    kept.add(table(3, 1, 2, 1))
    kept.add(pa.concat_tables([table(2), table(3), table(1)]).replace_schema_metadata({"made": "elsewhere"}))
    assert files(folder) == [file]
    kept.add(table(4))
    assert len(files(folder)) == 2


def test_a_key_in_two_files_is_one_row_that_of_the_file_named_first(kept: Memo, folder: Path) -> None:
    """By purity the rows are equal; these are not, to see which is kept."""
    other = table(1, 3).set_column(3, SCHEMA.field("detail"), pa.array(["other", "other"]))
    kept.add(table(1, 2))
    first = files(folder)[0].stem
    kept.add(other)
    expected = "entry 1" if files(folder)[0].stem == first else "other"
    found = {entry["image_id"]: entry["detail"] for entry in kept.read().to_pylist()}
    assert found == {key(1): expected, key(2): "entry 2", key(3): "other"}


def test_rows_of_another_schema_are_a_defect(kept: Memo) -> None:
    with pytest.raises(ValueError, match="another schema"):
        kept.add(table(1).drop_columns(["width"]))
    with pytest.raises(ValueError, match="first field is the key"):
        Memo(Path(), pa.schema([("width", pa.int32())]))


def test_keys_that_are_none_are_dropped(kept: Memo) -> None:
    keys = ["", "no", key(1).upper(), key(1)[:-1], key(1) + "\n", "g" * 64]
    bad = pa.Table.from_pylist([{**row(1), "image_id": wrong} for wrong in keys], schema=SCHEMA)
    kept.add(pa.concat_tables([bad, table(2)]))
    assert kept.read().to_pylist() == ordered(2)


@pytest.mark.parametrize("place", [0, 3, 4, 50, 0.25, 0.5, 0.75, -60, -9, -8, -5, -1])
def test_a_changed_byte_is_not_believed(
    place: float, kept: Memo, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept.add(table(*range(50)))
    kept.add(table(60))
    path = max(files(folder), key=lambda file: file.stat().st_size)
    data = bytearray(path.read_bytes())
    data[int(place * len(data)) if isinstance(place, float) else place] ^= 1
    path.write_bytes(data)
    assert kept.read().to_pylist() == ordered(60)
    assert not path.exists()
    assert kept.read().to_pylist() == ordered(60)
    (message,) = caplog.messages
    assert message == f"{path} is damaged; it is removed, and its entries are computed again"


@pytest.mark.parametrize("share", [0, 0.3, 0.9])
def test_a_file_cut_short_is_not_believed(share: float, kept: Memo, folder: Path) -> None:
    kept.add(table(*range(50)))
    (path,) = files(folder)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    assert kept.read().num_rows == 0
    kept.add(table(*range(50)))
    assert kept.read().num_rows == 50


def put(folder: Path, data: bytes) -> Path:
    """A file under its right name."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{hashlib.sha256(data).hexdigest()}.parquet"
    path.write_bytes(data)
    return path


def test_foreign_files_are_removed_and_others_left_alone(
    kept: Memo, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept.add(table(1))
    other = table(2).drop_columns(["width"])
    pq.write_table(other, tmp_path / "other")
    pq.write_table(table(3), tmp_path / "same")
    removed = [
        put(folder, (tmp_path / "other").read_bytes()),
        put(folder, b"not Parquet at all"),
        put(folder, b"PAR1" + b"\0" * 90 + b"PAR1"),
        folder / "part-0.parquet",
    ]
    removed[-1].write_bytes((tmp_path / "same").read_bytes())
    (folder / "notes.txt").write_text("mine")
    (folder / "folder.parquet").mkdir()
    assert kept.read().to_pylist() == ordered(1)
    assert kept.read().to_pylist() == ordered(1)
    assert not any(path.exists() for path in removed)
    assert (folder / "notes.txt").exists()
    assert len(caplog.messages) == len(removed) + 1  # and the folder, which cannot be read


def test_compaction_keeps_everything_in_one_file(kept: Memo, folder: Path) -> None:
    for number in range(memo.MAX_FILES):
        kept.add(table(number, number + 1))
    kept.read()
    assert len(files(folder)) == memo.MAX_FILES
    kept.add(table(100))
    expected = ordered(*range(memo.MAX_FILES + 1), 100)
    assert kept.read().to_pylist() == expected
    (merged,) = files(folder)
    assert kept.read().to_pylist() == expected
    assert files(folder) == [merged]


def test_compaction_into_a_file_that_is_there_already_keeps_it(kept: Memo, folder: Path) -> None:
    kept.add(table(*range(20)))
    for number in range(20):
        kept.add(table(number))
    assert kept.read().to_pylist() == ordered(*range(20))
    assert len(files(folder)) == 1
    assert kept.read().num_rows == 20


def test_compaction_that_cannot_write_removes_nothing(
    kept: Memo, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(20):
        kept.add(table(number))

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert kept.read().num_rows == 20
    assert len(files(folder)) == 20
    kept.add(table(30))
    kept.add(table(31))
    assert len(files(folder)) == 20
    assert not list(folder.glob(".*"))
    (message,) = caplog.messages
    assert "No space left on device" in message


def test_files_merged_by_another_after_the_listing_are_found_in_its_file(
    kept: Memo, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(20):
        kept.add(table(number))
    read_bytes = Path.read_bytes
    reads = 0

    def slow(path: Path) -> bytes:
        nonlocal reads
        reads += 1
        if reads == 5:
            Memo(folder, SCHEMA).read()
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", slow)
    assert kept.read().to_pylist() == ordered(*range(20))


# Adds its own entries and some that every process adds, reading now and then; with 17 files a read merges.
WRITER = """
import sys
from pathlib import Path
from stages.store.memo import Memo
from tests.store.test_memo import SCHEMA, row, table
folder, own = Path(sys.argv[1]), int(sys.argv[2])
kept = Memo(folder, SCHEMA)
mine = set()
print("ready", flush=True)
sys.stdin.read()
for number in range(own, own + 40):
    kept.add(table(number, number % 7))
    mine |= {row(number)["image_id"], row(number % 7)["image_id"]}
    if number % 3 == 0:
        found = kept.read()["image_id"].to_pylist()
        assert found == sorted(set(found)), "order"
        assert mine <= set(found), f"lost {len(mine - set(found))}"
"""


def test_processes_that_add_read_and_merge_at_once_lose_nothing(
    kept: Memo, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(folder), str(own)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for own in (1000, 2000)
    ]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.close()
        writer.stdin = None
    while any(writer.poll() is None for writer in writers):
        found = kept.read()["image_id"].to_pylist()
        assert found == sorted(set(found))
    for writer in writers:
        _, errors = writer.communicate()
        assert (writer.returncode, errors) == (0, "")
    assert kept.read().to_pylist() == ordered(*range(7), *range(1000, 1040), *range(2000, 2040))
    assert not caplog.messages
    assert not list(folder.glob(".*"))


# Says when its temporary file is there, and then waits to be killed.
KILLED = """
import os, sys, time
from pathlib import Path
from stages.store.memo import Memo
from tests.store.test_memo import SCHEMA, table
def never(descriptor):
    print("written", flush=True)
    time.sleep(600)
os.fsync = never
Memo(Path(sys.argv[1]), SCHEMA).add(table(1))
"""


def test_a_killed_writer_leaves_no_entry_and_its_file_goes_after_a_day(kept: Memo, folder: Path) -> None:
    kept.add(table(2))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", KILLED, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "written\n"
        (partial,) = folder.glob(".*.partial")
        try:
            os.utime(partial, (0, 0))
            assert kept.read().to_pylist() == ordered(2)
            assert partial.exists(), "its writer lives, however old it looks"
        finally:
            writer.kill()
    os.utime(partial)
    assert kept.read().to_pylist() == ordered(2)
    assert partial.exists(), "younger than a day"
    day_ago = time.time() - memo_files.LEFTOVER_SECONDS - 60
    os.utime(partial, (day_ago, day_ago))
    assert kept.read().to_pylist() == ordered(2)
    assert not partial.exists()


def test_a_folder_without_locks_is_written_to(kept: Memo, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(file: Any, operation: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", none)
    kept.add(table(1))
    assert kept.read().to_pylist() == ordered(1)


def test_a_folder_that_cannot_be_written_to_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("in the folder's place")
    kept = Memo(tmp_path / "file", SCHEMA)
    assert kept.read().num_rows == 0
    kept.add(table(1))
    kept.add(table(2))
    assert kept.read().num_rows == 0
    (message,) = caplog.messages
    assert "cannot be written to" in message


def test_stopped_in_the_middle_nothing_is_left(kept: Memo, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", stopped)
    with pytest.raises(KeyboardInterrupt):
        kept.add(table(1))
    assert not list(folder.iterdir())


def test_a_large_memo_with_doubles_in_many_files(kept: Memo) -> None:
    chance = random.Random(0)
    for _ in range(30):
        kept.add(table(*(chance.randrange(2000) for _ in range(200))))
    chance = random.Random(0)
    drawn = {chance.randrange(2000) for _ in range(30) for _ in range(200)}
    assert kept.read().to_pylist() == ordered(*drawn)


def module(tmp_path: Path, name: str, source: str) -> ModuleType:
    """A module that is only its name and its file."""
    made = ModuleType(name)
    made.__file__ = str(tmp_path / f"{name}.py")
    Path(made.__file__).write_text(source)
    return made


def test_a_fingerprint_is_of_sources_and_versions_and_of_no_order(tmp_path: Path) -> None:
    one, two = module(tmp_path, "one", "x = 1\n"), module(tmp_path, "two", "y = 2\n")
    versions = {"numpy": "2.0", "pillow": "12.0"}
    found = fingerprint([one, two], versions)
    assert len(found) == 16
    assert int(found, 16) >= 0
    assert found == fingerprint([two, one], dict(reversed(versions.items())))
    others = [
        fingerprint([one], versions),
        fingerprint([one, two], {**versions, "numpy": "2.1"}),
        fingerprint([one, two], {"numpy": "2.0"}),
        fingerprint([one, two], {"numpy": "12.0", "pillow": "2.0"}),
    ]
    module(tmp_path, "two", "y = 2  # a comment counts, too\n")
    others.append(fingerprint([one, two], versions))
    assert len({found, *others}) == 6
    module(tmp_path, "two", "y = 2\n")
    assert fingerprint([one, two], versions) == found


def test_a_fingerprint_of_a_module_without_a_source_is_a_defect() -> None:
    with pytest.raises(ValueError, match="has no source file"):
        fingerprint([ModuleType("empty")], {})
