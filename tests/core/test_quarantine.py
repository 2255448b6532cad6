"""Who is quarantined and why, what people's decisions change about it, and what follows for the critical rules."""

from __future__ import annotations

from typing import Any

import pytest

from stages.core import evidence, images, quarantine, review
from stages.core.evidence import Known
from stages.core.facts import Facts
from stages.core.measurement import Measurement
from stages.validate import ValidateParams

HEADER = "decision,name,image_id,why\n"
X, Y = "a" * 64, "b" * 64


def fact(name: str, label: str = "cats", image_id: str = X, **known: Any) -> Facts:
    figures: dict[str, Any] = {
        "size_bytes": 9, "format": "PNG", "width": 90, "height": 60, "mode": "RGB", "bit_depth": 8, "frames": 1,
        "orientation": 1, "brightness": 0.5, "contrast": 0.2, "entropy": 7.0, "sharpness": 0.1, "saturation": 0.2,
        "warmth": 0.0,
    }  # fmt: skip
    return Facts(name, label, None, image_id, Measurement(**figures | known))


def broken(name: str, reason: str, format: str | None = "PNG") -> Facts:
    return Facts(name, "cats", None, X, Measurement(9, format, reason, "what was found"))


def known(facts: list[Facts], lines: str = "", **params: Any) -> Known:
    decided = review.apply(review.parse(HEADER + lines, "decisions.csv"), facts, "decisions.csv")
    judged = quarantine.judge(facts, decided.decisions, ValidateParams(**params))
    return Known(facts, [one.image_id for one in facts], [None] * len(facts), judged, decided)


def reasons(facts: list[Facts], lines: str = "", **params: Any) -> list[str | None]:
    return known(facts, lines, **params).reasons


def counted(found: Known, column: str) -> list[Any]:
    """What the rules bad_files and label_conflicts are asked about."""
    values: list[Any] = evidence.image_table(found)[column].to_pylist()
    return values


@pytest.mark.parametrize(
    ("figures", "params", "reason"),
    [
        ({}, {}, None),
        ({"format": "WEBP"}, {}, "format"),
        ({"format": "WEBP"}, {"formats": ["WEBP"]}, None),
        ({"width": 4}, {}, "too_small"),
        ({"width": 7}, {"max_aspect": 99.0}, "too_small"),
        ({"width": 8}, {"max_aspect": 99.0}, None),
        ({"width": 4}, {"min_side": 4, "max_aspect": 99.0}, None),
        ({"height": 4}, {"min_side": 5}, "too_small"),
        ({"width": 20000}, {}, "too_large"),
        ({"width": 20000, "height": 20000}, {"max_side": 20000}, None),
        ({"width": 306}, {}, "aspect"),
        ({"width": 300}, {}, None),
        ({"width": 306}, {"max_aspect": 6.0}, None),
        ({"height": 451}, {}, "aspect"),
        ({"frames": 3}, {}, None),
        ({"frames": 3}, {"multi_frame": "quarantine"}, "multi_frame"),
        ({"frames": None}, {"multi_frame": "quarantine"}, "multi_frame"),
    ],
)
def test_one_image_by_itself(figures: dict[str, Any], params: dict[str, Any], reason: str | None) -> None:
    assert reasons([fact("a", **figures)], **params) == [reason]
    assert reason is None or reason in quarantine.REASONS


@pytest.mark.parametrize("reason", [*images.REASONS, *quarantine.LOST])
def test_an_image_without_pixels_keeps_its_reason_whatever_people_decided(reason: str) -> None:
    assert reason in quarantine.REASONS
    for lines in ("", "allow,a,,x\n"):
        found = known([broken("a", reason)], lines)
        assert found.judged == [(reason, "what was found")]
    assert reasons([broken("a", reason)], "deny,a,,x\n") == ["denied"]


def test_an_undecodable_file_of_a_format_that_is_not_allowed_is_one_of_that_format() -> None:
    assert reasons([broken("a", "truncated", "WEBP")]) == ["format"]
    assert reasons([broken("a", "truncated", "WEBP")], "allow,a,,x\n") == ["format"]
    assert reasons([broken("a", "empty", None)]) == ["empty"]


@pytest.mark.parametrize(
    ("figures", "params"),
    [
        ({"width": 4}, {}),
        ({"width": 900}, {}),
        ({"width": 20000}, {}),
        ({"format": "WEBP"}, {}),
        ({"frames": 3}, {"multi_frame": "quarantine"}),
    ],
)
@pytest.mark.parametrize("line", ["allow,a,,x\n", f"allow,,{X},x\n", f"allow,a,{X},x\n"])
def test_allow_overrides_what_an_images_own_facts_say(
    line: str, figures: dict[str, Any], params: dict[str, Any]
) -> None:
    facts = [fact("a", **figures), fact("b", image_id=Y, **figures)]
    assert None not in reasons(facts, **params)
    assert reasons(facts, line, **params)[0] is None
    assert reasons(facts, line, **params)[1] is not None


def test_deny_says_why_and_where() -> None:
    (judged,) = known([fact("a")], "deny,a,,a drawing\n").judged
    assert judged == ("denied", "a drawing (decisions.csv, line 2)")


def test_what_people_decided_on_does_not_count_as_bad() -> None:
    facts = [fact("a", image_id=Y), fact("b", width=4), fact("c", image_id="c" * 64, width=4)]
    found = known(facts, "deny,a,,x\nallow,b,,x\n")
    assert found.reasons == ["denied", None, "too_small"]
    assert counted(found, "quarantine") == [None, None, "too_small"]


def test_same_bytes_under_two_labels_are_all_quarantined() -> None:
    found = known([fact("a"), fact("b", "dogs"), fact("c", "dogs", Y), fact("d", "dogs", Y)])
    assert found.reasons == ["label_conflict", "label_conflict", None, None]
    assert counted(found, "conflicts_with") == ["b", "a", None, None]
    rows = quarantine.rows(found.facts, found.judged)
    assert [row["name"] for row in rows] == ["a", "b"]
    assert "'cats', 'dogs'" in rows[0]["detail"]


def test_a_conflict_is_told_even_of_images_that_are_bad_for_another_reason() -> None:
    found = known([fact("a", width=4), fact("b", "dogs", width=4)])
    assert found.reasons == ["too_small", "too_small"]
    assert counted(found, "conflicts_with") == ["b", "a"]


def test_deny_of_one_copy_settles_a_conflict() -> None:
    found = known([fact("a"), fact("b", "dogs")], "deny,b,,is a cat\n")
    assert found.reasons == [None, "denied"]
    assert counted(found, "conflicts_with") == [None, None]
    assert counted(found, "quarantine") == [None, None]


def test_deny_of_one_of_two_rivals_settles_nothing() -> None:
    found = known([fact("a"), fact("b", "dogs"), fact("c", "dogs")], "deny,b,,x\n")
    assert found.reasons == ["label_conflict", "denied", "label_conflict"]
    assert counted(found, "conflicts_with") == ["c", None, "a"]


def test_deny_by_id_leaves_no_copy() -> None:
    found = known([fact("a"), fact("b", "dogs")], f"deny,,{X},x\n")
    assert found.reasons == ["denied", "denied"]
    assert counted(found, "conflicts_with") == [None, None]


def test_allow_of_one_label_settles_a_conflict_and_keeps_the_other_out() -> None:
    found = known([fact("a"), fact("b", "dogs")], "allow,a,,is a cat\n")
    assert found.reasons == [None, "label_conflict"]
    assert counted(found, "conflicts_with") == [None, None]  # the critical rule is kept
    assert counted(found, "quarantine") == [None, None]
    assert evidence.decision_table(found, [one for one in found.review.decisions if one])[
        "without_effect"
    ].to_pylist() == [None]


def test_allow_of_one_label_frees_every_copy_of_that_label() -> None:
    found = known([fact("a"), fact("a2"), fact("b", "dogs"), fact("b2", "dogs")], "allow,a,,is a cat\n")
    assert found.reasons == [None, None, "label_conflict", "label_conflict"]
    assert counted(found, "conflicts_with") == [None] * 4


@pytest.mark.parametrize("lines", ["allow,a,,x\nallow,b,,y\n", f"allow,,{X},x\n"])
def test_allow_of_both_labels_leaves_the_conflict(lines: str) -> None:
    found = known([fact("a"), fact("b", "dogs")], lines)
    assert found.reasons == ["label_conflict", "label_conflict"]
    assert counted(found, "conflicts_with") == ["b", "a"]
    decisions = list({one.line: one for one in found.review.decisions if one}.values())
    effects = evidence.decision_table(found, decisions)["without_effect"].to_pylist()
    assert effects == ["still quarantined: label_conflict"] * len(decisions)


def test_a_conflict_of_three_labels() -> None:
    facts = [fact("a"), fact("b", "dogs"), fact("c", "wolves")]
    assert reasons(facts) == ["label_conflict"] * 3
    assert reasons(facts, "allow,b,,x\n") == ["label_conflict", None, "label_conflict"]
    assert counted(known(facts, "allow,b,,x\n"), "conflicts_with") == [None] * 3
    assert reasons(facts, "deny,b,,x\n") == ["label_conflict", "denied", "label_conflict"]
    assert reasons(facts, "deny,b,,x\ndeny,c,,x\n") == [None, "denied", "denied"]


def test_rows_are_of_judged_images_only_and_in_order() -> None:
    found = known([fact("a"), broken("b", "empty"), fact("c", image_id=Y, width=4)])
    rows = quarantine.rows(found.facts, found.judged)
    assert [(row["name"], row["label"], row["reason"]) for row in rows] == [
        ("b", "cats", "empty"), ("c", "cats", "too_small"),
    ]  # fmt: skip
    assert all(row["detail"] for row in rows)
