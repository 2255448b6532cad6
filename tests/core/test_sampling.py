"""The split: grouped, stable under growth, respecting what came split."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.core import sampling
from stages.core.errors import DataRejected
from stages.core.schemas import FACTS, SPLITS

FRACTIONS = sampling.Fractions(val=0.15, test=0.15, test_from_val=0.2)


def row(number: int, group: int | None = None, given_split: str | None = None) -> dict[str, Any]:
    image_id = hashlib.sha256(str(number).encode()).hexdigest()
    of_group = image_id if group is None else hashlib.sha256(f"group {group}".encode()).hexdigest()
    return {"image_id": image_id, "group": of_group, "given_split": given_split}


def table(rows: list[dict[str, Any]], per_chunk: int = 7) -> pa.Table:
    """In several chunks, as a file is read."""
    fields = [FACTS.field(name) for name in ("image_id", "group", "given_split")]
    whole = pa.Table.from_pylist(rows, pa.schema(fields))
    return pa.Table.from_batches(whole.to_batches(max_chunksize=per_chunk), whole.schema)


def assign(rows: list[dict[str, Any]], seed: int = 1) -> list[str]:
    return [SPLITS[number] for number in sampling.assign(table(rows), FRACTIONS, seed)]


def assigned(rows: list[dict[str, Any]], seed: int = 1) -> dict[str, str]:
    splits = assign(rows, seed)
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
    for entry, split in zip(rows, assign(rows), strict=True):
        of_group.setdefault(entry["group"], set()).add(split)
    assert all(len(splits) == 1 for splits in of_group.values())


def test_shares_are_near_what_is_asked_for_also_for_groups() -> None:
    singles = list(assigned([row(number) for number in range(4000)]).values())
    pairs = assign([row(number, number // 4) for number in range(16000)])
    for splits in (singles, pairs):
        assert splits.count("test") / len(splits) == pytest.approx(0.15, abs=0.02)
        assert splits.count("val") / len(splits) == pytest.approx(0.15, abs=0.02)


def test_another_seed_is_another_draw_and_order_does_not_matter() -> None:
    rows = [row(number) for number in range(200)]
    assert assigned(rows) != assigned(rows, seed=2)
    assert assigned(rows) == assigned(rows[::-1])


def test_given_splits_are_kept_and_the_test_is_drawn_from_val() -> None:
    rows = [row(number, given_split="train" if number < 2000 else "val") for number in range(3000)]
    splits = assign(rows)
    assert set(splits[:2000]) == {"train"}
    assert set(splits[2000:]) == {"val", "test"}
    assert splits[2000:].count("test") / 1000 == pytest.approx(0.2, abs=0.04)


def test_a_given_test_split_is_left_alone_and_val_comes_from_train() -> None:
    rows = [row(number, given_split="train" if number < 2000 else "test") for number in range(2500)]
    splits = assign(rows)
    assert set(splits[2000:]) == {"test"}
    assert splits[:2000].count("val") / 2000 == pytest.approx(0.15, abs=0.03)
    assert "test" not in splits[:2000]


def test_only_a_training_folder_gives_all_three() -> None:
    splits = assign([row(number, given_split="train") for number in range(2000)])
    assert splits.count("val") / 2000 == pytest.approx(0.15, abs=0.03)
    assert splits.count("test") / 2000 == pytest.approx(0.15, abs=0.03)


def test_a_leaked_copy_goes_to_the_held_out_side_and_is_counted() -> None:
    rows = [row(1, 7, "train"), row(2, 7, "test"), row(3, 8, "train"), row(4, 8, "train"), row(5, None, "val")]
    assert assign(rows)[:2] == ["test", "test"]
    assert sampling.leaked(table(rows)) == 1
    assert sampling.leaked(table([row(1, 7, "train"), row(2, 7, "train"), row(3, 7, "test")])) == 2


def summary(labels: list[str], splits: list[str], moved: int) -> dict[str, Any]:
    return sampling.summary(pa.chunked_array([labels]), numbers(splits), moved, ["a", "b"])


def numbers(splits: list[str]) -> sampling.Splits:
    return np.array([SPLITS.index(split) for split in splits], np.int8)


def test_summary_counts_and_short_classes_are_named() -> None:
    report = summary(["a", "a", "b"], ["train", "val", "train"], 0)
    assert report["images"] == {"train": 2, "val": 1, "test": 0}
    assert report["classes"]["train"] == {"a": 1, "b": 1}
    assert report["share"] == {"train": pytest.approx(2 / 3), "val": pytest.approx(1 / 3), "test": 0.0}


def test_too_little_to_train_on_or_judge_by_is_refused_and_an_absent_class_is_told() -> None:
    def report(splits: list[str]) -> dict[str, Any]:
        return summary(["a", "b"] * 3, splits, 2)

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
    assert assign(rows) == given


def test_as_one_draw_after_another_says() -> None:
    """Against the rule written out for one group at a time."""
    rows = [row(number, number % 90, [None, "train", None, "val"][number % 4]) for number in range(300)]
    names = {entry["given_split"] for entry in rows} - {None}
    for entry, split in zip(rows, assign(rows, seed=3), strict=True):
        members = [other for other in rows if other["group"] == entry["group"]]
        anchor = min(members, key=lambda one: sampling.uniform(3, one["image_id"]))["image_id"]
        draw = sampling.uniform(3, f"{anchor}:split")
        given = {other["given_split"] for other in members} - {None}
        if not given:
            expected = "test" if draw < 0.15 else "val" if draw < 0.3 else "train"
        else:
            expected = next(name for name in ("test", "val", "train") if name in given)
            if expected == "val" and "test" not in names and draw < 0.2:
                expected = "test"
            elif expected == "train" and "val" not in names and draw < 0.15:
                expected = "val"
        assert split == expected


def test_a_label_that_is_no_class_is_named() -> None:
    with pytest.raises(DataRejected, match=r"label 'wolf' is none of the classes \(a, b\)"):
        summary(["a", "wolf", "b"], ["train", "val", "train"], 0)


def test_many_classes_are_counted() -> None:
    classes = [f"class {number:03}" for number in range(200)]
    report = sampling.summary(pa.chunked_array([classes]), numbers(["test"] * 200), 0, classes)
    assert report["classes"]["test"] == dict.fromkeys(classes, 1)
    assert report["images"] == {"train": 0, "val": 0, "test": 200}


def test_digest_names_ids_labels_and_splits() -> None:
    """That of the sorted lines, one an image; ids that end in zeros and an image that came twice included."""
    ids = [row(1)["image_id"], "ab" * 31 + "00", row(3)["image_id"], row(3)["image_id"]]
    labels, splits = ["zebra", "ant", "ü", "bee"], ["train", "val", "test", "train"]
    lines = sorted(f"{i} {split} {label}\n" for i, split, label in zip(ids, splits, labels, strict=True))

    def digest(order: list[int], chosen: list[str]) -> str:
        columns = {"image_id": [ids[at] for at in order], "label": [labels[at] for at in order]}
        chunks = pa.Table.from_batches(pa.table(columns).to_batches(max_chunksize=2))
        return sampling.digest(chunks, numbers([chosen[at] for at in order]))

    assert digest([0, 1, 2, 3], splits) == hashlib.sha256("".join(lines).encode()).hexdigest()
    assert digest([0, 1, 2, 3], splits) == digest([3, 1, 0, 2], splits)
    assert digest([0, 1, 2, 3], splits) != digest([0, 1, 2, 3], ["test", *splits[1:]])
    nothing = pa.table({"image_id": pa.array([], pa.string()), "label": pa.array([], pa.string())})
    assert sampling.digest(nothing, numbers([])) == hashlib.sha256().hexdigest()
