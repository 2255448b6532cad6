"""Rows that come back bit for bit, or not at all: damage, killed writers, and processes at the same time."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.store import memo_files, tensor_memo
from stages.store.tensor_memo import HEADER, PACK_BYTES, TensorMemo

ROOT = Path(__file__).parents[2]
SHAPE = (2, 3)
DAY = 24 * 60 * 60.0


def key(number: int) -> bytes:
    return hashlib.sha256(str(number).encode()).digest()


def row(number: int, shape: tuple[int, ...] = SHAPE, dtype: npt.DTypeLike = np.float16) -> npt.NDArray[Any]:
    """What was computed for `number`; any bits, NaN included."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.frombuffer(np.random.default_rng(number).bytes(size), dtype).reshape(shape)


def rows(numbers: Sequence[int]) -> npt.NDArray[Any]:
    return np.stack([row(number) for number in numbers])


def taken(memo: TensorMemo, numbers: Sequence[int]) -> list[int]:
    """Which of `numbers` the memo knows, after a look at every bit and at every position's being there once."""
    positions: list[int] = []
    for where, found in memo.take([key(number) for number in numbers]):
        assert found.dtype == np.float16
        assert found.shape == (len(where), *SHAPE)
        assert found.tobytes() == rows([numbers[position] for position in where]).tobytes()
        positions += where.tolist()
    assert len(positions) == len(set(positions))
    return sorted(numbers[position] for position in positions)


def keep(folder: Path, numbers: Iterable[int]) -> None:
    """Add `numbers` as one pack."""
    listed = list(numbers)
    with TensorMemo(folder, SHAPE, np.float16) as memo:
        memo.add([key(number) for number in listed], rows(listed))


def packs(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.rows"))


def aged(path: Path, days: float) -> None:
    then = time.time() - days * DAY
    os.utime(path, (then, then))


def age(path: Path) -> float:
    """Days since its last use."""
    return (time.time() - path.stat().st_mtime) / DAY


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "memo" / "activations" / "0123"


@pytest.fixture
def memo(folder: Path) -> TensorMemo:
    return TensorMemo(folder, SHAPE, np.float16)


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((10, 10, 96), "float16"), ((1280,), "float16"), ((160, 160, 3), "uint8"), ((), "float64"), ((3,), "bool"),
     ((1, 1), "complex64"), ((2,), ">i4")],
)  # fmt: skip
def test_what_goes_in_comes_out_bit_for_bit(shape: tuple[int, ...], dtype: str, folder: Path) -> None:
    native = np.dtype(dtype).newbyteorder("=")
    raw = np.stack([row(number, shape, np.uint8 if dtype == "bool" else native) for number in range(20)])
    made = raw % 2 > 0 if dtype == "bool" else raw
    with TensorMemo(folder, shape, dtype) as memo:
        memo.add([key(number) for number in range(7)], made[:7])
        memo.add([], made[:0])
        memo.add([key(number) for number in range(7, 20)], made[7:])
        assert not list(memo.take([key(1)])), "what waits is not known"
    ((where, found),) = TensorMemo(folder, shape, dtype).take([key(number) for number in (5, 99, 0, 19)])
    assert found.dtype == native
    assert {int(at): one.tobytes() for at, one in zip(where, found, strict=True)} == {
        0: made[5].tobytes(), 2: made[0].tobytes(), 3: made[19].tobytes()
    }  # fmt: skip
    found[...] = 0  # the caller's own
    assert len(packs(folder)) == 1
    assert not list(folder.glob(".*"))


def test_nothing_kept_is_nothing_written(memo: TensorMemo, folder: Path) -> None:
    assert taken(memo, [1, 2]) == []
    assert list(memo.take([])) == []
    memo.close()
    assert not folder.exists()


def test_a_warm_run_gives_what_a_cold_one_gave_and_computes_nothing(folder: Path) -> None:
    def run(numbers: Sequence[int]) -> tuple[bytes, int]:
        """The rows of `numbers`, and how many were computed."""
        out = np.empty((len(numbers), *SHAPE), np.float16)
        unknown = np.ones(len(numbers), bool)
        with TensorMemo(folder, SHAPE, np.float16) as memo:
            for where, found in memo.take([key(number) for number in numbers]):
                out[where] = found
                unknown[where] = False
            for at in np.flatnonzero(unknown).tolist():
                out[at] = row(numbers[at])
                memo.add([key(numbers[at])], out[at : at + 1])
        return out.tobytes(), int(unknown.sum())

    cold, warm, grown = run(range(50)), run(range(50)), run(range(60))
    assert (cold[1], warm[1], grown[1]) == (50, 0, 10)
    assert warm[0] == cold[0] == rows(range(50)).tobytes()
    assert grown[0] == rows(range(60)).tobytes()


def test_every_position_of_a_repeated_key_is_answered_once(memo: TensorMemo, folder: Path) -> None:
    keep(folder, [1, 2, 3, 2])
    keep(folder, [3, 4])
    asked = [3, 9, 1, 3, 3, 4, 1, 9]
    assert taken(memo, asked) == [1, 1, 3, 3, 3, 4]


def test_a_key_that_repeats_more_than_a_chunk_holds(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep(folder, range(5))
    monkeypatch.setattr(tensor_memo, "PACK_BYTES", 4 * 12)
    asked = [1, 2] * 10 + [0] * 3
    chunks = list(TensorMemo(folder, SHAPE, np.float16).take([key(number) for number in asked]))
    assert max(len(where) for where, _ in chunks) == 4
    assert taken(TensorMemo(folder, SHAPE, np.float16), asked) == sorted(asked)


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_whatever_is_added_and_asked(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Against a dict. Keys share their first or last bytes, and zeros at the end, which numpy's strings drop."""
    alphabet = [bytes(32), bytes(31) + b"\1", b"\1" + bytes(31), b"\xff" * 32, b"\xff" * 31 + b"\0", key(1), key(2)]
    some = st.lists(st.sampled_from(alphabet), max_size=12)
    folder = tmp_path_factory.mktemp("memo") / "kind" / "0123"
    known: set[bytes] = set()
    for _ in range(data.draw(st.integers(1, 4))):
        with TensorMemo(folder, (), np.int64) as memo:
            for _ in range(data.draw(st.integers(0, 3))):
                keys = data.draw(some)
                memo.add(keys, np.array([int.from_bytes(one[-8:], "big", signed=True) for one in keys], np.int64))
                known.update(keys)
        asked = data.draw(some)
        answers = {}
        for where, found in TensorMemo(folder, (), np.int64).take(asked):
            for position, value in zip(where.tolist(), found.tolist(), strict=True):
                assert position not in answers
                answers[position] = value
        assert answers == {
            at: int.from_bytes(one[-8:], "big", signed=True) for at, one in enumerate(asked) if one in known
        }


@pytest.mark.parametrize(
    ("keys", "given_rows", "said"),
    [
        ([key(1)], np.zeros((1, 3, 2), np.float16), r"expected float16 \[1, 2, 3\].*received float16 \[1, 3, 2\]"),
        ([key(1)], np.zeros((1, 2, 3), np.float32), r"received float32 \[1, 2, 3\]"),
        ([key(1)], np.zeros((1, 2, 3), ">f2"), "received >f2"),
        ([key(1)], np.zeros((2, 2, 3), np.float16), r"expected float16 \[1, 2, 3\]"),
        ([key(1)], np.zeros((2, 3), np.float16), r"received float16 \[2, 3\]"),
        ([b"short"], np.zeros((1, 2, 3), np.float16), "must be 32 bytes; received 5"),
    ],
)
def test_wrong_rows_and_keys_are_a_defect(
    keys: list[bytes], given_rows: npt.NDArray[Any], said: str, memo: TensorMemo, folder: Path
) -> None:
    with pytest.raises(ValueError, match=said):
        memo.add(keys, given_rows)
    memo.close()
    assert not folder.exists()


def test_wrong_questions_and_types_are_a_defect(memo: TensorMemo) -> None:
    with pytest.raises(ValueError, match="must be 32 bytes; received 31"):
        memo.take([key(1), bytes(31)])
    with pytest.raises(ValueError, match="received dtype object"):
        TensorMemo(Path(), (1,), object)
    with pytest.raises(ValueError, match=r"at least 1; received \(3, 0\)"):
        TensorMemo(Path(), (3, 0), np.uint8)


COUNT = 5


def regions(path: Path) -> dict[str, range]:
    """Where what lies in a pack of COUNT rows."""
    _, described, count = HEADER.unpack(path.read_bytes()[: HEADER.size])
    assert count == COUNT
    lengths = {"magic": 13, "lengths": HEADER.size - 13, "description": described, "keys": 32 * count,
               "checksums": 16 * count, "checksum": 16, "rows": 12 * count}  # fmt: skip
    found, at = {}, 0
    for name, length in lengths.items():
        found[name] = range(at, at + length)
        at += length
    assert at == path.stat().st_size
    return found


def test_a_changed_byte_anywhere_is_not_believed_and_costs_what_it_must(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In the index: this pack. In a row: that row. Said once; the next run says nothing."""
    keep(folder, range(COUNT))
    keep(folder, [60])
    path = next(pack for pack in packs(folder) if pack.stat().st_size > 300)
    data, places = path.read_bytes(), regions(path)
    for name, region in places.items():
        for place in region if name != "keys" else region[::7]:
            caplog.clear()
            bad = bytearray(data)
            bad[place] ^= 1 << place % 8
            path.write_bytes(bad)
            memo = TensorMemo(folder, SHAPE, np.float16)
            lost = set(range(COUNT)) if name != "rows" else {(place - region.start) // 12}
            expected = sorted({*range(COUNT), 60} - lost)
            assert taken(memo, [*range(COUNT), 60]) == expected, (name, place)
            assert not path.exists()
            assert taken(memo, [*range(COUNT), 60]) == expected
            assert taken(TensorMemo(folder, SHAPE, np.float16), [*range(COUNT), 60]) == expected
            (message,) = caplog.messages
            assert message.startswith(f"{path} ")
            assert "damaged" in message
            assert "computed again" in message
            for other in packs(folder):
                if key(60) not in other.read_bytes():
                    other.unlink()


def test_a_pack_cut_short_gives_the_rows_before_the_cut(folder: Path) -> None:
    keep(folder, range(COUNT))
    (path,) = packs(folder)
    data, start = path.read_bytes(), regions(path)["rows"].start
    for length in [
        0,
        1,
        12,
        24,
        25,
        40,
        start // 2,
        start - 1,
        start,
        start + 1,
        start + 12,
        start + 31,
        len(data) - 1,
    ]:
        for other in packs(folder):
            other.unlink()
        path.write_bytes(data[:length])
        memo = TensorMemo(folder, SHAPE, np.float16)
        left = list(range(max(0, (length - start) // 12)))
        assert taken(memo, range(COUNT)) == left, length
        assert not path.exists()
        assert taken(TensorMemo(folder, SHAPE, np.float16), range(COUNT)) == left
    path.write_bytes(data + b"more")
    assert taken(memo, range(COUNT)) == list(range(COUNT))


def test_a_damaged_row_is_taken_from_another_pack_that_has_it(memo: TensorMemo, folder: Path) -> None:
    keep(folder, range(COUNT))
    keep(folder, range(COUNT))
    first = packs(folder)[0]
    data = bytearray(first.read_bytes())
    data[-1] ^= 1
    first.write_bytes(data)
    assert taken(memo, range(COUNT)) == list(range(COUNT))


def test_what_was_lost_is_kept_again(folder: Path) -> None:
    keep(folder, range(COUNT))
    (path,) = packs(folder)
    path.write_bytes(path.read_bytes()[:-1])
    assert taken(TensorMemo(folder, SHAPE, np.float16), range(COUNT)) == list(range(COUNT - 1))
    keep(folder, [COUNT - 1])
    assert taken(TensorMemo(folder, SHAPE, np.float16), range(COUNT)) == list(range(COUNT))


def test_rows_of_another_shape_or_type_are_left_alone(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    keep(folder, [1])
    for shape, dtype in (((3, 2), np.float16), (SHAPE, np.int16)):
        caplog.clear()
        other = TensorMemo(folder, shape, dtype)
        assert list(other.take([key(1)])) == []
        assert list(other.take([key(1)])) == []
        (message,) = caplog.messages
        assert "is not used: it holds rows of" in message
        assert "[2, 3]" in message
    assert taken(TensorMemo(folder, SHAPE, np.float16), [1]) == [1]


def test_foreign_files_do_no_harm(memo: TensorMemo, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    keep(folder, [1])
    huge = HEADER.pack(tensor_memo.MAGIC, 2**32 - 1, 2**64 - 1)  # must not be believed before it is checked
    for name, data in {"a.rows": b"", "b.rows": b"not rows", "c.rows": huge, "notes.txt": b"mine"}.items():
        (folder / name).write_bytes(data)
    (folder / "folder.rows").mkdir()
    assert taken(memo, [1]) == [1]
    assert taken(memo, [1, 2]) == [1]
    memo.close()
    assert sorted(path.name for path in folder.iterdir() if len(path.name) < 30) == ["folder.rows", "notes.txt"]
    assert len(caplog.messages) == 4


def test_a_pack_that_cannot_be_read_just_now_stays(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    keep(folder, range(COUNT))
    before = packs(folder)
    preadv = os.preadv

    def failing(descriptor: int, buffers: Any, offset: int) -> int:
        if offset:
            raise OSError(5, "Input/output error")
        return preadv(descriptor, buffers, offset)

    with monkeypatch.context() as patched:
        patched.setattr(os, "preadv", failing)
        memo = TensorMemo(folder, SHAPE, np.float16)
        assert taken(memo, range(COUNT)) == []
        assert taken(memo, range(COUNT)) == []
    (message,) = caplog.messages
    assert "cannot be read ([Errno 5] Input/output error)" in message
    assert packs(folder) == before
    assert taken(memo, range(COUNT)) == list(range(COUNT))


def test_packs_are_written_when_full_and_never_larger(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensor_memo, "PACK_BYTES", 10 * 60 + 10)
    memo = TensorMemo(folder, SHAPE, np.float16)
    memo.add([key(number) for number in range(25)], rows(range(25)))
    assert len(packs(folder)) == 2
    assert taken(memo, range(25)) == list(range(20))
    memo.close()
    assert taken(memo, range(25)) == list(range(25))


def test_what_waited_long_is_written_with_the_next(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memo = TensorMemo(folder, SHAPE, np.float16)
    memo.add([key(1)], rows([1]))
    assert packs(folder) == []
    monkeypatch.setattr(tensor_memo, "WAIT_SECONDS", 0.0)
    memo.add([key(2)], rows([2]))
    assert taken(memo, [1, 2]) == [1, 2]
    monkeypatch.setattr(tensor_memo, "WAIT_SECONDS", 1000.0)
    memo.add([key(3)], rows([3]))
    assert len(packs(folder)) == 1


def test_what_waits_is_written_after_an_error_too(folder: Path) -> None:
    def run() -> None:
        with TensorMemo(folder, SHAPE, np.float16) as memo:
            memo.add([key(1)], rows([1]))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()
    assert taken(TensorMemo(folder, SHAPE, np.float16), [1]) == [1]


def test_an_interrupted_write_is_made_up_for_by_close(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(path: Path, target: Path) -> None:
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr(tensor_memo, "PACK_BYTES", 3 * 60)
    monkeypatch.setattr(Path, "rename", stopped)
    with pytest.raises(KeyboardInterrupt), TensorMemo(folder, SHAPE, np.float16) as memo:
        memo.add([key(number) for number in range(3)], rows(range(3)))
    assert taken(memo, range(3)) == [0, 1, 2]
    assert not list(folder.glob(".*"))


def test_a_folder_that_cannot_be_written_to_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("in the folder's place")
    memo = TensorMemo(tmp_path / "file", SHAPE, np.float16)
    for number in range(3):
        assert taken(memo, [number]) == []
        memo.add([key(number)], rows([number]))
        memo.close()
    (message,) = caplog.messages
    assert "cannot be written to" in message
    assert (tmp_path / "file").read_text() == "in the folder's place"


def test_a_full_disk_is_said_once_and_loses_nothing_that_was_there(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(20):
        (folder / "elsewhere").mkdir(parents=True, exist_ok=True)
        keep(folder / "elsewhere" / "0", [number])
        (one,) = packs(folder / "elsewhere" / "0")
        one.rename(folder / f"{number:032x}.rows")

    def full(path: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", full)
        with TensorMemo(folder, SHAPE, np.float16) as memo:
            for number in range(100, 103):
                memo.add([key(number)], rows([number]))
                memo.close()
    (message,) = caplog.messages
    assert "No space left on device" in message
    assert len(packs(folder)) == 20
    assert not list(folder.glob(".*"))
    assert taken(memo, [*range(20), 100]) == list(range(20))


def test_a_folder_that_vanishes_is_made_again(memo: TensorMemo, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    keep(folder, range(3))
    keep(folder, range(3, 6))
    answers = memo.take([key(number) for number in range(6)])
    next(answers)
    for path in packs(folder):
        path.unlink()
    folder.rmdir()
    assert list(answers) == []
    memo.add([key(9)], rows([9]))
    memo.close()
    assert taken(memo, range(10)) == [9]
    assert not caplog.messages


def test_a_folder_removed_under_a_writer_costs_nothing(
    memo: TensorMemo, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """`graft memo --clear` may take an empty folder just after the writer made it."""
    mkdir = Path.mkdir

    def undone(path: Path, *arguments: Any, **options: Any) -> None:
        mkdir(path, *arguments, **options)
        if path == folder:
            monkeypatch.undo()
            path.rmdir()

    monkeypatch.setattr(Path, "mkdir", undone)
    memo.add([key(1)], rows([1]))
    memo.close()
    assert taken(memo, [1]) == [1]
    assert not caplog.messages


def small_packs(folder: Path, count: int, start: int = 0) -> None:
    """`count` packs of two rows, the second also the first of the next."""
    for number in range(start, start + count):
        beside = folder.parent / "beside"
        keep(beside, [number, number + 1])
        (one,) = packs(beside)
        folder.mkdir(exist_ok=True)
        one.rename(folder / one.name)
        beside.rmdir()


def test_many_small_packs_become_full_ones(memo: TensorMemo, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensor_memo, "PACK_BYTES", 12 * 160)
    folder.parent.mkdir(parents=True)
    small_packs(folder, tensor_memo.MAX_SMALL)
    memo.close()
    assert len(packs(folder)) == tensor_memo.MAX_SMALL
    keep(folder, range(100, 120))  # most of a full one: left as it is
    (large,) = (path for path in packs(folder) if path.stat().st_size > 6 * 160)
    small_packs(folder, tensor_memo.MAX_SMALL + 1, start=200)
    for path in packs(folder):
        aged(path, 3 if path != large else 5)
    memo.close()
    assert large in packs(folder)
    assert 2 < len(packs(folder)) < 6
    assert all(path.stat().st_size <= 12 * 160 for path in packs(folder))
    assert all(3 - 0.1 < age(path) < 3 + 0.1 for path in packs(folder) if path != large), "merging is no use"
    everything = [*range(17), *range(100, 120), *range(200, 218)]
    assert taken(memo, everything) == everything
    after = packs(folder)
    memo.close()
    assert packs(folder) == after


def test_merging_drops_damaged_rows_and_only_those(
    memo: TensorMemo, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder.parent.mkdir(parents=True)
    small_packs(folder, 20)
    for path in packs(folder):
        if key(7) in path.read_bytes():
            data = bytearray(path.read_bytes())
            at = data.index(row(7).tobytes())
            data[at] ^= 128
            path.write_bytes(data)
    memo.close()
    assert len(packs(folder)) == 1
    assert taken(memo, range(21)) == [number for number in range(21) if number != 7]
    assert len(caplog.messages) == 2


def test_only_one_process_merges_at_a_time(memo: TensorMemo, folder: Path) -> None:
    folder.parent.mkdir(parents=True)
    small_packs(folder, 20)
    with TensorMemo(folder, SHAPE, np.float16)._alone() as alone:  # as another process would
        assert alone
        memo.close()
        assert len(packs(folder)) == 20
    memo.close()
    assert len(packs(folder)) == 1


def test_packs_merged_while_they_are_read_are_found_in_the_new_one(memo: TensorMemo, folder: Path) -> None:
    folder.parent.mkdir(parents=True)
    small_packs(folder, 20)
    found: list[int] = []
    for where, _ in memo.take([key(number) for number in range(21)]):
        if not found:
            TensorMemo(folder, SHAPE, np.float16).close()
            assert len(packs(folder)) == 1
        found += where.tolist()
    assert sorted(found) == list(range(21))


def test_an_open_pack_is_read_on_after_its_removal(
    memo: TensorMemo, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(folder, range(10))
    monkeypatch.setattr(tensor_memo, "PACK_BYTES", 2 * 12)
    found: list[int] = []
    for where, _ in memo.take([key(number) for number in range(10)]):
        for path in packs(folder):
            path.unlink()
        found += where.tolist()
    assert sorted(found) == list(range(10))


def test_what_is_used_stays_and_what_is_not_goes_after_30_days(memo: TensorMemo, folder: Path) -> None:
    keep(folder, [1])
    (used,) = packs(folder)
    keep(folder, [2])
    (unused,) = set(packs(folder)) - {used}
    keep(folder, [3])
    (young,) = set(packs(folder)) - {used, unused}
    for path, days in ((used, 31), (unused, 31), (young, 29)):
        aged(path, days)
    assert taken(memo, [1]) == [1]
    assert age(used) < 0.1
    assert age(unused) > 30, "its index was read, none of its rows used"
    memo.close()
    assert packs(folder) == sorted([used, young])


def test_folders_of_other_versions_go_when_nothing_in_them_was_used(memo: TensorMemo, folder: Path) -> None:
    keep(folder, [1])
    parent = folder.parent
    for name, days in {"old": (31, 40), "partly": (31, 29), "foreign": (31,)}.items():
        for number, age_in_days in enumerate(days):
            path = parent / name / f"{number:032x}.rows"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(b"rows")
            aged(path, age_in_days)
    aged_note = parent / "foreign" / "notes.txt"
    aged_note.write_text("mine")
    aged(aged_note, 400)
    (parent / "old" / f".{1:016x}.partial").write_bytes(b"")
    aged(parent / "old" / f".{1:016x}.partial", 31)
    (parent / "empty").mkdir()
    elsewhere = parent.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / f"{1:032x}.rows").write_bytes(b"rows")
    aged(elsewhere / f"{1:032x}.rows", 99)
    (parent / "link").symlink_to(elsewhere)
    memo.close()
    assert sorted(path.name for path in parent.iterdir()) == ["0123", "empty", "foreign", "link", "partly"]
    assert len(list((parent / "partly").iterdir())) == 2
    assert len(list((parent / "foreign").iterdir())) == 2
    assert len(list(elsewhere.iterdir())) == 1


def test_memory_stays_flat_however_much_is_kept_and_taken(folder: Path) -> None:
    """64 MiB in rows of 19.2 kB, added in pieces of 2 MB, in packs of at most 8 MiB."""
    shape, count, piece = (10, 10, 96), 3500, 100
    keys = [key(number) for number in range(count)]
    tracemalloc.start()
    try:
        with TensorMemo(folder, shape, np.float16) as memo:
            for start in range(0, count, piece):
                made = np.zeros((piece, *shape), np.float16)
                made[:, 0, 0, 0] = np.arange(start, start + piece)
                memo.add(keys[start : start + piece], made)
        seen = np.zeros(count, bool)
        for where, found in memo.take(keys[::-1]):
            assert found.nbytes <= PACK_BYTES
            np.testing.assert_array_equal(found[:, 0, 0, 0], (count - 1 - where).astype(np.float16))
            seen[where] = True
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert seen.all()
    assert sum(path.stat().st_size for path in packs(folder)) > 64 * 2**20
    assert peak < 3 * PACK_BYTES


ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}

# Adds its own rows and some that every process adds, closing and reading now and then; many closes merge.
WRITER = """
import sys
from pathlib import Path
import numpy as np
from stages.store.tensor_memo import TensorMemo
from tests.store.test_tensor_memo import SHAPE, key, rows, taken
folder, own = Path(sys.argv[1]), int(sys.argv[2])
print("ready", flush=True)
sys.stdin.read()
mine = []
for number in range(own, own + 120, 2):
    with TensorMemo(folder, SHAPE, np.float16) as memo:
        new = [number, number + 1, number % 7]
        memo.add([key(one) for one in new], rows(new))
    mine += new
    if number % 3 == 0:
        assert taken(memo, sorted(set(mine))) == sorted(set(mine)), "lost"
"""


def test_processes_that_add_take_and_merge_at_once_lose_nothing(
    memo: TensorMemo, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(folder), str(own)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT,
        )
        for own in (1000, 2000)
    ]  # fmt: skip
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.close()
        writer.stdin = None
    everything = [*range(7), *range(1000, 1120), *range(2000, 2120)]
    while any(writer.poll() is None for writer in writers):
        taken(memo, everything)
    for writer in writers:
        _, errors = writer.communicate()
        assert (writer.returncode, errors) == (0, "")
    assert taken(memo, everything) == everything
    assert len(packs(folder)) < 2 * tensor_memo.MAX_SMALL + 4
    assert not caplog.messages
    assert not list(folder.glob(".*"))


# Writes packs of ten rows; says so, with part of the next on disk under a temporary name, and waits to be killed.
KILLED = """
import os, sys, time
from pathlib import Path
import numpy as np
from stages.store import tensor_memo
from tests.store.test_tensor_memo import SHAPE, key, rows
tensor_memo.PACK_BYTES = 10 * 60
memo = tensor_memo.TensorMemo(Path(sys.argv[1]), SHAPE, np.float16)
memo.add([key(number) for number in range(20)], rows(range(20)))
def never(path, target):
    os.truncate(path, 700)
    print("written", flush=True)
    time.sleep(600)
Path.rename = never
memo.add([key(number) for number in range(20, 35)], rows(range(20, 35)))
"""


def test_a_killed_writer_loses_one_buffer_and_leaves_nothing_believed(
    memo: TensorMemo, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    command = [sys.executable, "-c", KILLED, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "written\n"
        (partial,) = folder.glob(".*.partial")
        try:
            aged(partial, 99)
            memo.close()
            assert partial.exists(), "its writer lives, however old it looks"
        finally:
            writer.kill()
    assert taken(memo, range(35)) == list(range(20))
    aged(partial, 0.5)
    memo.close()
    assert partial.exists(), "younger than a day"
    aged(partial, memo_files.LEFTOVER_SECONDS / DAY + 0.1)
    memo.close()
    assert not partial.exists()
    assert taken(memo, range(35)) == list(range(20))
    assert not caplog.messages
