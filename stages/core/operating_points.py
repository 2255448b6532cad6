"""What is left to people, and what goes wrong, where a model answers only when it is sure enough."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from stages.core.metrics import wilson

THRESHOLDS = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999)


def table(probabilities: npt.NDArray[np.float64], labels: npt.NDArray[np.int64]) -> list[dict[str, Any]]:
    """One row a threshold on the named class's probability, 0-1: the images answered, and how many of those are right.

    `probabilities` is [N, C], `labels` [N]; `accuracy` is None where nothing is answered, else with Wilson's 95 %
    interval.
    """
    sure, right = probabilities.max(1), probabilities.argmax(1) == labels
    rows = []
    for threshold in THRESHOLDS:
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
