"""The profile: counts and a sample that no order, copy or growth of the set distorts."""

from __future__ import annotations

import hashlib
import json
import random
import re
from typing import Any

import pytest

from stages.core import profile
from stages.core.facts import Facts
from stages.core.measurement import Measurement


def image(number: int, label: str = "cat", **figures: Any) -> Facts:
    measured = {
        "size_bytes": 1000 + number % 97, "format": "JPEG", "width": 300, "height": 200, "mode": "RGB",
        "brightness": 1 / 3, "contrast": 0.2, "entropy": 7.123456789, "sharpness": 0.1, "saturation": 0.25,
        "warmth": -0.05, "layout": (-700, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 1100),
    } | figures  # fmt: skip
    image_id = hashlib.sha256(str(number).encode()).hexdigest()
    return Facts(f"{number}.jpg", label, None, image_id, Measurement(**measured))


def made(numbers: Any, **figures: Any) -> dict[str, Any]:
    facts = [image(number, "cat" if number % 2 else "dog", **figures) for number in numbers]
    return profile.profile(facts, [fact.image_id for fact in facts], [None] * len(facts))


def test_counts_are_of_images_and_quarantined_ones_are_only_counted() -> None:
    facts = [
        image(1),
        image(2, "dog"),
        image(3, format="PNG"),
        image(4),
        Facts("x", "dog", None, "f", Measurement(0, None)),
    ]
    found = profile.profile(facts, ["1", "2", "1", "4", "5"], [None, None, None, "too_small", "empty"])
    assert {key: found[key] for key in ("images", "accepted", "groups")} == {"images": 5, "accepted": 3, "groups": 2}
    assert found["quarantined"] == {"empty": 1, "too_small": 1}
    assert found["classes"] == {"cat": 2, "dog": 1}
    assert found["formats"] == {"JPEG": 2, "PNG": 1}
    assert found["modes"] == {"RGB": 3}
    lines = sorted(f"{fact.image_id} {fact.label}\n" for fact in facts[:3])
    assert found["digest"] == hashlib.sha256("".join(lines).encode()).hexdigest()
    assert list(found["sample"]) == list(profile.COLUMNS)
    assert {len(column) for column in found["sample"].values()} == {2}


def test_values_are_short_and_in_their_units() -> None:
    sample = made([1])["sample"]
    assert sample["brightness"] == [0.333333]
    assert sample["entropy"] == [7.12346]
    assert sample["shorter_side"] == [200]
    assert sample["aspect"] == [1.5]
    assert sample["layout"] == [[-700, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 1100]]
    assert made([1], width=40, height=40)["sample"]["sharpness"] == [None]


def test_copies_count_once_by_the_smallest_id() -> None:
    facts = [image(number) for number in range(30)]
    found = profile.profile(facts, [str(number // 3) for number in range(30)], [None] * 30)
    expected = {min(facts[at : at + 3], key=lambda fact: fact.image_id).image_id[:16] for at in range(0, 30, 3)}
    assert set(found["sample"]["image_id"]) == expected


def test_groups_of_many_copies_are_drawn_no_more_often_than_others() -> None:
    facts = [image(number) for number in range(10_000)]
    # 1,000 groups of 9 and 1,000 single images; a group goes by its smallest id.
    groups = [f"of nine {number // 9}" if number < 9000 else str(number) for number in range(10_000)]
    found = profile.profile(facts, groups, [None] * 10_000)
    single = {fact.image_id[:16] for fact in facts[9000:]}
    assert sum(image_id in single for image_id in found["sample"]["image_id"]) == pytest.approx(250, abs=45)


def test_no_order_matters_and_a_full_sample_stays_small() -> None:
    facts = [image(number, f"class {number % 100}") for number in range(700)]
    groups = [fact.image_id for fact in facts]
    found = profile.profile(facts, groups, [None] * 700)
    order = list(range(700))
    random.Random(1).shuffle(order)
    again = profile.profile([facts[at] for at in order], [groups[at] for at in order], [None] * 700)
    text = json.dumps(found, separators=(",", ":"))
    assert text == json.dumps(again, separators=(",", ":"))
    assert len(found["sample"]["image_id"]) == profile.SAMPLE
    assert len(text) < 120_000
    assert profile.read(json.loads(text)) == found


def test_an_empty_set_has_a_profile() -> None:
    found = profile.profile([], [], [])
    assert profile.read(json.loads(json.dumps(found))) == found


def test_overlap_of_small_sets_is_counted() -> None:
    assert profile.overlap(made(range(400)), made(range(100, 450))) == profile.Overlap(50, 100, 300, True, 0.0)
    assert profile.overlap(made([]), made(range(5))) == profile.Overlap(5, 0, 0, True, 0.0)


def test_overlap_of_large_sets_is_estimated_within_its_error() -> None:
    old, new = made(range(9000)), made(range(1000, 10_000))
    found = profile.overlap(old, new)
    assert not found.exact
    assert 40 < found.standard_error < 150
    assert found.kept == pytest.approx(8000, abs=4 * found.standard_error)
    assert (found.kept + found.removed, found.kept + found.added) == (9000, 9000)
    same = profile.overlap(old, made(range(9000)))
    assert (same.added, same.removed, same.kept, same.exact) == (0, 0, 9000, True)
    # One that no sample covers: at least the difference of the counts, with an error that admits more.
    more = profile.overlap(old, made(range(9001)))
    assert more.added >= 1
    assert more.standard_error > 0
    apart = profile.overlap(old, made(range(20_000, 21_000)))
    assert apart.kept == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "version is 2, must be 1"),
        ({"version": True}, "version is True"),
        ({"images": -1}, "images is -1, must be a whole number from 0"),
        ({"accepted": 29}, "must add up to"),
        ({"classes": {"cat": 1.5}}, "classes.cat is 1.5"),
        ({"classes": ["cat"]}, "classes is ['cat'], must be an object"),
        ({"formats": {"JPEG": 1}}, "formats adds up to 1, must add up to accepted, 30"),
        ({"quarantined": {"empty": 1}}, "quarantined adds up to 1, must add up to images - accepted, 0"),
        ({"digest": "F" * 64}, "digest is 'FF"),
        ({"groups": 31}, "groups is 31, must be from 1 to accepted, 30"),
        ({"groups": 29}, "is a list of 30, must be a list of 29"),
        ({"sample": None}, "sample is None, must be an object"),
        ({"comment": 1}, "unknown: comment"),
    ],
)
def test_an_edited_profile_is_refused_with_the_key(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        profile.read(made(range(30)) | change)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("brightness", float("nan"), "sample.brightness[3] is nan, must be a finite number or null"),
        ("brightness", True, "is True"),
        ("label", 7, "sample.label[3] is 7, must be text"),
        ("layout", [1, 2], "must be 12 numbers or null"),
        ("image_id", "abc", "must be 16 hex digits in lower case"),
    ],
)
def test_an_edited_sample_is_refused_with_the_place(column: str, value: Any, message: str) -> None:
    found = made(range(30))
    found["sample"][column][3] = value
    with pytest.raises(ValueError, match=re.escape(message)):
        profile.read(found)


def test_a_sample_in_another_order_or_with_one_image_twice_is_refused() -> None:
    found = made(range(30))
    ids = found["sample"]["image_id"]
    for wrong in (ids[::-1], [ids[0], *ids[:-1]]):
        with pytest.raises(ValueError, match=r"image_id\[1\]"):
            profile.read(found | {"sample": found["sample"] | {"image_id": wrong}})


@pytest.mark.parametrize("value", [None, [], "text", {}, {"version": 1}])
def test_what_is_no_profile_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="the profile"):
        profile.read(value)
