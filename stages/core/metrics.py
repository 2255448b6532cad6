"""How good predictions are, with intervals: plain numbers from probabilities and labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn import metrics as reference

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Z = 1.959963984540054  # two-sided 95 % of the normal distribution
CHUNK = 500_000  # weights held at once; a dozen arrays of that many numbers are made of them


def evaluate(probabilities: Floats, labels: Ints, classes: Sequence[str], resamples: int, seed: int) -> dict[str, Any]:
    """Everything about one model on one split.

    `probabilities` is float [N, C], rows summing to 1; `labels` int [N] indexes `classes`. Numbers are
    plain floats; one that cannot be told is absent. `_low` and `_high` bound a 95 % interval: Wilson's for
    accuracy, a percentile bootstrap over images for the rest.
    """
    predicted = probabilities.argmax(1)
    numbers = np.arange(len(classes))
    precision, recall, f1, count = reference.precision_recall_fscore_support(
        labels, predicted, labels=numbers, zero_division=0.0
    )
    result: dict[str, Any] = {
        "images": len(labels),
        "accuracy": float((predicted == labels).mean()),
        "balanced_accuracy": float(recall[count > 0].mean()),
        "macro_f1": float(f1.mean()),
        "loss": float(cross_entropy(probabilities, labels).mean()),
        "roc_auc": roc_auc(probabilities, labels),
    }
    result["accuracy_low"], result["accuracy_high"] = wilson(int((predicted == labels).sum()), len(labels))
    for name, interval in bootstrap(probabilities, labels, resamples, seed).items():
        result[f"{name}_low"], result[f"{name}_high"] = interval
    result["per_class"] = {
        label: {
            "images": int(count[number]),
            "precision": float(precision[number]),
            "recall": float(recall[number]),
            "f1": float(f1[number]),
        }
        for number, label in enumerate(classes)
    }
    result["confusion"] = reference.confusion_matrix(labels, predicted, labels=numbers).tolist()
    # Of one class alone there is no ROC curve.
    return {name: value for name, value in result.items() if not (isinstance(value, float) and np.isnan(value))}


def cross_entropy(probabilities: Floats, labels: Ints) -> Floats:
    """Natural-log loss of each image, float [N]; probabilities are kept 1e-7 off 0 as Keras does."""
    return -np.log(np.clip(probabilities[np.arange(len(labels)), labels], 1e-7, 1.0))


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """Wilson's 95 % score interval for a share (E. B. Wilson, JASA 22, 1927); (0, 1) for no trials."""
    if trials == 0:
        return 0.0, 1.0
    share = successes / trials
    centre = share + Z**2 / (2 * trials)
    spread = Z * np.sqrt(share * (1 - share) / trials + Z**2 / (4 * trials**2))
    scale = 1 + Z**2 / trials
    return float(max(0.0, (centre - spread) / scale)), float(min(1.0, (centre + spread) / scale))


def roc_auc(probabilities: Floats, labels: Ints) -> float:
    """Area under the ROC curve, each class against the rest, averaged over classes that occur."""
    weights = np.ones((1, len(labels)))
    return float(_weighted_auc(probabilities, labels, weights)[0])


def bootstrap(probabilities: Floats, labels: Ints, resamples: int, seed: int) -> dict[str, tuple[float, float]]:
    """95 % percentile intervals from resampling images with replacement, `resamples` times."""
    random = np.random.default_rng(seed)
    draws: dict[str, list[Floats]] = {}
    chunk = max(1, min(resamples, CHUNK // max(len(labels), 1)))
    for start in range(0, resamples, chunk):
        count = min(chunk, resamples - start)
        weights = random.multinomial(len(labels), np.full(len(labels), 1 / len(labels)), size=count)
        for name, values in weighted(probabilities, labels, weights.astype(np.float64)).items():
            draws.setdefault(name, []).append(values)
    whole = {name: np.concatenate(parts) for name, parts in draws.items()}
    bounds = {name: np.nanpercentile(all_, [2.5, 97.5]) for name, all_ in whole.items() if not np.isnan(all_).all()}
    return {name: (float(low), float(high)) for name, (low, high) in bounds.items()}


def weighted(probabilities: Floats, labels: Ints, weights: Floats) -> dict[str, Floats]:
    """Each figure, float [R], with the images weighted by each row of `weights` [R, N]."""
    predicted = probabilities.argmax(1)
    classes = probabilities.shape[1]
    hits = _per_class(weights * (predicted == labels), labels, classes)
    actual, claimed = _per_class(weights, labels, classes), _per_class(weights, predicted, classes)
    with np.errstate(invalid="ignore", divide="ignore"):
        recall = np.where(actual > 0, hits / actual, np.nan)
        f1 = np.nan_to_num(2 * hits / (actual + claimed))
    return {
        "balanced_accuracy": np.nanmean(recall, axis=1),
        "macro_f1": f1.mean(1),
        "loss": weights @ cross_entropy(probabilities, labels) / weights.sum(1),
        "roc_auc": _weighted_auc(probabilities, labels, weights),
    }


def _per_class(weights: Floats, numbers: Ints, classes: int) -> Floats:
    """Weight per class, [R, C], of images [N] of class `numbers` weighted [R, N]."""
    return weights @ np.eye(classes)[numbers]


def _weighted_auc(probabilities: Floats, labels: Ints, weights: Floats) -> Floats:
    """AUC of weighted images, float [R] for weights [R, N]: the chance that a positive outranks a negative."""
    areas = np.full((len(weights), probabilities.shape[1]), np.nan)
    for number in np.unique(labels):
        scores = probabilities[:, number]
        order = np.argsort(scores, kind="stable")
        starts = np.flatnonzero(np.r_[True, np.diff(scores[order]) > 0])  # images of equal score share a step
        positive = np.add.reduceat(weights[:, order] * (labels[order] == number), starts, axis=1)
        negative = np.add.reduceat(weights[:, order] * (labels[order] != number), starts, axis=1)
        below = np.cumsum(negative, axis=1) - negative / 2
        pairs = positive.sum(1) * negative.sum(1)
        with np.errstate(invalid="ignore", divide="ignore"):
            areas[:, number] = (positive * below).sum(1) / pairs
    known = ~np.isnan(areas)
    return np.where(known.any(1), np.nansum(areas, axis=1) / np.maximum(known.sum(1), 1), np.nan)


def majority_class(train_labels: Ints, labels: Ints, classes: int) -> dict[str, Any]:
    """The baseline that always answers the commonest training class."""
    common = int(np.bincount(train_labels, minlength=classes).argmax())
    right = int((labels == common).sum())
    low, high = wilson(right, len(labels))
    present = len(np.unique(labels))
    return {
        "accuracy": right / max(len(labels), 1),
        "accuracy_low": low,
        "accuracy_high": high,
        "balanced_accuracy": 1 / present if right else 0.0,
    }


def headline(result: Mapping[str, Any]) -> dict[str, Any]:
    """What `dvc metrics show` fits in a terminal: the test's figures and interval, accuracy for the rest."""
    figures = ("accuracy", "accuracy_low", "accuracy_high", "balanced_accuracy", "macro_f1", "loss", "roc_auc")
    return {
        "val": {name: result["val"][name] for name in ("accuracy", "loss")},
        "test": {name: result["test"][name] for name in figures if name in result["test"]}
        | {"calibration_error": result["calibration"]["before"]["error"]},
        "gain_over": {
            baseline: {name: compared[name] for name in ("gain", "gain_low", "gain_high")}
            for baseline, compared in result["compared"].items()
        },
        "baselines": {
            baseline: {split: {"accuracy": values["accuracy"]} for split, values in both.items()}
            for baseline, both in result["baselines"].items()
        },
    }
