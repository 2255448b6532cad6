"""What became different since the accepted data, in counts that a person can check."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from stages.core import changes, profile
from stages.core.expectations import Rule
from stages.core.facts import Facts
from stages.core.measurement import LAYOUT, Measurement
from stages.core.verdict import Answer


def image(number: int, label: str = "cats", format: str = "JPEG") -> Facts:
    measured = Measurement(
        1000, format, width=90, height=60, mode="RGB", brightness=0.5, contrast=0.2, layout=(0,) * LAYOUT
    )
    image_id = hashlib.sha256(str(number).encode()).hexdigest()
    return Facts(f"{number}.jpg", label, None, image_id, measured)


def made(facts: list[Facts], bad: dict[int, str] | None = None) -> dict[str, Any]:
    reasons = [(bad or {}).get(at) for at in range(len(facts))]
    return profile.profile(facts, [fact.image_id for fact in facts], reasons)


def answers(**failing: int) -> list[Answer]:
    return [
        Answer(
            Rule(name, "images", "info", "expect_column_values_to_be_null", {}, "", "", 0.1), not count, 0, count, ()
        )
        for name, count in failing.items()
    ]


def since(before: dict[str, Any], now: dict[str, Any], rules: dict[str, int] | None = None, **failing: int) -> Any:
    found = changes.since({"profile": before, "rules": rules or {}}, now, answers(**failing))
    return json.loads(json.dumps(found, allow_nan=False))  # as results.json will hold it


def test_the_same_data_differs_in_nothing() -> None:
    data = made([image(at) for at in range(30)], {3: "empty"})
    assert since(data, data, {"dark": 2}, dark=2) == {
        "pictures": {"added": 0, "removed": 0, "kept": 29, "exact": True, "standard_error": 0.0},
        "images": [30, 30],
        "accepted": [29, 29],
        "classes": {},
        "quarantined": {},
        "formats": {},
        "rules": {},
    }


def test_what_came_and_went_is_counted() -> None:
    before = [image(at) for at in range(30)] + [image(at, "dogs") for at in range(100, 110)]
    now = [*before[5:], *(image(at, "wolves", "PNG") for at in range(200, 207))]
    found = since(made(before, {0: "empty"}), made(now, {0: "empty", 1: "aspect"}))
    assert found["pictures"] == {"added": 7, "removed": 6, "kept": 33, "exact": True, "standard_error": 0.0}
    assert (found["images"], found["accepted"]) == ([40, 42], [39, 40])
    assert found["classes"] == {"cats": [29, 23], "wolves": [0, 7]}
    assert found["quarantined"] == {"aspect": [0, 1]}
    assert found["formats"] == {"JPEG": [39, 33], "PNG": [0, 7]}


def test_a_class_that_went_is_named_with_nothing_left() -> None:
    before = made([image(1), image(2, "dogs")])
    assert since(before, made([image(1)]))["classes"] == {"dogs": [1, 0]}
    assert since(before, made([]))["classes"] == {"cats": [1, 0], "dogs": [1, 0]}
    assert since(made([]), before)["pictures"]["added"] == 2


@pytest.mark.parametrize("count", [700, 3000])
def test_where_the_sample_ends_the_overlap_is_estimated_and_says_so(count: int) -> None:
    before = made([image(at) for at in range(count)])
    pictures = since(before, made([image(at) for at in range(count // 10, count + count // 10)]))["pictures"]
    assert not pictures["exact"]
    assert abs(pictures["added"] - count // 10) < 5 * pictures["standard_error"]
    assert pictures["kept"] + pictures["removed"] == count


def test_only_rules_that_both_were_asked_are_compared() -> None:
    data = made([image(at) for at in range(3)])
    found = since(data, data, {"dark": 2, "gone": 4, "same": 1}, dark=5, new=9, same=1)
    assert found["rules"] == {"dark": [2, 5]}


def record(images: int, classes: dict[str, int], quarantined: dict[str, int], rules: dict[str, int]) -> dict[str, Any]:
    """What matters here of verdict.results."""
    return {
        "images": images,
        "accepted": sum(classes.values()),
        "classes": {label: {"images": 99, "accepted": count} for label, count in classes.items()},
        "quarantined": quarantined,
        "rules": [{"id": rule, "failing": failing} for rule, failing in rules.items()],
    }


def test_two_records_differ_in_the_counts_that_differ() -> None:
    before = record(10, {"cats": 5, "dogs": 4}, {"empty": 1}, {"dark": 2, "blurred": 0})
    now = record(12, {"cats": 5, "wolves": 3}, {"empty": 1, "aspect": 3}, {"dark": 1, "blurred": 0})
    assert changes.counts(before, before) == []
    assert changes.counts(before, now) == [
        ("all", "accepted", 9, 8),
        ("all", "images", 10, 12),
        ("classes", "dogs", 4, 0),
        ("classes", "wolves", 0, 3),
        ("quarantined", "aspect", 0, 3),
        ("rules", "dark", 2, 1),
    ]
