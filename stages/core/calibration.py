"""Whether probabilities mean what they say: how often a class named with 90 % is the right one.

Temperature scaling (Guo et al., "On Calibration of Modern Neural Networks", ICML 2017) divides the logits by one number
that is fitted on validation images. It changes no label, only how sure each is.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from stages.core.metrics import cross_entropy, wilson

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
BINS = 15  # of equal width, as in that article
COLDEST, HOTTEST = 0.05, 20.0  # temperatures looked among
SMALLEST = 1e-37  # what is 0 counts as: the least that a softmax in float32 gives before it gives 0


def scaled(probabilities: Floats, temperature: float) -> Floats:
    """Float [N, C] as if the logits had been divided by `temperature`."""
    # A logit is the logarithm of its probability but for a constant, which cancels.
    powers = np.log(np.clip(probabilities, SMALLEST, 1.0)) / temperature
    raised = np.exp(powers - powers.max(1, keepdims=True))
    found: Floats = raised / raised.sum(1, keepdims=True)
    return found


def temperature(probabilities: Floats, labels: Ints) -> float:
    """The temperature under which `labels` int [N] have the least cross-entropy.

    Above 1 the probabilities were too sure. 1 where every image is right, or there is none: then the lower the
    temperature the better, without end.
    """
    from scipy.optimize import minimize_scalar

    if (probabilities.argmax(1) == labels).all():
        return 1.0

    def loss(exponent: float) -> float:
        return float(cross_entropy(scaled(probabilities, float(np.exp(exponent))), labels).mean())

    found = minimize_scalar(loss, bounds=(np.log(COLDEST), np.log(HOTTEST)), method="bounded")
    return round(float(np.exp(found.x)), 4)


def reliability(probabilities: Floats, labels: Ints) -> list[dict[str, Any]]:
    """One row for each of BINS of the named class's probability that has images, from the least sure on.

    `confidence` is the mean of those probabilities, `accuracy` the share that was right, with Wilson's 95 % interval.
    """
    sure, right = probabilities.max(1), probabilities.argmax(1) == labels
    number_of = np.clip(np.ceil(sure * BINS).astype(int) - 1, 0, BINS - 1)  # a bin holds its upper edge
    rows = []
    for number in np.unique(number_of):
        inside = number_of == number
        low, high = wilson(int(right[inside].sum()), int(inside.sum()))
        rows.append(
            {
                "images": int(inside.sum()),
                "confidence": float(sure[inside].mean()),
                "accuracy": float(right[inside].mean()),
                "accuracy_low": low,
                "accuracy_high": high,
            }
        )
    return rows


def expected_error(rows: list[dict[str, Any]]) -> float:
    """The expected calibration error (ECE) of `reliability`'s rows: the mean gap, weighted by images."""
    total = sum(row["images"] for row in rows)
    return float(sum(row["images"] * abs(row["accuracy"] - row["confidence"]) for row in rows) / max(total, 1))
