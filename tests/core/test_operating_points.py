"""Answering only when sure."""

from __future__ import annotations

import numpy as np
import pytest

from stages.core import operating_points
from stages.core.metrics import wilson


def test_each_threshold_by_hand() -> None:
    probabilities = np.array([[0.95, 0.05], [0.3, 0.7], [0.6, 0.4], [0.45, 0.55]])
    rows = {row["threshold"]: row for row in operating_points.table(probabilities, np.array([0, 1, 1, 0]))}
    assert (rows[0.0]["answered"], rows[0.0]["errors"], rows[0.0]["coverage"]) == (4, 2, 1.0)
    assert (rows[0.6]["answered"], rows[0.6]["errors"]) == (3, 1)
    assert rows[0.7]["accuracy"] == 1.0
    assert (rows[0.7]["accuracy_low"], rows[0.7]["accuracy_high"]) == wilson(2, 2)
    assert (rows[0.99]["answered"], rows[0.99]["accuracy"]) == (0, None)


def test_fewer_are_answered_as_it_rises() -> None:
    random = np.random.default_rng(0)
    probabilities = random.dirichlet([0.3] * 4, 500)
    coverage = [row["coverage"] for row in operating_points.table(probabilities, random.integers(0, 4, 500))]
    assert coverage == sorted(coverage, reverse=True)
    assert coverage[0] == 1.0
    assert operating_points.table(np.zeros((0, 4)), np.zeros(0, np.int64))[0]["coverage"] == pytest.approx(0.0)


def test_a_threshold_that_every_named_class_reaches_is_not_listed_twice() -> None:
    two = operating_points.table(np.array([[0.5, 0.5], [0.1, 0.9]]), np.array([0, 1]))
    assert [row["threshold"] for row in two][:2] == [0.0, 0.6]
    four = operating_points.table(np.full((3, 4), 0.25), np.array([0, 1, 2]))
    assert [row["threshold"] for row in four][:2] == [0.0, 0.5]


def test_between_two_classes_by_hand() -> None:
    probabilities = np.array([0.1, 0.3, 0.45, 0.35, 0.6, 0.95])
    labels = np.array([0, 0, 0, 1, 1, 1])
    rows = {row["threshold"]: row for row in operating_points.two_classes(probabilities, labels, 0.32)}
    assert list(rows) == sorted({*operating_points.BETWEEN, 0.32})
    assert (rows[0.32]["named"], rows[0.32]["found"], rows[0.32]["raised"]) == (4, 1.0, pytest.approx(1 / 3))
    assert (rows[0.32]["precision"], rows[0.32]["accuracy"]) == (0.75, pytest.approx(5 / 6))
    assert (rows[0.5]["found"], rows[0.5]["raised"], rows[0.5]["precision"]) == (pytest.approx(2 / 3), 0.0, 1.0)
    assert (rows[0.5]["found_low"], rows[0.5]["found_high"]) == wilson(2, 3)
    assert (rows[0.5]["raised_low"], rows[0.5]["raised_high"]) == wilson(0, 3)
    assert rows[0.05]["raised"] == 1.0
    none = operating_points.two_classes(np.array([0.2]), np.array([0]), 0.5)
    assert (none[5]["found"], none[5]["precision"]) == (None, None)


def test_the_threshold_that_parts_two_classes_best_is_chosen() -> None:
    """Class 1's probabilities lie above 0.25, class 0's below 0.2 but for one in ten."""
    ones, zeros = np.linspace(0.25, 0.9, 30), np.r_[np.linspace(0.01, 0.2, 27), 0.6, 0.7, 0.8]
    labels = np.r_[np.ones(30, np.int64), np.zeros(30, np.int64)]
    assert operating_points.choose(np.r_[ones, zeros], labels) == 0.25
    # Any from 0.21 to 0.79 parts these: the nearest to 0.5 is taken.
    assert operating_points.choose(np.array([0.2, 0.8]), np.array([0, 1])) == 0.5
    assert operating_points.choose(np.array([0.6, 0.8]), np.array([0, 1])) == 0.61
    assert operating_points.choose(np.array([0.2, 0.8]), np.array([1, 1])) == 0.5
    assert operating_points.choose(np.zeros(0), np.zeros(0, np.int64)) == 0.5


def test_the_choice_is_best_among_all_hundredths() -> None:
    random = np.random.default_rng(3)
    for _ in range(20):
        labels = random.integers(0, 2, 80)
        probabilities = np.clip(random.normal(0.3 + 0.2 * labels, 0.2), 0, 1)

        def gained(threshold: float, values: np.ndarray = probabilities, truth: np.ndarray = labels) -> float:
            called = values >= threshold
            return float(called[truth == 1].mean() - called[truth == 0].mean())

        chosen = operating_points.choose(probabilities, labels)
        assert gained(chosen) == pytest.approx(max(gained(step / 100) for step in range(1, 100)))
