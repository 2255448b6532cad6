"""Probabilities that say what they mean, and what temperature scaling makes of those that do not."""

from __future__ import annotations

import numpy as np
import pytest

from stages.core import calibration
from stages.core.metrics import cross_entropy

RANDOM = np.random.default_rng(2)


def drawn(count: int, classes: int, sharper: float) -> tuple[np.ndarray, np.ndarray]:
    """Labels drawn from honest probabilities, and those with their logits multiplied by `sharper`."""
    logits = 2 * RANDOM.normal(size=(count, classes))
    honest = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = np.array([RANDOM.choice(classes, p=row) for row in honest])
    powers = honest**sharper
    return powers / powers.sum(1, keepdims=True), labels


@pytest.mark.parametrize("sharper", [0.5, 1.0, 3.0])
def test_the_temperature_that_made_them_wrong_is_found(sharper: float) -> None:
    probabilities, labels = drawn(4000, 4, sharper)
    fitted = calibration.temperature(probabilities, labels)
    assert fitted == pytest.approx(sharper, rel=0.08)
    mended = calibration.scaled(probabilities, fitted)
    before, after = (
        calibration.expected_error(calibration.reliability(values, labels)) for values in (probabilities, mended)
    )
    assert after < 0.025
    assert before > 0.05 or sharper == 1.0
    assert cross_entropy(mended, labels).mean() <= cross_entropy(probabilities, labels).mean() + 1e-9


def test_scaling_changes_no_label_and_one_is_no_change() -> None:
    probabilities, _ = drawn(300, 5, 1.0)
    for temperature in (0.05, 0.7, 4.0, 20.0):
        scaled = calibration.scaled(probabilities, temperature)
        assert (scaled.argmax(1) == probabilities.argmax(1)).all()
        assert scaled.sum(1) == pytest.approx(np.ones(300))
    assert calibration.scaled(probabilities, 1.0) == pytest.approx(probabilities, abs=1e-6)


def test_the_extremes_are_no_trouble() -> None:
    sure = np.eye(3)[[0, 1, 2, 2]]
    assert calibration.temperature(sure, np.array([0, 1, 2, 2])) == 1.0
    assert calibration.temperature(np.zeros((0, 3)), np.zeros(0, np.int64)) == 1.0
    assert np.isfinite(calibration.scaled(sure, calibration.COLDEST)).all()
    (row,) = calibration.reliability(sure, np.array([0, 1, 2, 0]))
    assert (row["images"], row["confidence"], row["accuracy"]) == (4, 1.0, 0.75)
    assert calibration.expected_error([row]) == 0.25
    assert calibration.expected_error([]) == 0.0


def test_bins_by_hand() -> None:
    """Two bins: 0.55 and 0.58 fall into (8/15, 9/15], 0.9 into (13/15, 14/15]."""
    probabilities = np.array([[0.55, 0.45], [0.58, 0.42], [0.1, 0.9]])
    first, second = calibration.reliability(probabilities, np.array([0, 1, 1]))
    assert (first["images"], first["confidence"], first["accuracy"]) == (2, pytest.approx(0.565), 0.5)
    assert (second["images"], second["confidence"], second["accuracy"]) == (1, pytest.approx(0.9), 1.0)
    assert calibration.expected_error([first, second]) == pytest.approx((2 * 0.065 + 0.1) / 3)
    assert first["accuracy_low"] < 0.5 < first["accuracy_high"]
