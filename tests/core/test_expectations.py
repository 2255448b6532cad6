"""Who is quarantined and why, what stands in the two tables, and which rules are asked of them."""

from __future__ import annotations

from typing import Any

import pytest

from stages.core import evidence, expectations, images, quarantine, verdict
from stages.core.facts import Facts
from stages.validate import ValidateParams


def fact(name: str, label: str = "cats", image_id: str = "", **known: Any) -> Facts:
    values: dict[str, Any] = {
        "given_split": None, "size_bytes": 9, "format": "PNG", "extension_matches": True,
        "width": 90, "height": 60, "aspect": 1.5, "mode": "RGB", "frames": 1, "orientation": 1,
        "brightness": 0.5, "contrast": 0.2, "sharpness": 0.01, "dhash": "0" * 16,
    }  # fmt: skip
    return Facts(name=name, label=label, image_id=image_id or name, **(values | known))


def reasons(*found: Facts, **params: Any) -> list[str | None]:
    judged = quarantine.judge(found, ValidateParams(**params))
    return [judgement and judgement[0] for judgement in judged]


@pytest.mark.parametrize(
    ("known", "params", "reason"),
    [
        ({}, {}, None),
        ({"reason": "truncated", "detail": "cut"}, {}, "truncated"),
        ({"format": None, "reason": "empty"}, {}, "empty"),
        ({"format": "WEBP"}, {}, "format"),
        ({"format": "WEBP"}, {"formats": ["WEBP"]}, None),
        ({"width": 4}, {}, "too_small"),
        ({"width": 4}, {"min_side": 4}, None),
        ({"width": 4}, {"min_side": 5}, "too_small"),
        ({"width": 20000}, {}, "too_large"),
        ({"aspect": 5.1}, {}, "aspect"),
        ({"aspect": 5.1}, {"max_aspect": 6.0}, None),
        ({"frames": 3}, {}, None),
        ({"frames": 3}, {"multi_frame": "quarantine"}, "multi_frame"),
        ({"frames": None}, {"multi_frame": "quarantine"}, "multi_frame"),
    ],
)
def test_quarantine_of_one_image(known: dict[str, Any], params: dict[str, Any], reason: str | None) -> None:
    assert reasons(fact("a", **known), **params) == [reason]
    assert reason is None or reason in quarantine.REASONS
    assert set(images.REASONS) < set(quarantine.REASONS)


def test_same_bytes_under_two_labels_are_both_quarantined() -> None:
    found = [fact("a", "cats", "x"), fact("b", "dogs", "x"), fact("c", "dogs", "y"), fact("d", "dogs", "y")]
    assert reasons(*found) == ["label_conflict", "label_conflict", None, None]
    rows = quarantine.rows(found, quarantine.judge(found, ValidateParams()))
    assert [row["name"] for row in rows] == ["a", "b"]
    assert "'cats', 'dogs'" in rows[0]["detail"]


def images_table(found: list[Facts], groups: list[str], why: list[str | None] | None = None) -> dict[str, list[Any]]:
    table = evidence.image_table(found, groups, why or [None] * len(found))
    assert table.schema.equals(evidence.IMAGES)
    columns: dict[str, list[Any]] = table.to_pydict()
    return columns


def test_relations_name_the_other_image() -> None:
    found = [
        fact("a", "cats", "x", given_split="train"),
        fact("b", "cats", "x", given_split="train"),
        fact("c", "dogs", "y", given_split="val"),
        fact("d", "dogs", "z", given_split="val"),
        fact("D", "dogs", "w"),
    ]
    table = images_table(found, ["x", "x", "x", "z", "w"])
    assert table["copy_of"] == [None, "a", None, None, None]
    assert table["near_copy_of"] == [None, None, "a", None, None]
    assert table["disagrees_with"] == ["c", "c", "a", None, None]
    assert table["leaks_into"] == ["c", "c", "a", None, None]
    assert table["same_name_as"] == [None, None, None, None, "d"]
    assert table["shorter_side"] == [60] * 5
    assert table["longer_side"] == [90] * 5


def test_quality_and_duplicates_are_asked_of_accepted_images_only() -> None:
    found = [fact("a", "cats", "x"), fact("b", "dogs", "x"), fact("c", "cats", "c")]
    table = images_table(found, ["x", "x", "c"], ["label_conflict", "label_conflict", None])
    assert table["conflicts_with"] == ["b", "a", None]
    assert table["brightness"] == [None, None, 0.5]
    assert table["copy_of"] == [None, None, None]


def test_sharpness_is_not_asked_of_small_images() -> None:
    table = images_table([fact("a"), fact("b", width=64, height=64)], ["a", "b"])
    assert table["sharpness"] == [None, 0.01]


def test_class_table_holds_empty_and_unknown_classes() -> None:
    found = [fact("a"), fact("b"), fact("c"), fact("d", "dogs"), fact("e", "new")]
    why = [None, None, "empty", None, "empty"]
    rows = evidence.class_table(found, why, ["cats", "dogs", "birds"]).to_pylist()
    assert [(row["label"], row["images"], row["accepted"], row["times_smaller"]) for row in rows] == [
        ("birds", 0, 0, None), ("cats", 3, 2, 1.0), ("dogs", 1, 1, 2.0), ("new", 1, 0, None),
    ]  # fmt: skip


def test_every_rule_asks_a_column_that_exists_and_says_what_it_allows() -> None:
    asked = expectations.rules(ValidateParams(), ["cats", "dogs"], 7)
    assert len({rule.id for rule in asked}) == len(asked)
    schemas = {"images": evidence.IMAGES, "classes": evidence.CLASSES}
    for rule in asked:
        assert rule.description.endswith(".")
        assert rule.advice
        if rule.threshold is None:
            assert rule.expectation.startswith("expect_table_")
        else:
            assert rule.arguments["column"] in schemas[rule.table].names
            assert rule.arguments["mostly"] == pytest.approx(1 - rule.threshold)
    assert [rule.id for rule in asked if rule.severity == "critical"] == [
        "columns", "file_count", "names_present", "names_unique", "labels_known", "class_count",
        "images_per_class", "bad_files", "label_conflicts",
    ]  # fmt: skip


def test_thresholds_come_from_the_parameters() -> None:
    settings = ValidateParams(max_bad_fraction=0.07, min_images_per_class=3, dark_below=0.2, max_imbalance=4.0)
    asked = {rule.id: rule for rule in expectations.rules(settings, ["a", "b"], 1)}
    assert asked["bad_files"].arguments["mostly"] == 0.93
    assert "7 %" in asked["bad_files"].description
    assert asked["images_per_class"].arguments["min_value"] == 3
    assert asked["dark"].arguments["min_value"] == 0.2
    assert asked["imbalance"].arguments["max_value"] == 4.0


def answers(broken: set[str]) -> list[verdict.Answer]:
    asked = expectations.rules(ValidateParams(), ["cats", "dogs"], 2)
    return [
        verdict.Answer(rule, rule.id not in broken, 0.5, int(rule.id in broken), ("a",) * (rule.id in broken))
        for rule in asked
    ]


@pytest.mark.parametrize(
    ("broken", "expected"),
    [
        (set(), "accepted"),
        ({"dark"}, "accepted"),
        ({"dark", "leakage"}, "accepted_with_warnings"),
        ({"leakage", "bad_files"}, "rejected"),
    ],
)
def test_severity_decides_the_verdict(broken: set[str], expected: str) -> None:
    found = [fact("a"), fact("b", "dogs")]
    classes = evidence.class_table(found, [None, None], ["cats", "dogs"])
    record = verdict.results(answers(broken), found, ["a", "b"], [None, None], classes, [])
    assert record["verdict"] == expected
    assert {rule["id"] for rule in verdict.failed_rules(record)} == broken
    if expected == "rejected":
        message = verdict.rejection(record, "reports/x.html")
        assert "bad_files" in message
        assert "leakage" not in message
        assert "reports/x.html" in message


def test_record_counts_groups_and_leaks() -> None:
    found = [
        fact("a", image_id="x", given_split="train"), fact("b", image_id="x", given_split="val"),
        fact("c"), fact("d"), fact("e"),
    ]  # fmt: skip
    groups, why = ["x", "x", "c", "c", "e"], [None, None, None, None, "aspect"]
    classes = evidence.class_table(found, why, ["cats"])
    record = verdict.results(answers(set()), found, groups, why, classes, [{"name": "l", "reason": "link"}])
    assert (record["images"], record["accepted"], record["quarantined"]) == (5, 4, {"aspect": 1})
    assert (record["duplicate_groups"]["exact"], record["duplicate_groups"]["near"]) == (1, 1)
    assert record["leakage"] == {
        "groups": 1, "files": 2,
        "listed": [{"kind": "exact", "files": 2, "labels": ["cats"], "splits": ["train", "val"],
                    "names": ["a", "b"]}],
    }  # fmt: skip
    assert record["skipped_by_download"] == [{"name": "l", "reason": "link"}]
