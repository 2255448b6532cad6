"""Drift: found where it is, silent where it is not, and a false-alarm rate that is kept."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

import numpy as np
import pytest
from scipy.stats import binom, chi2_contingency, ks_2samp

from stages.core import drift, profile
from stages.core.facts import Facts
from stages.core.measurement import Measurement

RATE = 0.01


def photographs(seed: int, count: int, **change: Any) -> list[Facts]:
    """Images like photographs, all figures drawn. `change` may scale (`light`), add (`cast`) or set figures."""
    generator = np.random.default_rng(seed)
    light, cast = change.pop("light", 1.0), change.pop("cast", 0.0)
    cats, pngs = change.pop("cats", 0.5), change.pop("pngs", 0.02)
    facts = []
    for number in range(count):
        tones = generator.normal(size=12)
        brightness = float(np.clip(0.45 + 0.1 * tones[0], 0, 1))
        layout = 100 * tones + 1000 * (light - 1)
        layout[6] -= 1000 * cast
        figures = {
            "size_bytes": int(generator.lognormal(10, 0.5)),
            "format": "PNG" if generator.random() < pngs else "JPEG",
            "width": int(generator.choice([375, 499, 500])),
            "height": int(generator.integers(200, 400)),
            "mode": "RGB",
            "brightness": brightness * light,
            "contrast": float(generator.uniform(0.1, 0.3)) * light,
            "entropy": float(generator.normal(7, 0.5)),
            "sharpness": float(generator.gamma(2, 0.1)),
            "saturation": float(generator.beta(2, 5)),
            "warmth": float(0.05 * tones[6] + generator.normal(0, 0.02)) + cast,
            "layout": tuple(int(tone) for tone in np.rint(layout)),
        } | change  # fmt: skip
        label = "cat" if generator.random() < cats else "dog"
        image_id = hashlib.sha256(f"{seed} {number}".encode()).hexdigest()
        facts.append(Facts(f"{seed}/{number}.jpg", label, None, image_id, Measurement(**figures)))
    return facts


def profiled(facts: list[Facts]) -> dict[str, Any]:
    return profile.profile(facts, [fact.image_id for fact in facts], [None] * len(facts))


def compared(
    before: list[Facts], after: list[Facts], rate: float = RATE, effect: float = 0.0
) -> dict[str, drift.Drift]:
    found = drift.compare(profiled(before), profiled(after), false_alarm_rate=rate, min_effect=effect)
    return {entry.quantity: entry for entry in found}


def drifted(found: dict[str, drift.Drift]) -> set[str]:
    return {name for name, entry in found.items() if entry.drifted}


OLD = photographs(1, 800)


def test_the_same_data_have_not_drifted() -> None:
    found = compared(OLD, OLD)
    assert len(found) == drift.QUANTITIES
    assert all(
        (entry.test, entry.p_value, entry.adjusted, entry.effect) == ("none", 1, 1, 0) for entry in found.values()
    )
    assert "same images" in found["look"].detail


def test_other_images_of_the_same_kind_have_not_drifted() -> None:
    found = compared(OLD, photographs(2, 800))
    assert not drifted(found)
    assert all(entry.test != "none" for entry in found.values())


@pytest.mark.parametrize(
    ("change", "quantities"),
    [
        ({"light": 0.8}, {"brightness", "contrast", "look"}),
        ({"cats": 0.7}, {"class mix"}),
        ({"pngs": 0.4}, {"format"}),
        ({"cast": 0.06}, {"warmth", "look"}),
        ({"mode": "L"}, {"colour mode"}),
    ],
)
def test_what_has_changed_is_found_and_nothing_else(change: dict[str, Any], quantities: set[str]) -> None:
    assert drifted(compared(OLD, photographs(3, 800, **change))) == quantities


def test_words_for_people() -> None:
    found = compared(OLD, photographs(3, 800, pngs=0.4, mode="L"))
    assert found["colour mode"].accepted == "RGB 100 %, L 0 %"
    assert found["colour mode"].current == "RGB 0 %, L 100 %"
    assert found["format"].detail == (
        "No image is in both samples: 500 now, against 500 accepted ones. "
        "All images: JPEG 97.5 % -> 59.9 %, PNG 2.5 % -> 40.1 %"
    )
    assert found["shorter side"].accepted == "median 301 pixels, 5 %-95 % 209 to 386"
    grown = compared(OLD, OLD + photographs(3, 100, light=0.7))
    assert grown["brightness"].current.startswith("new images: median 0.3")
    assert "new images of 500 in the sample, against 500 accepted ones" in grown["brightness"].detail


def test_a_tenth_of_new_images_that_are_darker_is_found() -> None:
    """The power that comes from testing arrivals: the two whole samples differ by less than chance."""
    rounds = 10
    hits = 0
    for number in range(rounds):
        old, new = photographs(100 + number, 2700), photographs(200 + number, 300, light=0.7)
        hits += "brightness" in drifted(compared(old, old + new, effect=0.1))
        whole = [profiled(side)["sample"]["brightness"] for side in (old, old + new)]
        assert ks_2samp(*whole, method="asymp").pvalue > RATE
    assert hits >= rounds - 1


def test_a_removal_that_is_not_random_is_found() -> None:
    kept = [fact for fact in OLD if fact.label == "cat" or int(fact.image_id[:2], 16) < 64]
    found = compared(OLD, kept)
    assert "class mix" in drifted(found)
    assert found["class mix"].accepted.startswith("removed images: ")
    assert found["class mix"].current.startswith("kept images: ")
    by_chance = [fact for fact in OLD if int(fact.image_id[-2:], 16) < 128]
    assert not drifted(compared(OLD, by_chance))


def test_a_large_set_replaced_by_a_small_one_is_compared() -> None:
    found = compared(photographs(1, 6000), photographs(5, 60, light=0.6))
    assert "brightness" in drifted(found)


def test_labels_that_changed_are_new_images_to_the_class_mix_alone() -> None:
    old = OLD[:300]
    swapped = [dataclasses.replace(fact, label="dog") if at < 60 else fact for at, fact in enumerate(old)]
    found = compared(old, swapped)
    assert drifted(found) == {"class mix"}
    assert found["brightness"].test == "none"


def test_a_small_effect_may_be_declared_not_to_matter() -> None:
    new = photographs(3, 800, cats=0.7)
    entry = compared(OLD, new)["class mix"]
    assert not compared(OLD, new, effect=entry.effect + 0.01)["class mix"].drifted
    assert compared(OLD, new, effect=entry.effect)["class mix"].drifted


def test_constant_columns_and_few_distinct_values_neither_fail_nor_alarm() -> None:
    same = {
        "size_bytes": 300, "width": 8, "height": 8, "mode": "L", "brightness": 0.5, "contrast": 0.0, "entropy": 0.0,
        "saturation": 0.0, "warmth": 0.0, "layout": (1,) * 12, "format": "PNG",
    }  # fmt: skip
    found = compared(photographs(1, 100, **same), photographs(2, 100, **same))
    assert not drifted(found)
    assert found["brightness"].p_value == found["look"].p_value == found["format"].p_value == 1
    # Too small to compare: no sharpness at all.
    assert found["sharpness"].test == "none"
    steps = [
        dataclasses.replace(fact, measured=dataclasses.replace(fact.measured, brightness=int(fact.name[2:-4]) % 7 / 7))
        for seed in (1, 2)
        for fact in photographs(seed, 200)
    ]
    assert not drifted(compared(steps[:200], steps[200:]))
    shifted = photographs(2, 100, **same | {"brightness": 0.6, "layout": (2,) * 12})
    assert drifted(compared(photographs(1, 100, **same), shifted)) == {"brightness", "look"}


def test_few_images_are_listed_and_not_tested() -> None:
    for before, after in ((19, 800), (800, 19), (0, 0), (0, 30)):
        found = compared(OLD[:before], photographs(2, after, light=0.5))
        assert not drifted(found)
        assert all(entry.test == "none" and entry.detail.startswith("Too few images") for entry in found.values())
    found = compared(OLD[:300], OLD[:300] + photographs(2, 19, light=0.1))
    assert all(entry.detail.startswith("Too few changes to test: 19 of 319") for entry in found.values())


def test_many_rare_classes_are_tested_without_pooling() -> None:
    def classes(seed: int, count: int, names: int) -> list[Facts]:
        return [dataclasses.replace(f, label=f"class {at % names}") for at, f in enumerate(photographs(seed, count))]

    old = classes(1, 400, 40)
    assert not drifted(compared(old, old + classes(2, 40, 40)))
    found = compared(old, old + classes(3, 30, 2))["class mix"]
    assert found.drifted
    assert found.test == "chi-squared by permutation"


def test_statistics_agree_with_scipy() -> None:
    found = compared(OLD, photographs(3, 800, cats=0.6))
    old, new = (profiled(side)["sample"] for side in (OLD, photographs(3, 800, cats=0.6)))
    table = [[side["label"].count(label) for label in ("cat", "dog")] for side in (old, new)]
    assert found["class mix"].p_value == pytest.approx(chi2_contingency(table, correction=False).pvalue, rel=1e-4)
    exact = ks_2samp(old["contrast"], new["contrast"], method="exact")
    assert found["contrast"].effect == pytest.approx(exact.statistic, rel=1e-4)
    assert found["contrast"].p_value == pytest.approx(exact.pvalue, rel=0.05)


def test_the_energy_coefficient_agrees_with_its_definition() -> None:
    old, new = photographs(1, 40), photographs(2, 30, cast=0.1)
    sides = [np.array(profiled(side)["sample"]["layout"], dtype=float) for side in (old, new)]
    scale = np.concatenate(sides).std(axis=0)
    one, other = (side / scale for side in sides)

    def apart(left: Any, right: Any) -> Any:
        return np.linalg.norm(left[:, None] - right[None], axis=2)

    across = apart(one, other).mean()
    within = sum(apart(side, side).sum() / (len(side) * (len(side) - 1)) for side in (one, other))
    assert compared(old, new)["look"].effect == pytest.approx(np.sqrt((2 * across - within) / (2 * across)), rel=1e-4)


def test_holm_by_hand() -> None:
    assert drift.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert drift.holm([0.6, 0.7]) == [1.0, 1.0]
    assert drift.holm([]) == []


def test_the_same_profiles_give_the_same_answer_also_from_json_and_in_any_order() -> None:
    new = photographs(3, 300, cast=0.02)
    old, current = profiled(OLD), profiled(new)
    first = drift.compare(old, current, false_alarm_rate=RATE, min_effect=0)
    state = np.random.get_state()[1].tolist()  # type: ignore[index]
    read = [profile.read(json.loads(json.dumps(side))) for side in (profiled(OLD[::-1]), profiled(new[::-1]))]
    assert drift.compare(read[0], read[1], false_alarm_rate=RATE, min_effect=0) == first
    assert np.random.get_state()[1].tolist() == state  # type: ignore[index]
    json.dumps([dataclasses.asdict(entry) for entry in first], allow_nan=False)


def test_classes_with_nothing_in_common() -> None:
    old = [dataclasses.replace(fact, label=f"{fact.label} breed") for fact in OLD]
    assert "class mix" in drifted(compared(OLD, old))


@pytest.mark.parametrize(("rate", "effect"), [(0, 0), (1, 0), (float("nan"), 0), (0.1, -0.1), (0.1, 1.1)])
def test_rates_and_effects_out_of_range_are_refused(rate: float, effect: float) -> None:
    with pytest.raises(ValueError, match="must be"):
        compared([], [], rate, effect)


@pytest.mark.parametrize("kept", [0, 150], ids=["other images", "a set that has grown"])
def test_the_false_alarm_rate_is_kept(kept: int) -> None:
    """Random splits of one pool: any alarm is false. Fails by chance once in a thousand times, were it not seeded."""
    pool = photographs(7, 1200, pngs=0.1)
    generator = np.random.default_rng(11)
    rounds, rate = 200, 0.05
    alarms = 0
    for _ in range(rounds):
        drawn = [pool[at] for at in generator.permutation(len(pool))[:300]]
        before = drawn[: 150 + kept // 2]
        after = drawn[150 - kept // 2 :] if kept else drawn[150:]
        alarms += bool(drifted(compared(before, after, rate)))
    assert alarms <= binom.ppf(0.999, rounds, rate)
    # A test that never alarms would keep its rate too.
    assert alarms > 0
