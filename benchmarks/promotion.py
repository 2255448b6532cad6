"""How often does `graft promote` promote: equal models, better ones, better ones that harm a slice or are too sure?

    python -m benchmarks.promotion 2000

Each draw is a test of N images on which two models share difficulty: an image that one finds hard the other mostly
does, too, and where both are unsure they often fail together. Probabilities are calibrated unless said otherwise; some
40 slices overlap. All rules are those of stages/core/promotion.py with their defaults, but 200 bootstrap resamples
instead of 1,000. Needs no data. Prints a table; 2,000 draws: about six minutes on one core.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from stages.core import promotion
from stages.core.metrics import wilson

CLASSES = 10
SHARES = np.array([20, 16, 14, 12, 10, 8, 7, 6, 4, 3]) / 100  # of the images, by class
SOURCES = 20
DIFFICULTY, OWN = 1.5, 0.6  # standard deviations of what both models find hard, and of what only one does
TOGETHER = 0.6  # correlation of their luck where both are unsure
TERMS = promotion.Terms(resamples=200)

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Scenario:
    """Two models and a test. `harm` lowers the challenger's accuracy on one slice by about so much, the rest of the
    images making up for it; `sharpened` divides the challenger's logits, so that it is too sure."""

    name: str
    images: int
    accuracy: float
    gain: float = 0.0
    harm: float = 0.0
    sharpened: float = 1.0


SCENARIOS = (
    *(Scenario("equal", images, accuracy) for images in (500, 2000) for accuracy in (0.8, 0.9, 0.97)),
    *(Scenario("2 points better", images, 0.9, 0.02) for images in (1000, 1500, 2000, 3000)),
    Scenario("2 points better", 2000, 0.8, 0.02),
    Scenario("2 points better", 1000, 0.96, 0.02),
    *(Scenario(f"2 better, a slice {harm:.0%} worse", 2000, 0.9, 0.02, harm) for harm in (0.05, 0.1, 0.15)),
    *(Scenario(f"2 better, logits x {by:g}", 2000, 0.9, 0.02, sharpened=by) for by in (1.2, 1.5, 2.0)),
)


@dataclass(frozen=True)
class Draw:
    """One test: probabilities float [N, CLASSES] of both models, labels int [N], the slices by kind."""

    champion: Floats
    challenger: Floats
    labels: Ints
    kinds: dict[str, list[str]]


def draw(scenario: Scenario, random: np.random.Generator) -> Draw:
    """One test as the scenario has it."""
    from scipy.special import ndtr

    count = scenario.images
    labels = random.choice(CLASSES, count, p=SHARES)
    kinds = {
        "class": [str(label) for label in labels],
        "source": [f"source {one}" for one in random.integers(0, SOURCES, count)],
        "shorter side": [str(one) for one in random.integers(0, 3, count)],
        "brightness": [str(one) for one in random.integers(0, 3, count)],
        "near-duplicates": [str(one) for one in random.random(count) < 0.12],
        "file": [("JPEG", "PNG", "WEBP")[one] for one in random.choice(3, count, p=[0.85, 0.12, 0.03])],
    }
    shared, luck = random.standard_normal((2, count))
    harmed = np.array(kinds["near-duplicates"]) == "True"
    overall = scenario.accuracy + scenario.gain
    inside = scenario.accuracy - scenario.harm if scenario.harm else overall
    wanted = (
        np.full(count, scenario.accuracy),
        np.where(harmed, inside, (overall - 0.12 * inside) / 0.88 if scenario.harm else overall),
    )
    models = []
    for number, accuracy in enumerate(wanted):
        sure = ndtr(_strength(accuracy) + DIFFICULTY * shared + OWN * random.standard_normal(count))
        sure = 1 / CLASSES + (1 - 1 / CLASSES) * sure
        own = np.sqrt(TOGETHER) * luck + np.sqrt(1 - TOGETHER) * random.standard_normal(count)
        right = ndtr(own) < sure
        named = np.where(right, labels, (labels + random.integers(1, CLASSES, count)) % CLASSES)
        models.append(_probabilities(named, sure, scenario.sharpened if number else 1.0))
    return Draw(models[0], models[1], labels, kinds)


def _strength(accuracy: Floats) -> Floats:
    """The mean in draw() under which so many are right: the mean of a normal distribution function is one, too."""
    from scipy.special import ndtri

    spread = np.sqrt(1 + DIFFICULTY**2 + OWN**2)
    found: Floats = spread * ndtri((accuracy - 1 / CLASSES) / (1 - 1 / CLASSES))
    return found


def _probabilities(named: Ints, sure: Floats, sharpened: float) -> Floats:
    """`sure` on the class named, the rest even."""
    found = np.repeat(((1 - sure) / (CLASSES - 1))[:, None], CLASSES, 1)
    found[np.arange(len(named)), named] = sure
    raised = np.clip(found, 1e-12, 1.0) ** sharpened
    result: Floats = raised / raised.sum(1, keepdims=True)
    return result


@dataclass(frozen=True)
class Rates:
    """Shares of the draws; of the rules after `better`, among the draws in which all were asked."""

    draws: int
    asked: int
    disagreed: float
    better: int
    slices_passed: int
    calibration_passed: int
    promoted: int


def rates(scenario: Scenario, draws: int, seed: int, all_rules: bool) -> Rates:
    """How often each rule passes. Without `all_rules` the others are only asked where `better` passed."""
    random = np.random.default_rng(seed)
    counts = dict.fromkeys(("asked", "better", "no-slice-worse", "calibration-not-worse", "promoted"), 0)
    disagreed = 0.0
    for number in range(draws):
        one = draw(scenario, random)
        new, old = one.challenger.argmax(1) == one.labels, one.champion.argmax(1) == one.labels
        disagreed += float((new != old).mean())
        if all_rules or promotion.better(new, old, TERMS)["passed"]:
            found = promotion.decide(one.champion, one.challenger, one.labels, one.kinds, replace(TERMS, seed=number))
            counts["asked"] += 1
            counts["promoted"] += found["promote"]
            for rule in found["rules"]:
                counts[rule["name"]] += rule["passed"]
    return Rates(
        draws, counts["asked"], disagreed / draws, counts["better"], counts["no-slice-worse"],
        counts["calibration-not-worse"], counts["promoted"],
    )  # fmt: skip


def say(line: str) -> None:
    """A line on standard output, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main(draws: int) -> None:
    """The table. Equal models: five times as many draws, the other rules asked only where `better` passed."""
    say(f"{'':32}{'images':>7}{'accuracy':>9}{'disagree':>9}{'better':>8}{'slices':>8}{'calib.':>8}  promoted")
    for number, scenario in enumerate(SCENARIOS):
        equal = scenario.name == "equal"
        found = rates(scenario, 5 * draws if equal else draws, number, all_rules=not equal)
        low, high = wilson(found.promoted, found.draws)
        asked = max(found.asked, 1)
        say(
            f"{scenario.name:32}{scenario.images:>7,}{scenario.accuracy:>9.2f}{found.disagreed:>9.3f}"
            f"{found.better / found.draws:>8.3f}{found.slices_passed / asked:>8.3f}"
            f"{found.calibration_passed / asked:>8.3f}  {found.promoted / found.draws:.3f} ({low:.3f} to {high:.3f})"
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
