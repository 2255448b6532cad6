"""The split: grouped, stable under growth, respecting what came split."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.core import sampling
from stages.core.errors import DataRejected

FRACTIONS = sampling.Fractions(val=0.15, test=0.15, test_from_val=0.2)


def row(number: int, group: int | None = None, given_split: str | None = None) -> dict[str, Any]:
    image_id = hashlib.sha256(str(number).encode()).hexdigest()
    return {"image_id": image_id, "group": image_id if group is None else f"group {group}", "given_split": given_split}


def assigned(rows: list[dict[str, Any]], seed: int = 1) -> dict[str, str]:
    splits = sampling.assign(rows, FRACTIONS, seed)
    return {entry["image_id"]: split for entry, split in zip(rows, splits, strict=True)}


@settings(max_examples=50, deadline=None)
@given(st.sets(st.integers(0, 500), max_size=60), st.sets(st.integers(501, 1000), max_size=60))
def test_images_that_arrive_later_move_nobody(before: set[int], later: set[int]) -> None:
    first = assigned([row(number) for number in before])
    second = assigned([row(number) for number in sorted(before | later)])
    assert {image: second[image] for image in first} == first


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 15), st.sampled_from([None, "train", "val", "test"])), max_size=60))
def test_a_group_never_straddles(members: list[tuple[int, str | None]]) -> None:
    rows = [row(number, group, split) for number, (group, split) in enumerate(members)]
    of_group: dict[str, set[str]] = {}
    for entry, split in zip(rows, sampling.assign(rows, FRACTIONS, 1), strict=True):
        of_group.setdefault(entry["group"], set()).add(split)
    assert all(len(splits) == 1 for splits in of_group.values())


def test_shares_are_near_what_is_asked_for_also_for_groups() -> None:
    singles = list(assigned([row(number) for number in range(4000)]).values())
    pairs = sampling.assign([row(number, number // 4) for number in range(16000)], FRACTIONS, 1)
    for splits in (singles, pairs):
        assert splits.count("test") / len(splits) == pytest.approx(0.15, abs=0.02)
        assert splits.count("val") / len(splits) == pytest.approx(0.15, abs=0.02)


def test_another_seed_is_another_draw_and_order_does_not_matter() -> None:
    rows = [row(number) for number in range(200)]
    assert assigned(rows) != assigned(rows, seed=2)
    assert assigned(rows) == assigned(rows[::-1])


def test_given_splits_are_kept_and_the_test_is_drawn_from_val() -> None:
    rows = [row(number, given_split="train" if number < 2000 else "val") for number in range(3000)]
    splits = sampling.assign(rows, FRACTIONS, 1)
    assert set(splits[:2000]) == {"train"}
    assert set(splits[2000:]) == {"val", "test"}
    assert splits[2000:].count("test") / 1000 == pytest.approx(0.2, abs=0.04)


def test_a_given_test_split_is_left_alone_and_val_comes_from_train() -> None:
    rows = [row(number, given_split="train" if number < 2000 else "test") for number in range(2500)]
    splits = sampling.assign(rows, FRACTIONS, 1)
    assert set(splits[2000:]) == {"test"}
    assert splits[:2000].count("val") / 2000 == pytest.approx(0.15, abs=0.03)
    assert "test" not in splits[:2000]


def test_only_a_training_folder_gives_all_three() -> None:
    splits = sampling.assign([row(number, given_split="train") for number in range(2000)], FRACTIONS, 1)
    assert splits.count("val") / 2000 == pytest.approx(0.15, abs=0.03)
    assert splits.count("test") / 2000 == pytest.approx(0.15, abs=0.03)


def test_a_leaked_copy_goes_to_the_held_out_side_and_is_counted() -> None:
    rows = [row(1, 7, "train"), row(2, 7, "test"), row(3, 8, "train"), row(4, 8, "train"), row(5, None, "val")]
    assert sampling.assign(rows, FRACTIONS, 1)[:2] == ["test", "test"]
    assert sampling.leaked(rows) == 1
    assert sampling.leaked([row(1, 7, "train"), row(2, 7, "train"), row(3, 7, "test")]) == 2


def test_summary_counts_and_short_classes_are_named() -> None:
    report = sampling.summary(["a", "a", "b"], ["train", "val", "train"], 0, ["a", "b"])
    assert report["images"] == {"train": 2, "val": 1, "test": 0}
    assert report["classes"]["train"] == {"a": 1, "b": 1}
    assert report["share"] == {"train": pytest.approx(2 / 3), "val": pytest.approx(1 / 3), "test": 0.0}


def test_too_little_to_train_on_or_judge_by_is_refused_and_an_absent_class_is_told() -> None:
    def report(splits: list[str]) -> dict[str, Any]:
        return sampling.summary(["a", "b"] * 3, splits, 2, ["a", "b"])

    fine = report(["train", "train", "val", "train", "test", "test"])
    assert sampling.check(fine, 1) == ["'b' has no image in val"]
    with pytest.raises(DataRejected, match=r"'a' has 1.*split\.min_per_class asks for 2"):
        sampling.check(fine, 2)
    with pytest.raises(DataRejected, match=r"'b' has 0 \(2 copies of held-out images were moved"):
        sampling.check(report(["train", "val", "train", "val", "test", "test"]), 1)
    with pytest.raises(DataRejected, match="no image was drawn for test"):
        sampling.check(report(["train", "train", "val", "train", "val", "val"]), 1)


def test_all_three_given_are_all_kept() -> None:
    given = ["train", "val", "test"] * 60
    rows = [row(number, given_split=split) for number, split in enumerate(given)]
    assert sampling.assign(rows, FRACTIONS, 1) == given


def test_digest_names_ids_labels_and_splits() -> None:
    rows = [{"image_id": "1", "label": "a", "split": "train"}, {"image_id": "2", "label": "b", "split": "val"}]
    changed = [{**rows[0], "split": "test"}, rows[1]]
    assert sampling.digest(rows) == sampling.digest(rows[::-1]) != sampling.digest(changed)
