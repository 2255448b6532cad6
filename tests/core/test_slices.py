"""Parts of the test: who is in which, and how good the model is there."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from stages.core import slices
from stages.core.metrics import wilson


def fact(**changed: Any) -> dict[str, Any]:
    whole = {"label": "cat", "width": 100, "height": 80, "brightness": 0.5, "format": "JPEG", "given_split": None}
    return {**whole, "copies": 1, **changed}


def test_a_slice_has_its_own_accuracy_and_interval() -> None:
    right = np.array([True] * 90 + [False] * 10 + [True] * 10 + [False] * 10)
    rows = slices.table(right, {"file": ["JPEG"] * 100 + ["PNG"] * 20, "one": ["same"] * 120})
    assert [(row["kind"], row["slice"], row["images"], row["accuracy"], row["apart"]) for row in rows] == [
        ("file", "JPEG", 100, 0.9, False),
        ("file", "PNG", 20, 0.5, True),
    ]
    assert (rows[1]["accuracy_low"], rows[1]["accuracy_high"]) == wilson(10, 20)
    assert set(rows[0]) == set(slices.COLUMNS)
    assert slices.table(np.zeros(0, bool), {"file": []}) == []


def test_of_many_values_the_commonest_are_shown() -> None:
    names = [f"class {number % 30:02}" for number in range(60)] + ["class 29"] * 5
    rows = slices.table(np.ones(65, bool), {"class": names})
    assert len(rows) == slices.MOST
    assert rows[-1]["slice"] == "class 29"
    assert rows[-1]["images"] == 7


def test_every_kind_is_told_from_the_facts() -> None:
    facts = [
        fact(width=40, brightness=0.1, copies=3, label="dog", given_split="val"),
        fact(width=300, height=60, brightness=None, format="PNG"),
        fact(width=None, height=None, brightness=0.9),
    ]
    kinds = slices.kinds(facts)
    assert kinds["class"] == ["dog", "cat", "cat"]
    assert kinds["near-duplicates"] == ["has some", "has none", "has none"]
    assert kinds["shorter side"] == ["1 small: to 40 px", "3 large: above 40 px", "unknown"]
    assert kinds["brightness"][1] == "unknown"
    assert kinds["file"] == ["JPEG", "PNG", "JPEG"]
    assert kinds["split it came with"] == ["val", "none", "none"]


@pytest.mark.parametrize("values", [[1.0] * 9, list(range(9)), [0.0, 0.0, 5.0], [float("nan")] * 3])
def test_thirds_hold_every_value_once(values: list[float]) -> None:
    found = slices.thirds(values, ("a", "b", "c"))
    assert len(found) == len(values)
    if values == list(range(9)):
        assert sorted(found.count(name) for name in set(found)) == [3, 3, 3]
    if len(set(values)) == 1:
        assert len(set(found)) == 1
