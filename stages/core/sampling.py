"""Assigns images to train, val and test: by group, stable under growth, respecting a given split."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from stages.core.errors import DataRejected
from stages.core.schemas import SPLITS

# Held-out first: where copies of one picture came in several given splits, all go to the first of
# these, so that the held-out sets keep every image they came with and training loses the leak.
HELD_OUT_FIRST = ("test", "val", "train")


@dataclass(frozen=True)
class Fractions:
    """Shares of the images, each 0-1. `test_from_val` applies where a source came with val but no test."""

    val: float
    test: float
    test_from_val: float


def assign(rows: Iterable[Mapping[str, Any]], fractions: Fractions, seed: int) -> list[str]:
    """The split of each row, in order. A row has `group`, `image_id` and `given_split` (or None).

    A group (near-duplicates) is drawn as one. Its draw is a hash of the seed and of the member whose
    own hash is smallest, so it depends on no other group, on no count and on no order: images that
    arrive later leave every other group where it was. An exactly stratified draw could not promise
    that; the price is a binomial error in the shares, which `summary` reports.
    """
    rows = list(rows)
    given_names = {row["given_split"] for row in rows} - {None}
    members: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        members[row["group"]].append(row)
    drawn = {group: _draw(group_rows, given_names, fractions, seed) for group, group_rows in members.items()}
    return [drawn[row["group"]] for row in rows]


def _draw(rows: list[Mapping[str, Any]], given_names: set[str], fractions: Fractions, seed: int) -> str:
    share = min(uniform(seed, row["image_id"]) for row in rows)
    # The smallest of n uniform draws is small; drawing again from that member's id makes it uniform.
    anchor = next(row["image_id"] for row in rows if uniform(seed, row["image_id"]) == share)
    draw = uniform(seed, f"{anchor}:split")
    given = {row["given_split"] for row in rows} - {None}
    if not given:
        if draw < fractions.test:
            return "test"
        return "val" if draw < fractions.test + fractions.val else "train"
    split = next(name for name in HELD_OUT_FIRST if name in given)
    if split == "val" and "test" not in given_names and draw < fractions.test_from_val:
        return "test"
    if split == "train" and "val" not in given_names and draw < fractions.val:
        return "val"
    if split == "train" and "test" not in given_names and "val" not in given_names and draw > 1 - fractions.test:
        return "test"
    return split


def uniform(seed: int, text: str) -> float:
    """A number in [0, 1) that depends on nothing but its arguments."""
    digest = hashlib.sha256(f"{seed}:{text}".encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56


def leaked(rows: Iterable[Mapping[str, Any]]) -> int:
    """How many rows have a copy in a given split that is held out further than their own."""
    given: dict[str, list[int]] = defaultdict(list)
    for row in rows:
        if row["given_split"] is not None:
            given[row["group"]].append(HELD_OUT_FIRST.index(row["given_split"]))
    return sum(sum(rank > min(ranks) for rank in ranks) for ranks in given.values())


def summary(labels: list[str], splits: list[str], moved: int, classes: list[str]) -> dict[str, Any]:
    """Counts per split and class, the share each split got, and how many leaked images were moved."""
    counts: dict[str, Counter[str]] = {split: Counter() for split in SPLITS}
    for label, split in zip(labels, splits, strict=True):
        counts[split][label] += 1
    total = max(len(labels), 1)
    return {
        "images": {split: sum(counts[split].values()) for split in SPLITS},
        "share": {split: round(sum(counts[split].values()) / total, 6) for split in SPLITS},
        "classes": {split: {label: counts[split][label] for label in classes} for split in SPLITS},
        "moved_to_held_out": moved,
    }


def check(report: Mapping[str, Any], minimum: int) -> list[str]:
    """Raise DataRejected where there is too little to train or to judge by; return what is only worth a warning.

    Training needs `minimum` images of each class, and val and test need an image at all. A class that
    is absent from val or test is a warning: small sets draw so, and its figures say 0 images.
    """
    short = [f"{label!r} has {count}" for label, count in report["classes"]["train"].items() if count < minimum]
    if short:
        leak = report["moved_to_held_out"]
        moved = f" ({leak} copies of held-out images were moved out of training)" if leak else ""
        raise DataRejected(
            f"too few images to train on: {'; '.join(short)}{moved}; split.min_per_class asks for {minimum}. Add "
            "images of these classes, or lower split.val_fraction and split.test_fraction"
        )
    for split in ("val", "test"):
        if not report["images"][split]:
            raise DataRejected(
                f"no image was drawn for {split}. Add images, raise split.{split}_fraction (or split.test_from_val, "
                "where val was given), or try another split.seed"
            )
    return [
        f"{label!r} has no image in {split}"
        for split in ("val", "test")
        for label, count in report["classes"][split].items()
        if count == 0
    ]


def digest(rows: Iterable[Mapping[str, Any]]) -> str:
    """SHA-256 over every image's id, label and split, hex: names the data a model was made from."""
    lines = sorted(f"{row['image_id']} {row['split']} {row['label']}\n" for row in rows)
    return hashlib.sha256("".join(lines).encode()).hexdigest()
