"""Assigns images to train, val and test: by group, stable under growth, respecting a given split.

Images are a table of schemas.FACTS' columns `group`, `image_id`, `given_split` and `label`, which may be mapped from a
file: no more than a few numbers an image are held beside it. Splits are int8 [images], numbers into schemas.SPLITS.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from stages.core.errors import DataRejected
from stages.core.schemas import SPLITS

Splits = npt.NDArray[np.int8]

# Held-out first: where copies of one picture came in several given splits, all go to the first of
# these, so that the held-out sets keep every image they came with and training loses the leak.
HELD_OUT_FIRST = ("test", "val", "train")
TEST, VAL, TRAIN, NOT_GIVEN = range(4)  # ranks: the smaller, the further held out
BLOCK = 4096  # ids that are Python's texts at a time


@dataclass(frozen=True)
class Fractions:
    """Shares of the images, each 0-1. `test_from_val` applies where a source came with val but no test."""

    val: float
    test: float
    test_from_val: float


def assign(images: pa.Table, fractions: Fractions, seed: int) -> Splits:
    """The split of each image.

    A group (near-duplicates) is drawn as one. Its draw is a hash of the seed and of the member whose
    own hash is smallest, so it depends on no other group, on no count and on no order: images that
    arrive later leave every other group where it was. An exactly stratified draw could not promise
    that; the price is a binomial error in the shares, which `summary` reports.
    """
    group_of = _group_of(images)
    given = _given(images)
    drawn = _draw(_smallest(given, group_of), set(given.tolist()), _draws(images, group_of, seed), fractions)
    number_of = np.array([SPLITS.index(split) for split in HELD_OUT_FIRST], np.int8)
    return number_of[drawn][group_of]


def _draws(images: pa.Table, group_of: npt.NDArray[np.intp], seed: int) -> npt.NDArray[np.float64]:
    """Uniform in [0, 1), one for each group."""
    ids = _ids(images["image_id"])
    own = np.fromiter((uniform(seed, one.tobytes().hex()) for one in ids), np.float64, len(ids))
    order = np.lexsort((own, group_of))
    anchors = ids[order[np.flatnonzero(np.diff(group_of[order], prepend=-1))]]
    # The smallest of n uniform draws is small; drawing again from that member's id makes it uniform.
    return np.fromiter((uniform(seed, f"{one.tobytes().hex()}:split") for one in anchors), np.float64, len(anchors))


def _draw(
    given: npt.NDArray[np.int8], names: set[int], draws: npt.NDArray[np.float64], fractions: Fractions
) -> npt.NDArray[np.int8]:
    """The rank of each group's split: `given` are its members' smallest ranks, `names` all that were given."""
    drawn = given.copy()
    free = given == NOT_GIVEN
    drawn[free] = np.select(
        [draws[free] < fractions.test, draws[free] < fractions.test + fractions.val], [TEST, VAL], TRAIN
    )
    if TEST not in names:
        drawn[(given == VAL) & (draws < fractions.test_from_val)] = TEST
    if VAL not in names:
        if TEST not in names:
            drawn[(given == TRAIN) & (draws > 1 - fractions.test)] = TEST
        drawn[(given == TRAIN) & (draws < fractions.val)] = VAL
    return drawn


def uniform(seed: int, text: str) -> float:
    """A number in [0, 1) that depends on nothing but its arguments."""
    digest = hashlib.sha256(f"{seed}:{text}".encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56


def leaked(images: pa.Table) -> int:
    """How many images have a copy in a given split that is held out further than their own."""
    group_of = _group_of(images)
    given = _given(images)
    return int(((given != NOT_GIVEN) & (given > _smallest(given, group_of)[group_of])).sum())


def _given(images: pa.Table) -> npt.NDArray[np.int8]:
    """Int8 [images], the rank of the split it came with."""
    found = pc.index_in(images["given_split"].combine_chunks(), pa.array(HELD_OUT_FIRST))
    return np.asarray(found.fill_null(NOT_GIVEN)).astype(np.int8)


def _smallest(ranks: npt.NDArray[np.int8], group_of: npt.NDArray[np.intp]) -> npt.NDArray[np.int8]:
    """Int8 [groups], of each group's members."""
    found = np.full(int(group_of.max(initial=-1)) + 1, NOT_GIVEN, np.int8)
    np.minimum.at(found, group_of, ranks)
    return found


def _group_of(images: pa.Table) -> npt.NDArray[np.intp]:
    """Int [images], the number of each image's group, from 0 on."""
    # As bytes, which NumPy sorts: rows of numbers it would not.
    return np.unique(_ids(images["group"]).view("S32"), return_inverse=True)[1].reshape(-1)


def _ids(column: pa.ChunkedArray) -> npt.NDArray[np.uint8]:
    """Ids of 64 hexadecimal digits as bytes, [images, 32]."""
    found = np.empty((len(column), 32), np.uint8)
    for start in range(0, len(column), BLOCK):
        block = "".join(column.slice(start, BLOCK).to_pylist())
        found[start : start + BLOCK] = np.frombuffer(bytes.fromhex(block), np.uint8).reshape(-1, 32)
    return found


def summary(labels: pa.ChunkedArray, splits: Splits, moved: int, classes: list[str]) -> dict[str, Any]:
    """Counts per split and class, the share each split got, and how many leaked images were moved."""
    found = pc.index_in(labels, pa.array(classes, pa.string()))
    if found.null_count:
        label = labels.filter(pc.is_null(found))[0].as_py()
        raise DataRejected(
            f"label {label!r} is none of the classes ({', '.join(classes)}), so its images cannot be trained on; "
            "add it to validate.classes, or let validate reject such labels"
        )
    number_of = np.asarray(found, np.intp)
    cells = np.bincount(splits.astype(np.intp) * len(classes) + number_of, minlength=len(SPLITS) * len(classes))
    counts = dict(zip(SPLITS, cells.reshape(len(SPLITS), len(classes)).tolist(), strict=True))
    total = max(len(labels), 1)
    return {
        "images": {split: sum(counts[split]) for split in SPLITS},
        "share": {split: round(sum(counts[split]) / total, 6) for split in SPLITS},
        "classes": {split: dict(zip(classes, counts[split], strict=True)) for split in SPLITS},
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


def digest(images: pa.Table, splits: Splits) -> str:
    """SHA-256 over every image's id, label and split, hex: names the data a model was made from, in whatever order."""
    ids = _ids(images["image_id"])
    names = images["label"].unique().to_pylist()
    label_of = np.asarray(pc.index_in(images["label"], pa.array(names, pa.string())), np.intp)
    by_label, by_split = np.argsort(np.argsort(names))[label_of], np.argsort(np.argsort(SPLITS))[splits]
    found = hashlib.sha256()
    for at in np.lexsort((by_label, by_split, *ids.view(">u8").T[::-1])):
        found.update(f"{ids[at].tobytes().hex()} {SPLITS[splits[at]]} {names[label_of[at]]}\n".encode())
    return found.hexdigest()
