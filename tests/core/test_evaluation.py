"""What is chosen for a model is chosen on validation images: whatever the test's labels, the choices are the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from stages.core import evaluation, operating_points, predictions
from stages.core.predictions import HeldOut

Change = tuple[HeldOut, Any]


def held_out(classes: int, count: int = 240) -> Change:
    """Rows and probabilities of a model that is right in four of five, too sure, and has a few labels swapped."""
    random = np.random.default_rng(classes)
    truth = random.integers(0, classes, count)
    logits = 3 * random.normal(size=(count, classes)) + 6 * np.eye(classes)[truth]
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = np.where(random.random(count) < 0.05, (truth + 1) % classes, truth)
    splits = np.where(np.arange(count) < count // 2, "test", "val")
    names = [f"{number:03}.jpg" for number in range(count)]
    return HeldOut(names, names, splits, labels), probabilities


def chosen(rows: HeldOut, probabilities: Any) -> dict[str, Any]:
    """All of details.json that is fitted, selected or ranked rather than counted, and all that is said of val."""
    classes = [f"class {number}" for number in range(probabilities.shape[1])]
    facts = [
        {"label": classes[label], "width": 90, "height": 80, "brightness": 0.5, "format": "PNG", "given_split": None,
         "copies": 1} for label in rows.labels[rows.splits == "test"]
    ]  # fmt: skip
    train = np.arange(30) % len(classes)
    found = evaluation.results(
        rows, probabilities, {"frozen_features": probabilities[:, ::-1]}, train, classes, facts, 20, 1
    )
    val = {rows.names[at] for at in np.flatnonzero(rows.splits == "val")}
    return {
        "temperature": found["calibration"]["temperature"],
        "two_classes": found.get("two_classes", {}).get("chosen"),
        "thresholds": [row["threshold"] for row in found["thresholds"]],
        "doubtful": [one for one in found["doubtful_labels"] if one["name"] in val],
        "val": found["val"],
        "baselines on val": {name: both["val"] for name, both in found["baselines"].items()},
        "whole": found,
    }


def altered(rows: HeldOut, probabilities: Any, split: str, how: str) -> Change:
    """The images of one split with other labels, other probabilities, or without all but a few."""
    random = np.random.default_rng(9)
    there = np.flatnonzero(rows.splits == split)
    labels, values = rows.labels.copy(), probabilities.copy()
    keep = np.ones(len(labels), bool)
    if how == "labels shuffled":
        labels[there] = random.permutation(labels[there])
    elif how == "all of one class":
        labels[there] = 0
    elif how == "other probabilities":
        values[there] = random.dirichlet(np.ones(values.shape[1]), len(there))
    elif how == "fewer":
        keep[there[5:]] = False
    kept = np.flatnonzero(keep).tolist()
    names = [rows.names[at] for at in kept]
    return HeldOut(names, names, rows.splits[keep], labels[keep]), values[keep]


HOW = ["labels shuffled", "all of one class", "other probabilities", "fewer"]


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("how", HOW)
def test_nothing_is_chosen_on_the_test(classes: int, how: str) -> None:
    before = chosen(*held_out(classes))
    after = chosen(*altered(*held_out(classes), "test", how))
    assert before.pop("whole")["test"] != after.pop("whole")["test"], "the change was seen"
    assert before["temperature"] != 1
    assert before["doubtful"], "some are doubtful, so that a change could show"
    assert before == after


@pytest.mark.parametrize("what", ["temperature", "two_classes", "doubtful"])
def test_other_validation_images_would_be_seen_in_the_choices(what: str) -> None:
    """So that the test above can fail: each of them does depend on the images it is to depend on."""
    before = chosen(*held_out(2))
    changes = [chosen(*altered(*held_out(2), "val", how)) for how in HOW]
    assert any(change[what] != before[what] for change in changes)


def test_baselines_that_are_left_out_change_nothing_else() -> None:
    rows, probabilities = held_out(3)
    whole = chosen(rows, probabilities)["whole"]
    names = [f"class {number}" for number in range(3)]
    fact = {"width": 90, "height": 80, "brightness": 0.5, "format": "PNG", "given_split": None, "copies": 1}
    facts = [{"label": names[label], **fact} for label in rows.labels[rows.splits == "test"]]
    alone = evaluation.results(rows, probabilities, {}, None, names, facts, 20, 1)
    assert (alone.pop("baselines"), alone.pop("compared")) == ({}, {})
    assert set(whole.pop("baselines")) == {"majority_class", "frozen_features"}
    assert set(whole.pop("compared")) == {"frozen_features"}
    assert alone == whole


def test_doubts_about_test_labels_are_judged_by_validation_images() -> None:
    """The same test image is doubted or not whatever other test images are there."""
    rows, probabilities = held_out(5)
    whole = evaluation.suspects(rows, probabilities)
    fewer, of_fewer = altered(rows, probabilities, "test", "fewer")
    left = evaluation.suspects(fewer, of_fewer)
    named = [(rows.names[at], other) for at, other in whole if rows.names[at] in fewer.names]
    assert [(fewer.names[at], other) for at, other in left] == named
    assert any(rows.splits[at] == "test" for at, _ in whole)


def test_two_classes_are_parted_where_validation_images_say() -> None:
    rows, probabilities = held_out(2)
    found = chosen(rows, probabilities)["whole"]
    val, tested = rows.splits == "val", rows.splits == "test"
    threshold = operating_points.choose(probabilities[val, 1], rows.labels[val])
    assert found["two_classes"]["chosen"] == threshold
    (row,) = [row for row in found["two_classes"]["rows"] if row["threshold"] == threshold]
    assert row["named"] == int((probabilities[tested, 1] >= threshold).sum())
    assert (found["two_classes"]["class"], found["two_classes"]["other"]) == ("class 1", "class 0")
    assert "two_classes" not in chosen(*held_out(3))["whole"]


def test_the_surest_right_answers_go_round_the_classes() -> None:
    rows = HeldOut(list("abcdefg"), list("abcdefg"), np.array(["test"] * 6 + ["val"]), np.array([0, 0, 0, 1, 1, 2, 2]))
    sure = [0.99, 0.98, 0.97, 0.6, 0.9, 0.95, 1.0]
    probabilities = np.array([np.where(np.arange(3) == label, one, (1 - one) / 2)
                              for label, one in zip(rows.labels, sure, strict=True)])  # fmt: skip
    assert predictions.surest(rows, probabilities, 9) == [0, 5, 4, 1, 3, 2]
    assert predictions.surest(rows, probabilities, 2) == [0, 5]
    probabilities[0] = probabilities[0, ::-1]  # now wrong
    assert predictions.surest(rows, probabilities, 1) == [1]
    assert predictions.surest(rows, probabilities, 0) == []
    assert predictions.surest(rows, np.eye(3)[(rows.labels + 1) % 3], 4) == []
