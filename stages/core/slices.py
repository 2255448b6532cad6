"""How good a model is on parts of the test: small pictures, dark ones, near-duplicates, each kind of file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from stages.core.metrics import wilson

Bools = npt.NDArray[np.bool_]
COLUMNS = ("kind", "slice", "images", "accuracy", "accuracy_low", "accuracy_high", "apart")
MOST = 20  # values of one kind, the commonest


def table(right: Bools, kinds: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    """One row a slice that holds some of the images, not all: accuracy with Wilson's 95 % interval.

    `right` is bool [N]; `kinds` names, for each kind of slice, the slice of every image. A slice is `apart` where its
    interval does not hold the accuracy of all images.
    """
    whole = float(right.mean()) if len(right) else 0.0
    rows = []
    for kind, names in kinds.items():
        values, inverse, counts = np.unique(np.array(names), return_inverse=True, return_counts=True)
        if len(values) < 2:
            continue
        for number in sorted(np.argsort(-counts, kind="stable")[:MOST].tolist()):
            hits, count = int(right[inverse == number].sum()), int(counts[number])
            low, high = wilson(hits, count)
            rows.append(
                {
                    "kind": kind,
                    "slice": str(values[number]),
                    "images": count,
                    "accuracy": hits / count,
                    "accuracy_low": low,
                    "accuracy_high": high,
                    "apart": not low <= whole <= high,
                }
            )
    return rows


def left_out(kinds: Mapping[str, Sequence[str]]) -> dict[str, dict[str, int]]:
    """How many slices `table` has as `shown` and leaves out as `left_out`, of the kinds where it leaves some out."""
    counts = {kind: len(set(names)) for kind, names in kinds.items()}
    return {kind: {"shown": MOST, "left_out": count - MOST} for kind, count in counts.items() if count > MOST}


def kinds(facts: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """The slice of each image, by kind. A fact has schemas.FACTS' label, width, height, brightness, format and
    given_split, and `copies`, how many images its group has."""
    return {
        "class": [fact["label"] for fact in facts],
        "shorter side": thirds(
            [min(fact["width"] or np.nan, fact["height"] or np.nan) for fact in facts],
            ("small", "middle", "large"), " px",
        ),
        "brightness": thirds(
            [np.nan if fact["brightness"] is None else fact["brightness"] for fact in facts],
            ("dark", "middle", "bright"),
        ),
        "near-duplicates": ["has some" if fact["copies"] > 1 else "has none" for fact in facts],
        "file": [fact["format"] or "unknown" for fact in facts],
        "split it came with": [fact["given_split"] or "none" for fact in facts],
    }  # fmt: skip


def thirds(values: Sequence[float], words: tuple[str, str, str], unit: str = "") -> list[str]:
    """The third that each value lies in, as `words` with the bounds; "unknown" for what is not a number.

    Where most values are equal a third may stay empty.
    """
    numbers = np.array(values, np.float64)
    known = numbers[np.isfinite(numbers)]
    if not len(known):
        return ["unknown"] * len(numbers)
    first, second = np.quantile(known, [1 / 3, 2 / 3], method="lower")
    said = (
        f"1 {words[0]}: to {first:.4g}{unit}",
        f"2 {words[1]}: to {second:.4g}{unit}",
        f"3 {words[2]}: above {second:.4g}{unit}",
    )
    return [
        "unknown" if not np.isfinite(value) else said[0 if value <= first else 1 if value <= second else 2]
        for value in numbers
    ]
