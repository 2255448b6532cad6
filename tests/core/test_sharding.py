"""Cuts and file names depend on the names around them and on nothing else."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.core import sharding

NAMES = st.sets(st.text(min_size=1, max_size=12), min_size=1, max_size=60)
PHOTOS = [f"train/cats/cat.{number}.jpg" for number in range(600)]


def packed(images: dict[str, int], target: int) -> dict[str, tuple[str, ...]]:
    """File name → the names in it."""
    names = sorted(images)
    spans = sharding.spans(names, [images[name] for name in names], target)
    files = sharding.file_names([names[span.start] for span in spans])
    return {file: tuple(names[span.start : span.stop]) for file, span in zip(files, spans, strict=True)}


def changed(before: dict[str, tuple[str, ...]], after: dict[str, tuple[str, ...]]) -> int:
    """How many of the new files are not among the old."""
    return sum(before.get(file) != names for file, names in after.items())


@given(NAMES, st.integers(1, 20))
@settings(deadline=None, max_examples=60)
def test_shards_hold_every_name_once_in_order(names: set[str], target: int) -> None:
    shards = packed(dict.fromkeys(names, 1), target)
    assert [name for shard in shards.values() for name in shard] == sorted(names)
    assert list(shards) == sorted(shards)
    assert all(1 <= len(shard) <= sharding.MOST_IMAGES * target for shard in shards.values())


@given(NAMES, st.text(min_size=1, max_size=12), st.integers(1, 8))
@settings(deadline=None, max_examples=60)
def test_one_image_more_changes_at_most_two_files(names: set[str], new: str, target: int) -> None:
    names.discard(new)
    before = packed(dict.fromkeys(names, 1), target)
    after = packed(dict.fromkeys([*names, new], 1), target)
    assert changed(before, after) <= 2
    assert changed(after, before) <= 2


def test_target_is_the_average() -> None:
    shards = packed(dict.fromkeys(PHOTOS, 1), 16)
    assert 12 <= len(PHOTOS) / len(shards) <= 21
    assert len({len(shard) for shard in shards.values()}) > 5  # not every 16th


def test_a_run_without_a_cut_is_bounded_and_stays_stable(monkeypatch: pytest.MonkeyPatch) -> None:
    mark = sharding._mark
    monkeypatch.setattr(sharding, "_mark", lambda name: mark(name) * 16 + 1)  # no multiple of 16
    before = packed(dict.fromkeys(PHOTOS, 1), 16)
    assert max(map(len, before.values())) <= 16 * sharding.MOST_IMAGES
    assert len(before) > 1
    for number in random.Random(3).sample(range(600), 40):
        after = packed(dict.fromkeys([*PHOTOS, f"train/cats/cat.{number}.jpg.png"], 1), 16)
        assert 1 <= changed(before, after) <= 2


def test_heavy_images_make_small_shards() -> None:
    heavy = sharding.MOST_BYTES // 3
    shards = packed(dict.fromkeys(PHOTOS[:50], heavy), 50)
    assert max(map(len, shards.values())) <= 3
    alone = packed({"a": 2 * sharding.MOST_BYTES, "b": 1, "c": 1}, 50)
    assert ("a",) in alone.values()


def test_growing_one_image_touches_one_shard_where_no_bound_is_passed() -> None:
    images = dict.fromkeys(PHOTOS, 10)
    assert packed(images, 16) == packed(images | {PHOTOS[7]: 99}, 16)


def test_file_names_of_long_names_keep_their_order_and_fit() -> None:
    long = "x" * 300
    names = sorted([long + str(number) for number in range(30)] + [long[:50], "y", "x" * sharding.PREFIX_BYTES])
    files = sharding.file_names(names)
    assert files == sorted(files)
    assert len(set(files)) == len(names)
    assert max(map(len, files)) <= 255
    assert files[-1] == b"y".hex() + ".parquet"
