"""Figures against scikit-learn, and intervals against what they promise."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn import metrics as reference

from stages.core import metrics

CLASSES = ["a", "b", "c"]


@pytest.fixture
def predictions() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 400)
    scores = random.random((400, 3)) + 0.8 * np.eye(3)[labels]
    scores[::7] = np.round(scores[::7], 1)  # ties
    return scores / scores.sum(1, keepdims=True), labels


def test_point_figures_are_the_references(predictions: tuple[np.ndarray, np.ndarray]) -> None:
    probabilities, labels = predictions
    result = metrics.evaluate(probabilities, labels, CLASSES, resamples=50, seed=1)
    chosen = probabilities.argmax(1)
    assert result["accuracy"] == pytest.approx(reference.accuracy_score(labels, chosen))
    assert result["balanced_accuracy"] == pytest.approx(reference.balanced_accuracy_score(labels, chosen))
    assert result["macro_f1"] == pytest.approx(reference.f1_score(labels, chosen, average="macro"))
    assert result["loss"] == pytest.approx(reference.log_loss(labels, probabilities))
    assert result["roc_auc"] == pytest.approx(reference.roc_auc_score(labels, probabilities, multi_class="ovr"))
    assert result["per_class"]["b"]["recall"] == pytest.approx(reference.recall_score(labels, chosen, average=None)[1])
    assert result["confusion"] == reference.confusion_matrix(labels, chosen).tolist()
    for name in ("accuracy", "balanced_accuracy", "macro_f1", "loss", "roc_auc"):
        assert result[f"{name}_low"] < result[name] < result[f"{name}_high"]


def test_a_missing_class_and_a_perfect_model_are_no_trouble() -> None:
    labels = np.array([0, 0, 1, 1])
    result = metrics.evaluate(np.eye(3)[labels], labels, CLASSES, resamples=20, seed=1)
    assert (result["accuracy"], result["balanced_accuracy"], result["roc_auc"]) == (1.0, 1.0, 1.0)
    assert result["per_class"]["c"] == {"images": 0, "precision": 0.0, "recall": 0.0, "f1": 0.0}
    assert result["accuracy_low"] < 1.0


def test_of_one_class_there_is_no_curve_and_nothing_that_json_cannot_hold() -> None:
    labels = np.zeros(5, np.int64)
    result = metrics.evaluate(np.full((5, 2), 0.5), labels, ["a", "b"], resamples=20, seed=1)
    assert not {name for name in result if name.startswith("roc_auc")}
    json.dumps(result, allow_nan=False)
    assert result["accuracy"] == 1.0


def test_wilson_known_value_and_bounds() -> None:
    assert metrics.wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert metrics.wilson(0, 0) == (0.0, 1.0)
    assert metrics.wilson(5, 5)[1] == 1.0


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    random = np.random.default_rng(3)
    inside = 0
    for trial in range(200):
        labels = random.integers(0, 2, 150)
        right = random.random(150) < 0.85
        chosen = np.where(right, labels, 1 - labels)
        probabilities = np.eye(2)[chosen] * 0.8 + 0.1
        low, high = metrics.bootstrap(probabilities, labels, 200, trial)["balanced_accuracy"]
        inside += low <= 0.85 <= high
    assert 0.89 <= inside / 200 <= 0.99


def test_the_bootstrap_is_seeded_and_does_not_depend_on_its_chunks(
    predictions: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert metrics.bootstrap(*predictions, 100, 1) == metrics.bootstrap(*predictions, 100, 1)
    assert metrics.bootstrap(*predictions, 100, 1) != metrics.bootstrap(*predictions, 100, 2)
    whole = metrics.bootstrap(*predictions, 100, 1)
    monkeypatch.setattr(metrics, "CHUNK", 7 * len(predictions[1]))
    assert metrics.bootstrap(*predictions, 100, 1) == whole


def test_resampled_figures_are_the_references(predictions: tuple[np.ndarray, np.ndarray]) -> None:
    """One resample is a weighting of the images, which scikit-learn can score too."""
    probabilities, labels = predictions
    chosen = probabilities.argmax(1)
    weights = np.random.default_rng(5).multinomial(len(labels), np.full(len(labels), 1 / len(labels)))
    figures = metrics.weighted(probabilities, labels, weights[None].astype(float))
    expected = {
        "balanced_accuracy": reference.recall_score(labels, chosen, average="macro", sample_weight=weights),
        "macro_f1": reference.f1_score(labels, chosen, average="macro", sample_weight=weights),
        "loss": reference.log_loss(labels, probabilities, sample_weight=weights),
        "roc_auc": np.mean(
            [reference.roc_auc_score(labels == n, probabilities[:, n], sample_weight=weights) for n in range(3)]
        ),
    }
    assert {name: values[0] for name, values in figures.items()} == pytest.approx(expected)


def test_majority_class_answers_the_commonest_training_class() -> None:
    result = metrics.majority_class(np.array([2, 2, 0]), np.array([2, 0, 1, 2]), 3)
    assert result["accuracy"] == 0.5
    assert result["balanced_accuracy"] == pytest.approx(1 / 3)
    assert metrics.majority_class(np.array([2]), np.array([0, 1]), 3)["balanced_accuracy"] == 0.0


def test_the_headline_is_scalars_only(predictions: tuple[np.ndarray, np.ndarray]) -> None:
    result = metrics.evaluate(*predictions, CLASSES, 20, 1)
    both = {"val": result, "test": result}
    compared = {"frozen_features": {"gain": 0.1, "gain_low": 0.0, "gain_high": 0.2, "p_value": 0.3}}
    others = {"compared": compared, "calibration": {"temperature": 1.2, "before": {"error": 0.05, "bins": []}}}
    short = metrics.headline({**both, "baselines": {"frozen_features": both}, **others})
    assert short["test"]["accuracy"] == result["accuracy"]
    assert short["test"]["calibration_error"] == 0.05
    assert short["gain_over"] == {"frozen_features": {"gain": 0.1, "gain_low": 0.0, "gain_high": 0.2}}
    assert short["baselines"] == {"frozen_features": {split: {"accuracy": result["accuracy"]} for split in both}}
    assert all(isinstance(value, float) for split in both for value in short[split].values())
