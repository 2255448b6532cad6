"""What may be believed about a folder without reading it again, and what may not."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from stages.store import folder_files
from stages.store.folder_files import Found
from stages.store.kept_packing import KeptPacking

LONG_AGO = time.time_ns() - 10**12


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two files that nobody has written to for a while."""
    (tmp_path / "images").mkdir()
    for name in ("a", "b"):
        (tmp_path / "images" / name).write_text(f"picture {name}")
    return tmp_path / "images"


def files(folder: Path, **other: Found) -> dict[str, Found]:
    """As walked, but with times long ago: what was written just now is never believed."""
    found = folder_files.walk(folder).files
    return {path: at._replace(mtime=LONG_AGO, ctime=LONG_AGO) for path, at in found.items()} | other


def remember(memory: Path, found: dict[str, Found]) -> KeptPacking:
    kept = KeptPacking(memory, memory)
    kept.found(found, {path: f"hash of {path}" for path in found})
    kept.save()
    return KeptPacking(memory, memory)


def test_files_as_they_were_are_known(folder: Path, tmp_path: Path) -> None:
    found = files(folder)
    assert remember(tmp_path / "memory", found).known(found) == {"a": "hash of a", "b": "hash of b"}


@pytest.mark.parametrize("field", ["size", "mtime", "ctime", "inode"])
def test_any_mark_of_a_write_makes_a_file_unknown(folder: Path, tmp_path: Path, field: str) -> None:
    found = files(folder)
    kept = remember(tmp_path / "memory", found)
    changed = found["a"]._replace(**{field: getattr(found["a"], field) + 1})
    assert kept.known({**found, "a": changed, "c": found["b"]}) == {"b": "hash of b"}


def test_a_write_that_sets_the_time_back_is_seen(folder: Path, tmp_path: Path) -> None:
    path = folder / "a"
    os.utime(path, ns=(LONG_AGO, LONG_AGO))
    time.sleep(0.3)
    before = folder_files.walk(folder).files
    kept = remember(tmp_path / "memory", before)
    path.write_text("picture A")  # as many bytes
    os.utime(path, ns=(LONG_AGO, LONG_AGO))
    after = folder_files.walk(folder).files
    assert (after["a"].size, after["a"].mtime) == (before["a"].size, before["a"].mtime)
    assert "a" not in kept.known(after)


@pytest.mark.parametrize(("nanoseconds", "known"), [(10**7, False), (5 * 10**8, True), (5 * 10**9, True)])
def test_what_was_written_around_the_time_it_was_read_is_read_again(
    folder: Path, tmp_path: Path, nanoseconds: int, known: bool
) -> None:
    then = time.time_ns() // 10**6 * 10**6 - nanoseconds + 1
    found = {path: at._replace(mtime=then, ctime=then) for path, at in files(folder).items()}
    assert bool(remember(tmp_path / "memory", found).known(found)) is known


def test_a_file_system_that_counts_in_seconds_is_given_longer(folder: Path, tmp_path: Path) -> None:
    then = (time.time_ns() // 10**9 - 1) * 10**9
    found = {path: at._replace(mtime=then, ctime=then) for path, at in files(folder).items()}
    assert remember(tmp_path / "memory", found).known(found) == {}


@pytest.mark.parametrize("damage", [b"", b"no parquet", None])
def test_a_damaged_memory_knows_nothing(folder: Path, tmp_path: Path, damage: bytes | None) -> None:
    found = files(folder)
    memory = tmp_path / "memory"
    remember(memory, found)
    path = memory / "files.parquet"
    if damage is None:
        whole = bytearray(path.read_bytes())
        at = whole.index(b"hash of b")
        whole[at] ^= 1
        damage = bytes(whole)
    path.write_bytes(damage)
    kept = KeptPacking(memory, memory)
    assert kept.known(found) == {}
    kept.found(found, dict.fromkeys(found, "new"))
    kept.save()
    assert KeptPacking(memory, memory).known(found) == {"a": "new", "b": "new"}


def test_a_shard_is_linked_only_where_it_is_as_it_was_left(tmp_path: Path) -> None:
    packed, memory = tmp_path / "packed", tmp_path / "memory"
    packed.mkdir()
    for name in ("1.parquet", "2.parquet"):
        (packed / name).write_text("rows")
    kept = KeptPacking(memory, packed)
    kept.wrote("1.parquet", "key 1")
    kept.wrote("2.parquet", "key 2")
    kept.save()
    (packed / "2.parquet").write_text("ROWS")
    again = KeptPacking(memory, packed)
    assert not again.link("1.parquet", "another key", tmp_path / "other")
    assert not again.link("2.parquet", "key 2", tmp_path / "touched")
    assert not again.link("3.parquet", "key 3", tmp_path / "unknown")
    assert again.link("1.parquet", "key 1", tmp_path / "linked")
    assert (tmp_path / "linked").samefile(packed / "1.parquet")
    assert {path.name for path in tmp_path.iterdir()} == {"packed", "memory", "linked"}


def test_a_memory_that_cannot_be_written_is_no_failure(folder: Path, tmp_path: Path) -> None:
    found = files(folder)
    (tmp_path / "memory").write_text("a file where the folder should be")
    assert remember(tmp_path / "memory", found).known(found) == {}
