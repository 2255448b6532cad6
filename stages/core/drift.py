"""Has the data drifted from what was last accepted? Tests on two profiles, with a false-alarm rate that holds.

What is compared. Two samples of a set that has grown share most of their images, and a test of one
against the other would hardly ever answer: the shared part hides the new one. So (1) the images of
the current sample that are not in the accepted one are tested against the accepted sample, and
(2) accepted images that are gone against those that stayed. Which images these are depends on
hashes and on what came and went. So where the arrivals come from the distribution that the accepted
images came from, and what is gone is a random part of it, each compares distinct images of one
distribution: a valid two-sample test. Where both can be asked, the smaller p-value counts twice
(Bonferroni). For the class mix an image under another label is another image. With fewer than
MINIMUM images on a side nothing is tested; of a full sample that is less than 4 %.

False alarms. The p-values are exact or conservative (more so where values tie), chi-squared's close
to exact. Holm's step-down adjustment (Holm 1979) holds the chance of any false alarm among all
quantities at the rate asked for, however they depend on each other. That is the rate of one
comparison: another batch of arrivals is another chance.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.core import profile

MINIMUM = 20  # images on each side of a test
LOOK_SAMPLE = 300  # images on each side of the look's test, whose cost grows with their square
EXPECTED = 5  # smallest expected count for which chi-squared's own distribution is used (Cochran 1954)
BATCH = 200  # draws of a permutation test at a time
ENOUGH = 20  # draws as extreme as what was seen, after which a permutation test ends
MAX_DRAWS = 99_999
SEED = 20_250_101

Floats = NDArray[np.float64]

COUNTED = (("class mix", "label", "classes"), ("format", "format", "formats"), ("colour mode", "mode", "modes"))
MEASURED = (
    ("shorter side", "shorter_side", " pixels"),
    ("aspect", "aspect", ""),
    ("file size", "size_bytes", " bytes"),
    ("brightness", "brightness", ""),
    ("contrast", "contrast", ""),
    ("sharpness", "sharpness", ""),
    ("entropy", "entropy", " bits"),
    ("saturation", "saturation", ""),
    ("warmth", "warmth", ""),
)
QUANTITIES = len(COUNTED) + len(MEASURED) + 1


@dataclass(frozen=True)
class Drift:
    """What was found about one quantity."""

    quantity: str
    test: str  # "none" where there is too little to test
    effect: float  # 0-1; 0 where nothing was tested
    effect_name: str
    p_value: float  # 0-1, of this quantity alone; 1 where nothing was tested
    adjusted: float  # 0-1, Holm's, over all quantities that were tested
    drifted: bool
    accepted: str  # what was compared, in words
    current: str
    detail: str  # which images were compared, or why none were


@dataclass(frozen=True)
class _Pair:
    """Two disjoint sets of images to compare: positions in the accepted and the current sample."""

    before: list[int]  # in the accepted sample
    after: list[int]
    after_is_current: bool  # positions in the current sample; otherwise in the accepted one
    before_text: str
    after_text: str
    detail: str


Values = Sequence[Any]
# Of the values of both sides: name of the test, effect, p-value; and both in words.
Test = Callable[[Values, Values], tuple[str, float, float]]
Words = Callable[[Values, Values], tuple[str, str]]


def compare(
    accepted: Mapping[str, Any], current: Mapping[str, Any], *, false_alarm_rate: float, min_effect: float
) -> list[Drift]:
    """The drift of every quantity between two profiles (profile.profile or profile.read), always in the same order.

    Drifted is what differs beyond chance (adjusted p-value below `false_alarm_rate`, 0-1 exclusive) and
    by enough to matter (effect of at least `min_effect`, 0-1). Where nothing has changed but by
    chance, the chance that anything is called drifted is at most `false_alarm_rate`. The module says
    what is compared. Tests and effects:

    - Class mix, format, colour mode: Pearson's chi-squared test of homogeneity on the samples, where
      an image stands for its near-duplicate group; where an expected count is below EXPECTED, with
      the statistic's permutation distribution given both margins (pooling rare categories would
      leave nothing of ten classes and thirty images). Effect: total variation, the share of images
      that would have to change category.
    - Sizes, light and colour: two-sample Kolmogorov-Smirnov with Smirnov's (1948) limit, which is
      conservative in small samples (Stephens' correction for one sample alarms too often with two).
      Effect: the largest difference between the shares of images up to a value.
    - Look, the numbers of the colour layout, each over its standard deviation: energy test of
      Székely & Rizzo (2004) by permutation. Effect: square root of the energy coefficient H
      (Székely & Rizzo 2013), unbiased, from 0, alike.

    Permutation tests are seeded, so that the same profiles give the same answer, and end once ENOUGH
    draws were as extreme as the data (Besag & Clifford 1991). Their smallest p-value can alarm for
    rates from 0.0003; below, look and rare categories never do.

    Raises ValueError for a rate or an effect out of range.
    """
    if not 0 < false_alarm_rate < 1:
        raise ValueError(f"false_alarm_rate is {false_alarm_rate}, must be between 0 and 1")
    if not 0 <= min_effect <= 1:
        raise ValueError(f"min_effect is {min_effect}, must be from 0 to 1")
    # Four times what a single quantity needs to alarm: both comparisons, all quantities.
    draws = min(MAX_DRAWS, max(999, math.ceil(4 * 2 * QUANTITIES / false_alarm_rate)))
    old, new = accepted["sample"], current["sample"]
    pairs = _pairs(accepted, current, labelled=False)

    def counted(before: Values, after: Values) -> tuple[str, float, float]:
        return _homogeneity(before, after, draws)

    def look(before: Values, after: Values) -> tuple[str, float, float]:
        return _energy(before, after, draws)

    found = []
    for quantity, column, table in COUNTED:
        chosen = _pairs(accepted, current, labelled=True) if column == "label" else pairs
        whole = _moves(accepted[table], current[table])
        found.append(
            _tested(
                quantity, "total variation", counted, old[column], new[column], chosen,
                lambda before, after: _shares(Counter(before), Counter(after)),
                _shares(accepted[table], current[table]), f"All images: {whole}" if whole else "",
            )
        )  # fmt: skip
    for quantity, column, unit in MEASURED:

        def words(before: Values, after: Values, unit: str = unit) -> tuple[str, str]:
            return _spread(before, unit), _spread(after, unit)

        found.append(
            _tested(
                quantity, "KS distance", _kolmogorov_smirnov, old[column], new[column], pairs, words,
                words(_known(old[column]), _known(new[column])), "",
            )
        )  # fmt: skip
    distances = _distances(_known(old["layout"]))
    found.append(
        _tested(
            "look", "energy distance", look, old["layout"], new["layout"], pairs, distances,
            distances(_known(old["layout"]), _known(new["layout"])), "",
        )
    )  # fmt: skip
    tested = [position for position, drift in enumerate(found) if drift.test != "none"]
    adjusted = holm([found[position].p_value for position in tested])
    for position, value in zip(tested, adjusted, strict=True):
        drift = found[position]
        drifted = value < false_alarm_rate and drift.effect >= min_effect
        found[position] = replace(drift, adjusted=_short(value), drifted=drifted)
    return found


def compare_features(
    accepted: Mapping[str, Any],
    current: Mapping[str, Any],
    before: Mapping[str, Sequence[float]],
    after: Mapping[str, Sequence[float]],
    *,
    false_alarm_rate: float,
    min_effect: float,
) -> Drift:
    """The drift of what the network sees, as `compare` tells that of the look, with a false-alarm rate of its own.

    `before` and `after` map image_ids of the profiles' samples to numbers; images without any are left out.
    """
    draws = min(MAX_DRAWS, max(999, math.ceil(4 * 2 / false_alarm_rate)))
    old = [before.get(image_id) for image_id in accepted["sample"]["image_id"]]
    new = [after.get(image_id) for image_id in current["sample"]["image_id"]]
    words = _distances(_known(old))
    found = _tested(
        "features", "energy distance", lambda one, other: _energy(one, other, draws), old, new,
        _pairs(accepted, current, labelled=False), words, words(_known(old), _known(new)), "",
    )  # fmt: skip
    drifted = found.test != "none" and found.p_value < false_alarm_rate and found.effect >= min_effect
    return replace(found, adjusted=found.p_value, drifted=drifted)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's (1979) adjusted p-values, 0-1, in the order given.

    Rejecting those below a rate keeps the chance of any false rejection at that rate, whatever the
    dependence between the tests.
    """
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for done, position in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - done) * p_values[position]))
        adjusted[position] = highest
    return adjusted


def _pairs(accepted: Mapping[str, Any], current: Mapping[str, Any], *, labelled: bool) -> list[_Pair] | str:
    """What to compare, one or two pairs, or why nothing can be compared. `labelled`: see the module."""

    def keys(sample: Mapping[str, Any]) -> list[Any]:
        return list(zip(sample["image_id"], sample["label"], strict=True)) if labelled else sample["image_id"]

    old, new = keys(accepted["sample"]), keys(current["sample"])
    in_old, in_new = set(old), set(new)
    arrived = [position for position, key in enumerate(new) if key not in in_old]
    kept = [position for position, key in enumerate(old) if key in in_new]
    # Beyond the end of a full sample an image may only have been displaced, not removed.
    end = _end(current)
    gone = [
        position
        for position, key in enumerate(old)
        if key not in in_new and profile.rank(accepted["sample"]["image_id"][position]) <= end
    ]
    if min(len(old), len(new)) < MINIMUM:
        return f"Too few images to test: {len(old)} accepted, {len(new)} now; {MINIMUM} of each are needed"
    pairs = []
    if len(arrived) >= MINIMUM:
        limit = _end(accepted)
        certain = all(profile.rank(current["sample"]["image_id"][position]) <= limit for position in arrived)
        kind = "new images" if certain else "newly sampled images"
        text = f"{kind}: "
        detail = f"{len(arrived)} {kind} of {len(new)} in the sample, against {len(old)} accepted ones"
        if len(arrived) == len(new):
            text, detail = "", f"No image is in both samples: {len(new)} now, against {len(old)} accepted ones"
        pairs.append(_Pair(list(range(len(old))), arrived, True, "", text, detail))
    if len(gone) >= MINIMUM and len(kept) >= MINIMUM:
        detail = f"{len(gone)} removed images of {len(old)} in the sample, against {len(kept)} kept ones"
        pairs.append(_Pair(gone, kept, False, "removed images: ", "kept images: ", detail))
    if pairs:
        return pairs
    if not arrived and not gone:
        return "Nothing to test: the samples hold the same images"
    return (
        f"Too few changes to test: {len(arrived)} of {len(new)} images in the sample are new, {len(gone)} of "
        f"{len(old)} are gone; {MINIMUM} are needed"
    )


def _end(side: Mapping[str, Any]) -> str:
    """The last rank that a profile's sample covers."""
    return profile.rank(side["sample"]["image_id"][-1]) if side["groups"] > profile.SAMPLE else "g"  # after every hash


def _tested(
    quantity: str, effect_name: str, test: Test, old: Values, new: Values, pairs: list[_Pair] | str,
    words: Words, overall: tuple[str, str], remark: str,
) -> Drift:  # fmt: skip
    """One quantity, not adjusted yet. `words` describes values that were compared, `overall` both sets."""

    def untested(why: str) -> Drift:
        return Drift(
            quantity, "none", 0.0, effect_name, 1.0, 1.0, False, *overall, ". ".join(filter(None, (why, remark)))
        )

    if isinstance(pairs, str):
        return untested(pairs)
    results = []
    for pair in pairs:
        after_column = new if pair.after_is_current else old
        before = _known([old[position] for position in pair.before])
        after = _known([after_column[position] for position in pair.after])
        if min(len(before), len(after)) >= MINIMUM:
            results.append((*test(before, after), before, after, pair))
    if not results:
        return untested(f"Too few images with a value: {len(_known(old))} accepted, {len(_known(new))} now")
    name, effect, p_value, before, after, pair = min(results, key=lambda result: result[2])
    if pair.before_text or pair.after_text or not remark:
        before_words, after_words = words(before, after)
    else:
        before_words, after_words = overall
    return Drift(
        quantity, name, _short(effect), effect_name, _short(min(1.0, p_value * len(results))), 1.0, False,
        pair.before_text + before_words, pair.after_text + after_words,
        ". ".join(filter(None, (pair.detail, remark))),
    )  # fmt: skip


def _kolmogorov_smirnov(before: Values, after: Values) -> tuple[str, float, float]:
    from scipy.special import kolmogorov  # 0.4 s that only a comparison should cost

    one, other = np.sort(np.array(before, dtype=np.float64)), np.sort(np.array(after, dtype=np.float64))
    values = np.concatenate([one, other])
    below_one = np.searchsorted(one, values, side="right") / len(one)
    below_other = np.searchsorted(other, values, side="right") / len(other)
    distance = float(np.abs(below_one - below_other).max())
    size = math.sqrt(len(one) * len(other) / (len(one) + len(other)))
    p_value = float(kolmogorov(size * distance))
    return "Kolmogorov-Smirnov", distance, p_value


def _homogeneity(before: Values, after: Values, draws: int) -> tuple[str, float, float]:
    from scipy.special import chdtrc  # 0.4 s that only a comparison should cost

    one, other = Counter(before), Counter(after)
    names = sorted(one | other)
    table = np.array([[side[name] for name in names] for side in (one, other)], dtype=np.int64)
    shares = table / table.sum(axis=1, keepdims=True)
    effect = float(np.abs(shares[0] - shares[1]).sum() / 2)
    if len(names) == 1:
        return "chi-squared", 0.0, 1.0
    sizes, totals = table.sum(axis=1), table.sum(axis=0)
    expected = sizes[:, None] * totals / totals.sum()
    scale = (1 / expected).sum(axis=0)
    # Both rows are off by the same amount, so one row tells the statistic.
    statistic = float(((table[1] - expected[1]) ** 2 * scale).sum())
    if expected.min() >= EXPECTED:
        return "chi-squared", effect, float(chdtrc(len(names) - 1, statistic))
    generator = np.random.default_rng(SEED)

    def draw(number: int) -> Floats:
        rows = generator.multivariate_hypergeometric(totals, int(sizes[1]), size=number, method="marginals")
        return np.asarray(((rows - expected[1]) ** 2 * scale).sum(axis=1), dtype=np.float64)

    return "chi-squared by permutation", effect, _by_permutation(statistic, draw, draws)


def _energy(before: Values, after: Values, draws: int) -> tuple[str, float, float]:
    name = "energy test by permutation"
    # Samples stand in the order of a hash, so their beginnings are samples too.
    one, other = (np.array(side[:LOOK_SAMPLE], dtype=np.float64) for side in (before, after))
    both = np.concatenate([one, other])
    # Of both sides together, which no permutation changes. Columns that never vary tell nothing.
    spread = both.std(axis=0)
    both = both[:, spread > 0] / spread[spread > 0]
    if both.shape[1] == 0:
        return name, 0.0, 1.0
    squares = (both**2).sum(axis=1)
    distance = np.sqrt(np.maximum(squares[:, None] + squares - 2 * both @ both.T, 0.0))
    np.fill_diagonal(distance, 0.0)
    m, n = len(one), len(other)
    rows, total = distance.sum(axis=1), float(distance.sum())

    def sums(chosen: Floats) -> tuple[Floats, Floats, Floats]:
        """Of distances within the first m, within the other n and across, a column of `chosen` each."""
        within = (chosen * (distance @ chosen)).sum(axis=0)
        across = rows @ chosen - within
        return within, total - within - 2 * across, across

    def statistic(chosen: Floats) -> Floats:
        first, second, across = sums(chosen)
        return np.asarray(2 * across / (m * n) - first / m**2 - second / n**2, dtype=np.float64)

    seen = np.zeros((m + n, 1))
    seen[:m] = 1.0
    first, second, across = (float(part[0]) for part in sums(seen))
    apart = 2 * across / (m * n)
    # Without the images' distances to themselves, or small samples would seem apart by chance.
    coefficient = (apart - first / (m * (m - 1)) - second / (n * (n - 1))) / apart if apart > 0 else 0.0
    generator = np.random.default_rng(SEED)

    def draw(number: int) -> Floats:
        return statistic(generator.permuted(np.repeat(seen.T, number, axis=0), axis=1).T)

    return name, math.sqrt(max(0.0, coefficient)), _by_permutation(float(statistic(seen)[0]), draw, draws)


def _by_permutation(seen: float, draw: Callable[[int], Floats], draws: int) -> float:
    """p-value of a statistic that is large under drift (Besag & Clifford 1991, "Sequential Monte Carlo p-values").

    Exact: under the null it is at most x with a chance of at most x, for every x and every number of draws.
    """
    # Equal but for the order of additions must count as equal.
    bound = seen - 1e-9 * abs(seen)
    extreme = done = 0
    while done < draws:
        reached = extreme + np.cumsum(draw(min(BATCH, draws - done)) >= bound)
        if reached[-1] >= ENOUGH:
            return ENOUGH / (done + int(np.argmax(reached >= ENOUGH)) + 1)
        extreme, done = int(reached[-1]), done + len(reached)
    return (extreme + 1) / (draws + 1)


def _known(values: Values) -> list[Any]:
    return [value for value in values if value is not None]


def _spread(values: Values, unit: str) -> str:
    if not values:
        return "no values"
    low, middle, high = (float(value) for value in np.percentile(np.array(values, dtype=np.float64), [5, 50, 95]))
    return f"median {_number(middle)}{unit}, 5 %-95 % {_number(low)} to {_number(high)}"


def _distances(reference: Values) -> Words:
    """Describes colour layouts by their distance from the mean of `reference`, in its standard deviations."""
    if not reference:
        return lambda before, after: ("no values", "no values")
    layouts = np.array(reference, dtype=np.float64)
    spread = layouts.std(axis=0)
    spread[spread == 0] = 1.0

    def text(side: Values) -> str:
        if not side:
            return "no values"
        apart = np.linalg.norm((np.array(side, dtype=np.float64) - layouts.mean(axis=0)) / spread, axis=1)
        return f"median distance {_number(float(np.median(apart)))} from the accepted mean"

    return lambda before, after: (text(before), text(after))


def _moved_most(before: Mapping[str, int], after: Mapping[str, int]) -> list[tuple[str, float, float]]:
    """Up to 3 categories and their shares before and after; the largest ones where none has moved."""
    sums = max(1, sum(before.values())), max(1, sum(after.values()))
    shares = [(name, before.get(name, 0) / sums[0], after.get(name, 0) / sums[1]) for name in {*before, *after}]
    return sorted(shares, key=lambda share: (-abs(round(share[1] - share[2], 9)), -share[1], share[0]))[:3]


def _shares(before: Mapping[str, int], after: Mapping[str, int]) -> tuple[str, str]:
    moved = _moved_most(before, after)
    if not moved:
        return "no values", "no values"
    return (
        ", ".join(f"{name} {_percent(share)}" for name, share, _ in moved),
        ", ".join(f"{name} {_percent(share)}" for name, _, share in moved),
    )


def _moves(before: Mapping[str, int], after: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {_percent(old)} -> {_percent(new)}" for name, old, new in _moved_most(before, after))


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _short(value: float) -> float:
    """6 significant digits: the last ones differ between processors."""
    return float(f"{value:.6g}")
