"""Everything that is said of a model, from its probabilities: what details.json holds.

What is chosen, the temperature and for two classes the threshold, is chosen on the validation images. Test images are
counted, never fitted to: whatever their labels, the choices are the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from stages.core import calibration, comparison, label_errors, metrics, operating_points, slices
from stages.core.predictions import HeldOut

Floats = npt.NDArray[np.float64]


def results(
    rows: HeldOut,
    probabilities: Floats,
    compared: Mapping[str, Floats],
    train_labels: npt.NDArray[np.int64] | None,
    classes: Sequence[str],
    facts: Sequence[Mapping[str, Any]],
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """The content of details.json.

    `probabilities` float [N, C] are this model's of the images in `rows`, `compared` the other models' by name. The
    commonest of `train_labels` is a baseline, too; None leaves it out. `facts` are those of the test images in their
    order, as `slices.kinds` takes them. `resamples` and `seed` are the bootstrap's.
    """
    val, tested = rows.splits == "val", rows.splits == "test"
    both = {"val": val, "test": tested}

    def scores(values: Floats) -> dict[str, Any]:
        return {
            split: metrics.evaluate(values[chosen], rows.labels[chosen], classes, resamples, seed)
            for split, chosen in both.items()
        }

    right = probabilities.argmax(1) == rows.labels
    shown, labels = probabilities[tested], rows.labels[tested]
    fitted = calibration.temperature(probabilities[val], rows.labels[val])
    curves = {
        "before": calibration.reliability(shown, labels),
        "after": calibration.reliability(calibration.scaled(shown, fitted), labels),
    }
    kinds = slices.kinds(facts)
    found: dict[str, Any] = scores(probabilities)
    found["baselines"] = {}
    if train_labels is not None:
        found["baselines"]["majority_class"] = {
            split: metrics.majority_class(train_labels, rows.labels[held], len(classes)) for split, held in both.items()
        }
    found["baselines"] |= {name: scores(values) for name, values in compared.items()}
    found["compared"] = {
        name: comparison.paired(right[tested], (values.argmax(1) == rows.labels)[tested])
        for name, values in compared.items()
    }
    found["calibration"] = {"temperature": fitted} | {
        name: {"error": calibration.expected_error(curve), "bins": curve} for name, curve in curves.items()
    }
    found["thresholds"] = operating_points.table(shown, labels)
    if len(classes) == 2:
        threshold = operating_points.choose(probabilities[val, 1], rows.labels[val])
        found["two_classes"] = {
            "class": classes[1],
            "other": classes[0],
            "chosen": threshold,
            "rows": operating_points.two_classes(shown[:, 1], labels, threshold),
        }
    found["slices"] = slices.table(right[tested], kinds)
    found["slices_left_out"] = slices.left_out(kinds)
    found["doubtful_labels"] = [
        {"name": rows.names[at], "label": classes[rows.labels[at]], "looks_like": classes[other]}
        for at, other in suspects(rows, probabilities)
    ]
    return found


def suspects(rows: HeldOut, probabilities: Floats) -> list[tuple[int, int]]:
    """(image, the class it counts as) of doubtful labels, the surest first; judged by the validation images' means."""
    val = rows.splits == "val"
    needed = label_errors.own_means(probabilities[val], rows.labels[val])
    return label_errors.suspects(probabilities, rows.labels, needed)
