"""Where to draw the line: what a model that answers only when sure leaves to people, and for two classes what each
threshold between them finds and wrongly raises."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from stages.core.metrics import wilson

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
THRESHOLDS = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999)

BETWEEN = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)  # two classes
STEPS = 100  # a threshold between two classes is chosen among hundredths


def table(probabilities: Floats, labels: Ints) -> list[dict[str, Any]]:
    """One row a threshold on the named class's probability, 0-1: the images answered, and how many of those are right.

    `probabilities` is [N, C], `labels` [N]; `accuracy` is None where nothing is answered, else with Wilson's 95 %
    interval.
    """
    sure, right = probabilities.max(1), probabilities.argmax(1) == labels
    least = 1 / probabilities.shape[1]  # no named class has less, so that such a threshold is that of 0 again
    rows = []
    for threshold in (one for one in THRESHOLDS if one == 0 or one > least):
        answered = sure >= threshold
        count, hits = int(answered.sum()), int((answered & right).sum())
        low, high = wilson(hits, count)
        rows.append(
            {
                "threshold": threshold,
                "answered": count,
                "coverage": count / max(len(labels), 1),
                "errors": count - hits,
                "accuracy": hits / count if count else None,
                "accuracy_low": low,
                "accuracy_high": high,
            }
        )
    return rows


def choose(probabilities: Floats, labels: Ints) -> float:
    """The threshold on class 1's probability [N] that parts two classes best, by images that are not the test's.

    The hundredth with the largest share of class 1 found less share of class 0 taken for it (Youden, "Index for Rating
    Diagnostic Tests", Cancer 3, 1950); of equals the nearest to 0.5. 0.5 where one class has no image.
    """
    positive = labels == 1
    if positive.all() or not positive.any():
        return 0.5
    candidates = np.arange(1, STEPS) / STEPS
    called = probabilities >= candidates[:, None]
    gained = called[:, positive].mean(1) - called[:, ~positive].mean(1)
    best = candidates[gained >= gained.max() - 1e-12]  # shares of equal counts may differ in the last bits
    return float(best[np.abs(best - 0.5).argmin()])


def two_classes(probabilities: Floats, labels: Ints, chosen: float) -> list[dict[str, Any]]:
    """One row for each of BETWEEN and `chosen`, thresholds from which class 1 is named by its probability [N].

    `found` is the share of class 1's images so named, `raised` of class 0's, `precision` the share of those named that
    are class 1's; each with Wilson's 95 % interval, None where there are no such images.
    """
    positive = labels == 1
    rows = []
    for threshold in sorted({*BETWEEN, chosen}):
        called = probabilities >= threshold
        hits, count = int((called & positive).sum()), int(called.sum())
        row: dict[str, Any] = {"threshold": threshold, "named": count}
        for name, part, whole in (
            ("found", hits, int(positive.sum())),
            ("raised", count - hits, int((~positive).sum())),
            ("precision", hits, count),
        ):
            row[name] = part / whole if whole else None
            row[f"{name}_low"], row[f"{name}_high"] = wilson(part, whole)
        rows.append({**row, "accuracy": float((called == positive).mean()) if len(labels) else None})
    return rows
