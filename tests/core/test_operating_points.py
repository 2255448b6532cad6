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
