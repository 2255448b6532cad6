"""Predictions as tables: rows in one order, the worst mistakes, the confusions, the ROC curves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from stages.core.errors import DataRejected
from stages.core.metrics import cross_entropy

Floats = npt.NDArray[np.float64]
ALIKE = 1e-6  # largest difference of probabilities that are the same
CURE = "Lower the learning rates (fine_tune.head.learning_rate, fine_tune.tail.learning_rate), or look at the images"
CURVE_POINTS = 200  # kept per ROC curve; a plot shows no more


def check(probabilities: Floats) -> None:
    """Raise DataRejected where a model's answers [N, C] say nothing: no numbers, or the same for every image."""
    if not np.isfinite(probabilities).all():
        raise DataRejected(f"the model gives probabilities that are NaN or infinite; it is not exported. {CURE}")
    if len(probabilities) > 1 and float(np.ptp(probabilities, axis=0).max()) < ALIKE:
        raise DataRejected(
            f"the model gives all {len(probabilities):,} held-out images the same probabilities; it is not exported. "
            f"{CURE}"
        )


@dataclass(frozen=True)
class HeldOut:
    """The val and test images in one order, N of them."""

    names: list[str]
    image_ids: list[str]
    splits: npt.NDArray[np.str_]  # [N]
    labels: npt.NDArray[np.int64]  # [N], index into the classes


def ordered(rows: Iterable[Mapping[str, Any]], classes: Sequence[str]) -> HeldOut:
    """Rows of the split table, sorted by split and name."""
    chosen = sorted(rows, key=lambda row: (row["split"], row["name"]))
    number_of = {label: number for number, label in enumerate(classes)}
    return HeldOut(
        names=[row["name"] for row in chosen],
        image_ids=[row["image_id"] for row in chosen],
        splits=np.array([row["split"] for row in chosen]),
        labels=np.array([number_of[row["label"]] for row in chosen], np.int64),
    )


def table(rows: HeldOut, probabilities: Floats, classes: Sequence[str]) -> list[dict[str, Any]]:
    """One row per image, for predictions.parquet."""
    predicted = probabilities.argmax(1)
    return [
        {
            "name": rows.names[number],
            "image_id": rows.image_ids[number],
            "split": str(rows.splits[number]),
            "label": classes[rows.labels[number]],
            "predicted": classes[predicted[number]],
            "probabilities": probabilities[number].astype(np.float32).tolist(),
        }
        for number in range(len(rows.names))
    ]


def worst(rows: HeldOut, probabilities: Floats, count: int) -> list[int]:
    """Numbers of the wrongly classified test images, largest loss first, at most `count`."""
    wrong = (probabilities.argmax(1) != rows.labels) & (rows.splits == "test")
    losses = np.where(wrong, cross_entropy(probabilities, rows.labels), -1.0)
    order = np.argsort(-losses, kind="stable")[: min(count, int(wrong.sum()))]
    return [int(number) for number in order]


def surest(rows: HeldOut, probabilities: Floats, count: int) -> list[int]:
    """Numbers of rightly classified test images, at most `count`: the surest of each class, then the next surest.

    In each round the surest come first. Of all images alone the surest would often be of one class.
    """
    sure = probabilities.max(1)
    right = np.flatnonzero((probabilities.argmax(1) == rows.labels) & (rows.splits == "test"))
    order = right[np.argsort(-sure[right], kind="stable")]
    seen: Counter[int] = Counter()
    rounds = []
    for number in order.tolist():
        rounds.append(seen[int(rows.labels[number])])
        seen[int(rows.labels[number])] += 1
    return [int(number) for number in order[np.argsort(rounds, kind="stable")][:count]]


def caption(rows: HeldOut, probabilities: Floats, classes: Sequence[str], number: int) -> str:
    """What stands under the picture of a mistake, or of an image that was classified rightly."""
    best = int(probabilities[number].argmax())
    label = classes[rows.labels[number]]
    if best == rows.labels[number]:
        return f"{label} ({probabilities[number, best]:.0%}): {rows.names[number]}"
    return f"{label}, taken for {classes[best]} ({probabilities[number, best]:.0%}): {rows.names[number]}"


def doubt(rows: HeldOut, probabilities: Floats, classes: Sequence[str], number: int, other: int) -> str:
    """What stands under the picture of a doubtful label."""
    label = rows.labels[number]
    return (
        f"labelled {classes[label]} ({probabilities[number, label]:.0%}), looks like {classes[other]} "
        f"({probabilities[number, other]:.0%}): {rows.names[number]}"
    )


def confusion(rows: Iterable[Mapping[str, Any]], split: str) -> list[dict[str, Any]]:
    """One (actual, predicted) row per image, the form of DVC's confusion template."""
    return [{"actual": row["label"], "predicted": row["predicted"]} for row in rows if row["split"] == split]


def mix_ups(rows: Iterable[Mapping[str, Any]], split: str, count: int) -> list[tuple[str, str, int]]:
    """The commonest (actual, predicted, images) among the wrong ones."""
    pairs = Counter(
        (row["label"], row["predicted"]) for row in rows if row["split"] == split and row["label"] != row["predicted"]
    )
    return [(actual, predicted, images) for (actual, predicted), images in sorted(pairs.items(), key=_by_count)[:count]]


def _by_count(pair: tuple[tuple[str, str], int]) -> tuple[int, tuple[str, str]]:
    return -pair[1], pair[0]


def roc(rows: HeldOut, probabilities: Floats, classes: Sequence[str], split: str) -> list[dict[str, Any]]:
    """Points of each class's ROC curve, class against the rest, thinned to CURVE_POINTS."""
    chosen = rows.splits == split
    points: list[dict[str, Any]] = []
    for number, label in enumerate(classes):
        positive = rows.labels[chosen] == number
        if not positive.any() or positive.all():
            continue
        order = np.argsort(-probabilities[chosen, number], kind="stable")
        hits, scores = positive[order], probabilities[chosen, number][order]
        ends = np.r_[np.diff(scores) < 0, True]  # images of equal score share a point
        true_rate = np.r_[0.0, (np.cumsum(hits) / positive.sum())[ends]]
        false_rate = np.r_[0.0, (np.cumsum(~hits) / (~positive).sum())[ends]]
        for point in np.unique(np.linspace(0, len(true_rate) - 1, CURVE_POINTS).astype(int)):
            points.append({"class": label, "false_positive_rate": round(float(false_rate[point]), 6),
                           "true_positive_rate": round(float(true_rate[point]), 6)})  # fmt: skip
    return points
