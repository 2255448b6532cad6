"""Two models on the same images: known values, and intervals that hold what they promise."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from stages.core import comparison


def outcomes(both: int, only_this: int, only_other: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    this = np.repeat([True, True, False, False], [both, only_this, only_other, neither])
    other = np.repeat([True, False, True, False], [both, only_this, only_other, neither])
    return this, other


def test_newcombes_own_example() -> None:
    """36, 12, 2, 0 of 50 is in his table: method 10 gives 0.0569 to 0.3404."""
    found = comparison.paired(*outcomes(36, 12, 2, 0))
    assert found["gain"] == pytest.approx(0.2)
    assert (found["gain_low"], found["gain_high"]) == (pytest.approx(0.0569, abs=1e-4), pytest.approx(0.3404, abs=1e-4))
    assert found["p_value"] == pytest.approx(binomtest(2, 14).pvalue)
    assert (found["images"], found["only_this_right"], found["only_other_right"]) == (50, 12, 2)


def test_the_other_way_round_is_the_mirror_image() -> None:
    one, two = comparison.paired(*outcomes(80, 9, 4, 7)), comparison.paired(*outcomes(80, 4, 9, 7))
    assert (one["gain"], one["gain_low"], one["gain_high"]) == pytest.approx(
        (-two["gain"], -two["gain_high"], -two["gain_low"])
    )
    assert one["p_value"] == two["p_value"]


@pytest.mark.parametrize("counts", [(0, 0, 0, 0), (10, 0, 0, 0), (0, 0, 0, 10), (0, 10, 0, 0), (0, 0, 10, 0)])
def test_the_extremes_are_no_trouble(counts: tuple[int, int, int, int]) -> None:
    found = comparison.paired(*outcomes(*counts))
    assert -1 <= found["gain_low"] <= found["gain"] <= found["gain_high"] <= 1
    assert 0 <= found["p_value"] <= 1


@pytest.mark.parametrize(("images", "cells"), [(200, (0.9, 0.04, 0.02, 0.04)), (60, (0.7, 0.1, 0.1, 0.1))])
def test_the_interval_holds_the_truth_about_as_often_as_it_says(images: int, cells: tuple[float, ...]) -> None:
    random = np.random.default_rng(4)
    inside = 0
    for counts in random.multinomial(images, cells, size=1000).tolist():
        found = comparison.paired(*outcomes(*counts))
        inside += found["gain_low"] <= cells[1] - cells[2] <= found["gain_high"]
    assert 0.93 <= inside / 1000 <= 0.99


def test_a_million_images_are_no_trouble() -> None:
    found = comparison.paired(*outcomes(500_000, 40_000, 39_000, 421_000))
    assert found["gain_low"] < found["gain"] == 0.001 < found["gain_high"]


def test_a_gain_hidden_by_separate_intervals_is_seen() -> None:
    """93 % against 90 % of 500: their Wilson intervals overlap, yet the models disagree one way only."""
    from stages.core.metrics import wilson

    found = comparison.paired(*outcomes(450, 15, 0, 35))
    assert wilson(465, 500)[0] < wilson(450, 500)[1]
    assert found["gain_low"] > 0
