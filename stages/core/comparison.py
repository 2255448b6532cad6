"""Two models on the same images: which is better, and how surely.

Their accuracies move together, as both find the same images easy; intervals that each has by itself hide a gain that
the images they disagree on show.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from stages.core.metrics import wilson

Bools = npt.NDArray[np.bool_]


def paired(this: Bools, other: Bools) -> dict[str, Any]:
    """The gain in accuracy of `this` over `other`, each bool [N]: whether it was right on image i.

    `low` and `high` bound a 95 % interval: Newcombe's for paired shares (method 10 of "Improved confidence intervals
    for the difference between binomial proportions based on paired data", Statistics in Medicine 17, 1998). `p_value`
    is McNemar's exact one, two-sided: how often two equally good models would disagree at least as unevenly.
    """
    from scipy.stats import binomtest

    images = len(this)
    both, neither = int((this & other).sum()), int((~this & ~other).sum())
    only_this, only_other = int((this & ~other).sum()), int((~this & other).sum())
    differing = only_this + only_other
    low, high = _newcombe(both, only_this, only_other, neither)
    return {
        "images": images,
        "only_this_right": only_this,
        "only_other_right": only_other,
        "gain": (only_this - only_other) / max(images, 1),
        "gain_low": low,
        "gain_high": high,
        "p_value": float(binomtest(only_this, differing).pvalue) if differing else 1.0,
    }


def _newcombe(both: int, only_this: int, only_other: int, neither: int) -> tuple[float, float]:
    images = both + only_this + only_other + neither
    if not images:
        return -1.0, 1.0
    first, second = (both + only_this) / images, (both + only_other) / images
    (low_1, high_1), (low_2, high_2) = wilson(both + only_this, images), wilson(both + only_other, images)
    margins = (both + only_this) * (only_other + neither) * (both + only_other) * (only_this + neither)
    agreement: float = both * neither - only_this * only_other
    if agreement > 0:
        agreement = max(agreement - images / 2, 0)  # his correction for continuity
    correlation = agreement / math.sqrt(margins) if margins else 0.0

    def spread(one: float, another: float) -> float:
        return float(np.sqrt(max(0.0, one**2 - 2 * correlation * one * another + another**2)))

    gain = first - second
    below, above = spread(first - low_1, high_2 - second), spread(high_1 - first, second - low_2)
    return max(-1.0, gain - below), min(1.0, gain + above)
