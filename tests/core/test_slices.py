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


def test_what_is_left_out_is_counted() -> None:
    """Of 30 classes the table has 20; of 20 files it has all."""
    kinds = {"class": [f"class {number}" for number in range(30)] * 2, "file": [str(n) for n in range(20)] * 3}
    rows = slices.table(np.ones(60, bool), kinds)
    assert [sum(row["kind"] == kind for row in rows) for kind in kinds] == [20, 20]
    assert slices.left_out(kinds) == {"class": {"shown": 20, "left_out": 10}}
    assert slices.left_out({"class": []}) == {}


def test_thirds_of_mostly_equal_values() -> None:
    """Two thirds of the images share the median: they stand together, and only what is above it is apart."""
    found = slices.thirds([5.0] * 7 + [1.0, 9.0], ("a", "b", "c"))
    assert found == ["1 a: to 5"] * 8 + ["3 c: above 5"]
    assert slices.thirds([1.0, *[5.0] * 7, 9.0], ("a", "b", "c"))[8] == "3 c: above 5"
    # Equal above a lowest third: the middle takes them, and the top stays empty.
    assert (
        slices.thirds([1.0, 1.0, 1.0, *[5.0] * 6], ("a", "b", "c"), " px")
        == ["1 a: to 1 px"] * 3 + ["2 b: to 5 px"] * 6
    )


def test_thirds_without_numbers() -> None:
    nan, infinite = float("nan"), float("inf")
    assert slices.thirds([], ("a", "b", "c")) == []
    assert slices.thirds([nan, nan], ("a", "b", "c")) == ["unknown", "unknown"]
    found = slices.thirds([nan, 1.0, 2.0, 3.0, infinite, -infinite], ("a", "b", "c"))
    assert found == ["unknown", "1 a: to 1", "2 b: to 2", "3 c: above 2", "unknown", "unknown"]
    assert slices.thirds([nan, 4.0], ("a", "b", "c")) == ["unknown", "1 a: to 4"]
    unmeasured = [fact(width=None, height=3, brightness=None), fact(width=0, height=3)]
    assert slices.kinds(unmeasured)["shorter side"] == ["unknown", "unknown"]


def test_a_kind_of_one_slice_is_no_slice() -> None:
    """Nothing is said of a part that is the whole, which is what equal or unknown values make."""
    for values in ([5.0] * 6, [float("nan")] * 6):
        assert slices.table(np.ones(6, bool), {"brightness": slices.thirds(values, ("a", "b", "c"))}) == []
