"""May a challenger replace the champion? Three rules on the same test images, each with its figures.

`better`                 one-sided McNemar test with the mid-p value at 5 % (Fagerland, Lydersen and Laake, "The McNemar
                         test for binary matched-pairs data", BMC Medical Research Methodology 13, 2013). Equal models
                         pass in less than 5 %, as the exact test's do, and fewer true gains are missed.
`no-slice-worse`         refused where a slice is surely worse and by more than a margin: its exact one-sided test holds
                         after Holm's correction (Scandinavian Journal of Statistics 6, 1979) over all slices, which
                         may share images, and its drop in accuracy is beyond the margin. To ask every slice for
                         proof that it is not worse would refuse nearly every better model: 100 images, of which the
                         models disagree on 8, cannot exclude a drop of five points. So each slice has its interval,
                         and those in which such a drop is possible are counted.
`calibration-not-worse`  here all images speak, so the proof is asked for: the upper bound of a one-sided 95 % interval
                         (paired bootstrap, percentiles) of the growth of the expected calibration error may not pass
                         the margin.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from stages.core.calibration import BINS, expected_error, reliability
from stages.core.comparison import paired

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
CHUNK = 2_000_000  # resampled images held at once


@dataclass(frozen=True)
class Terms:
    """What a challenger must hold to. Margins are shares: 0.05 is five points."""

    level: float = 0.05  # of each test
    slice_margin: float = 0.05
    least: int = 30  # images of a slice that is judged
    calibration_margin: float = 0.02
    resamples: int = 1000
    seed: int = 1


def decide(
    champion: Floats, challenger: Floats, labels: Ints, kinds: Mapping[str, Sequence[str]], terms: Terms
) -> dict[str, Any]:
    """`rules`, a dict each (name, passed, said, figures), `slices`, one row each, and `promote`: all rules passed.

    The models' probabilities are float [N, C] on the same images in the same order, `labels` int [N]; `kinds` names
    the slice of each image by kind, as slices.kinds does.
    """
    new, old = challenger.argmax(1) == labels, champion.argmax(1) == labels
    rows = slice_rows(new, old, kinds, terms)
    rules = [
        better(new, old, terms),
        no_slice_worse(rows, terms),
        calibration_not_worse(champion, challenger, labels, terms),
    ]
    return {"promote": all(rule["passed"] for rule in rules), "rules": rules, "slices": rows}


def better(new: Bools, old: Bools, terms: Terms) -> dict[str, Any]:
    """Whether the one that is right where `new`, bool [N], is surely right more often than where `old`."""
    won, lost = int((new & ~old).sum()), int((old & ~new).sum())
    p_value = mid_p(won, lost)
    found = paired(new, old)
    return {
        "name": "better",
        "passed": p_value <= terms.level,
        "said": (
            f"{found['gain']:+.2%} ({found['gain_low']:+.2%} to {found['gain_high']:+.2%}) on {len(new):,} images: "
            f"{won} won, {lost} lost, one-sided p {p_value:.3g}, must be at most {terms.level:g}"
        ),
        **{name: value for name, value in found.items() if name != "p_value"},
        "accuracy": float(new.mean()) if len(new) else 0.0,
        "champion_accuracy": float(old.mean()) if len(old) else 0.0,
        "p_value": p_value,
        "level": terms.level,
    }


def mid_p(won: int, lost: int) -> float:
    """How often equal models would differ so much in the first's favour, outcomes just as uneven counted half."""
    from scipy.special import bdtr

    return float((bdtr(lost, won + lost, 0.5) + (bdtr(lost - 1, won + lost, 0.5) if lost else 0.0)) / 2)


def slice_rows(new: Bools, old: Bools, kinds: Mapping[str, Sequence[str]], terms: Terms) -> list[dict[str, Any]]:
    """One row for each slice of at least terms.least images that is not all of them.

    `gain` with a 95 % interval by itself; `p_worse` is the exact one-sided test's, `p_worse_of_all` after Holm's
    correction; `worse` where the rule is broken, `excluded` where the interval excludes a drop beyond the margin.
    """
    from scipy.special import bdtr

    found: list[tuple[str, str, Bools]] = []
    for kind, names in kinds.items():
        values, inverse, counts = np.unique(np.array(names), return_inverse=True, return_counts=True)
        if len(values) > 1:
            chosen = np.flatnonzero(counts >= terms.least).tolist()
            found += [(kind, str(values[number]), inverse == number) for number in chosen]
    won = np.array([(new & ~old & inside).sum() for _, _, inside in found], np.int64)
    lost = np.array([(old & ~new & inside).sum() for _, _, inside in found], np.int64)
    p_worse = np.ones(len(found))
    if len(found):
        p_worse = bdtr(won, won + lost, 0.5)  # as few won, or fewer
    of_all = holm(p_worse)
    rows = []
    for number, (kind, name, inside) in enumerate(found):
        figures = paired(new[inside], old[inside])
        rows.append(
            {
                "kind": kind,
                "slice": name,
                **{key: value for key, value in figures.items() if key != "p_value"},
                "p_worse": float(p_worse[number]),
                "p_worse_of_all": float(of_all[number]),
                "worse": bool(of_all[number] <= terms.level and figures["gain"] < -terms.slice_margin),
                "excluded": bool(figures["gain_low"] >= -terms.slice_margin),
            }
        )
    return rows


def holm(p_values: Floats) -> Floats:
    """P-values, float [M], each corrected so that among true ones the smallest is wrong as seldom as a single one."""
    order = np.argsort(p_values, kind="stable")
    stepped = p_values[order] * np.arange(len(p_values), 0, -1)
    corrected = np.empty(len(p_values))
    corrected[order] = np.minimum(np.maximum.accumulate(stepped), 1.0)
    return corrected


def no_slice_worse(rows: Sequence[Mapping[str, Any]], terms: Terms) -> dict[str, Any]:
    """The rule over `slice_rows`."""
    worse = [row for row in rows if row["worse"]]
    undecided = sum(not row["excluded"] for row in rows)
    said = (
        f"none of {len(rows)} slices of {terms.least} images or more is surely worse by more than "
        f"{terms.slice_margin:.1%}; in {undecided} of them so much is not excluded"
    )
    if worse:
        listed = "; ".join(
            f"{row['kind']} {row['slice']}: {row['gain']:+.1%} ({row['gain_low']:+.1%} to {row['gain_high']:+.1%}) "
            f"on {row['images']:,} images, p {row['p_worse_of_all']:.2g} of all"
            for row in sorted(worse, key=lambda row: row["gain"])
        )
        said = f"{len(worse)} of {len(rows)} slices surely worse by more than {terms.slice_margin:.1%}: {listed}"
    return {
        "name": "no-slice-worse",
        "passed": not worse,
        "said": said,
        "slices": len(rows),
        "worse": len(worse),
        "not_excluded": undecided,
        "margin": terms.slice_margin,
        "least_images": terms.least,
        "level": terms.level,
    }


def calibration_not_worse(champion: Floats, challenger: Floats, labels: Ints, terms: Terms) -> dict[str, Any]:
    """The rule over both models' probabilities, float [N, C]."""
    old, new = (expected_error(reliability(one, labels)) for one in (champion, challenger))
    errors = _resampled_errors([champion, challenger], labels, terms.resamples, terms.seed)
    low, high = (float(one) for one in np.quantile(errors[1] - errors[0], [terms.level, 1 - terms.level]))
    return {
        "name": "calibration-not-worse",
        "passed": high <= terms.calibration_margin,
        "said": (
            f"expected calibration error {new:.2%}, champion {old:.2%}; the growth {new - old:+.2%} is surely at most "
            f"{high:+.2%}, must be at most {terms.calibration_margin:+.2%}"
        ),
        "error": new,
        "champion_error": old,
        "growth": new - old,
        "growth_low": low,
        "growth_high": high,
        "margin": terms.calibration_margin,
        "resamples": terms.resamples,
        "seed": terms.seed,
    }


def _resampled_errors(models: Sequence[Floats], labels: Ints, resamples: int, seed: int) -> list[Floats]:
    """Expected calibration error of each model, float [R], on the same R draws of images with replacement."""
    images = len(labels)
    gaps = [_gaps(one, labels) for one in models]
    random = np.random.default_rng(seed)
    parts: list[list[Floats]] = [[] for _ in models]
    chunk = max(1, min(resamples, CHUNK // max(images, 1)))
    for start in range(0, resamples, chunk):
        count = min(chunk, resamples - start)
        drawn = random.integers(0, images, (count, images)) + images * np.arange(count)[:, None]
        weights = np.bincount(drawn.ravel(), minlength=count * images).reshape(count, images).astype(np.float64)
        for part, gap in zip(parts, gaps, strict=True):
            part.append(np.abs(weights @ gap).sum(1) / images)
    return [np.concatenate(part) for part in parts]


def _gaps(probabilities: Floats, labels: Ints) -> Floats:
    """Float [N, BINS]: right (1 or 0) less the named class's probability, in its column of calibration.reliability."""
    sure, right = probabilities.max(1), probabilities.argmax(1) == labels
    column = np.clip(np.ceil(sure * BINS).astype(int) - 1, 0, BINS - 1)
    gaps = np.zeros((len(labels), BINS))
    gaps[np.arange(len(labels)), column] = right - sure
    return gaps


def first(challenger: Floats, labels: Ints, commonest: int, terms: Terms) -> dict[str, Any]:
    """Where there is no champion: surely better than always answering `commonest`, the commonest training class.

    Frozen features with a head are no bar: a model that only matches them is still one to start from, and the
    evaluation report says whether fine-tuning helped.
    """
    rule = better(challenger.argmax(1) == labels, labels == commonest, terms)
    rule |= {"name": "first-model", "said": f"no champion yet; over the commonest class {rule['said']}"}
    rule["baseline_accuracy"] = rule.pop("champion_accuracy")
    return {"promote": rule["passed"], "rules": [rule], "slices": []}


def warnings(tried: Mapping[str, Any], rules: Sequence[Mapping[str, Any]], since_champion: bool) -> list[str]:
    """What to be wary of, though no rule refuses it: a test that was used often tells less.

    `tried` has `models`, the number tested on these images, and `unknown`, how many more may have been.
    """
    found = []
    asked = next((rule for rule in rules if rule["name"] in ("better", "first-model")), None)
    since = "since the champion" if since_champion else "by git's history"
    if tried["models"] > 1 and asked:
        found.append(
            f"{tried['models']} models were tested on these images {since}: the best of so many looks "
            f"better than it is; times {tried['models']}, its p is {min(1.0, asked['p_value'] * tried['models']):.3g}. "
            "New test images would tell"
        )
    if tried["unknown"]:
        found.append(
            f"{tried['unknown']} more were tested on a split that is not in DVC's cache here (`dvc fetch -A split`)"
        )
    return found
