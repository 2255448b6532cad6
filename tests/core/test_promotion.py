"""Equal models are promoted as seldom as promised, better ones as often, and harm done to a part is noticed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binom

from benchmarks import promotion as simulated
from stages.core import promotion
from stages.core.calibration import expected_error, reliability
from stages.core.promotion import Terms

TERMS = Terms(resamples=200)


def probabilities(named: list[int], sure: float = 0.9, classes: int = 3) -> np.ndarray:
    found = np.full((len(named), classes), (1 - sure) / (classes - 1))
    found[np.arange(len(named)), named] = sure
    return found


@pytest.mark.parametrize("images", [60, 256, 1000, 2000])
def test_equal_models_pass_in_less_than_one_of_twenty_whatever_they_disagree_on(images: int) -> None:
    """No simulation: every outcome with its probability, over how often the models disagree."""
    most = 0
    for differing_share in (0.005, 0.01, 0.02, 0.03, 0.05, 0.08, 0.1, 0.15, 0.2, 0.3):
        passed = 0.0
        upper = int(binom.ppf(1 - 1e-9, images, differing_share))
        for differing in range(upper + 1):
            won = np.arange(differing + 1)
            passing = np.array([promotion.mid_p(int(one), differing - int(one)) <= 0.05 for one in won])
            share = binom.pmf(differing, images, differing_share)
            passed += share * binom.pmf(won, differing, 0.5)[passing].sum()
        most = max(most, passed)
        assert passed <= 0.05, differing_share
    # And it is no test that never passes.
    assert most > 0.04


def test_mid_p_counts_half_of_what_is_just_as_uneven() -> None:
    assert promotion.mid_p(5, 0) == pytest.approx(0.5**5 / 2)
    assert promotion.mid_p(4, 1) == pytest.approx(0.5**5 + 5 * 0.5**5 / 2)
    assert promotion.mid_p(0, 0) == pytest.approx(0.5)
    assert promotion.mid_p(3, 3) == pytest.approx(0.5)


def test_holm_by_hand() -> None:
    assert promotion.holm(np.array([0.03, 0.01, 0.04])).tolist() == pytest.approx([0.06, 0.03, 0.06])
    assert promotion.holm(np.array([0.5, 0.9])).tolist() == [1.0, 1.0]


def test_simulated_rates_with_all_rules() -> None:
    """The promises, in few draws; `python -m benchmarks.promotion` has many. Bounds are the promises' own."""
    (equal,) = (one for one in simulated.SCENARIOS if (one.name, one.images, one.accuracy) == ("equal", 2000, 0.9))
    found = simulated.rates(equal, 1000, seed=11, all_rules=False)
    assert 0.07 < found.disagreed < 0.11
    # 5 % of 1,000 are 50; more than 67 would come once in a hundred where the promise just holds.
    assert 0 < found.promoted <= binom.ppf(0.99, 1000, 0.05)
    gain = next(one for one in simulated.SCENARIOS if (one.images, one.gain, one.harm) == (2000, 0.02, 0.0))
    assert simulated.rates(gain, 100, seed=12, all_rules=True).promoted >= 0.8 * 100
    harmed = replace(gain, harm=0.15)
    assert simulated.rates(harmed, 30, seed=13, all_rules=True).promoted <= 2
    too_sure = replace(gain, sharpened=1.5)
    assert simulated.rates(too_sure, 30, seed=14, all_rules=True).promoted <= 2


def test_among_forty_overlapping_slices_none_is_called_worse_where_none_is() -> None:
    """With no margin at all, so that the correction alone must hold: 5 % of the tests, not of the slices."""
    scenario = simulated.Scenario("equal", 1000, 0.85)
    random, refused, slices = np.random.default_rng(15), 0, 0
    for _ in range(200):
        one = simulated.draw(scenario, random)
        new, old = (model.argmax(1) == one.labels for model in (one.challenger, one.champion))
        rows = promotion.slice_rows(new, old, one.kinds, replace(TERMS, slice_margin=0.0))
        refused += not promotion.no_slice_worse(rows, TERMS)["passed"]
        slices = max(slices, len(rows))
        assert all(row["gain_low"] <= row["gain"] <= row["gain_high"] for row in rows)
    assert slices >= 30
    assert refused <= binom.ppf(0.99, 200, 0.05)


def test_a_slice_that_lost_is_named_and_a_small_one_is_not_judged() -> None:
    random = np.random.default_rng(1)
    kinds = {"brightness": ["dark"] * 100 + ["bright"] * 900, "odd": ["few"] * 29 + ["many"] * 971}
    old = random.random(1000) < 0.9
    new = old.copy()
    new[:20] = False
    new[100:] = True  # better by far as a whole
    rows = promotion.slice_rows(new, old, kinds, TERMS)
    assert [(row["kind"], row["slice"]) for row in rows] == [
        ("brightness", "bright"),
        ("brightness", "dark"),
        ("odd", "many"),
    ]
    rule = promotion.no_slice_worse(rows, TERMS)
    assert (rule["passed"], rule["worse"]) == (False, 1)
    assert "brightness dark: -" in rule["said"]
    assert promotion.better(new, old, TERMS)["passed"]
    # The same loss within the margin is none to refuse for, nor one that chance explains.
    assert promotion.no_slice_worse(promotion.slice_rows(new, old, kinds, replace(TERMS, slice_margin=0.3)), TERMS)[
        "passed"
    ]
    new[:20] = old[:20]
    new[0] = not new[0]
    assert promotion.no_slice_worse(promotion.slice_rows(new, old, kinds, TERMS), TERMS)["passed"]


def test_the_calibration_rule_measures_what_the_report_shows_and_wants_proof() -> None:
    one = simulated.draw(simulated.Scenario("", 2000, 0.9), np.random.default_rng(2))
    gaps = promotion._gaps(one.champion, one.labels)
    error = expected_error(reliability(one.champion, one.labels))
    assert np.abs(gaps.sum(0)).sum() / 2000 == pytest.approx(error)
    rule = promotion.calibration_not_worse(one.champion, one.challenger, one.labels, TERMS)
    assert rule["champion_error"] == pytest.approx(error)
    assert rule["growth_low"] < rule["growth"] < rule["growth_high"]
    assert rule == promotion.calibration_not_worse(one.champion, one.challenger, one.labels, TERMS)
    # The same model: nothing grew in any draw.
    same = promotion.calibration_not_worse(one.champion, one.champion, one.labels, TERMS)
    assert (same["growth_low"], same["growth_high"], same["passed"]) == (0.0, 0.0, True)
    # With 60 images two equally calibrated models cannot be told apart so finely.
    few = simulated.draw(simulated.Scenario("", 60, 0.8), np.random.default_rng(3))
    assert not promotion.calibration_not_worse(few.champion, few.challenger, few.labels, TERMS)["passed"]


def test_the_first_model_must_beat_the_commonest_class() -> None:
    labels = np.array([0] * 120 + [1] * 80 + [2] * 40)
    good = promotion.first(probabilities(labels.tolist()), labels, 0, TERMS)
    assert good["promote"]
    assert good["rules"][0]["baseline_accuracy"] == 0.5
    lazy = promotion.first(probabilities([0] * 240), labels, 0, TERMS)
    assert (lazy["promote"], lazy["rules"][0]["name"]) == (False, "first-model")


def test_a_decision_names_each_rule_once() -> None:
    one = simulated.draw(simulated.Scenario("", 800, 0.9, 0.05), np.random.default_rng(4))
    found = promotion.decide(one.champion, one.challenger, one.labels, one.kinds, TERMS)
    assert [rule["name"] for rule in found["rules"]] == ["better", "no-slice-worse", "calibration-not-worse"]
    assert found["promote"] is all(rule["passed"] for rule in found["rules"])
    assert found["rules"][0]["gain"] == pytest.approx(
        found["rules"][0]["accuracy"] - found["rules"][0]["champion_accuracy"]
    )
