"""What stands in the tables, which rules are asked of them, and what the answers amount to."""

from __future__ import annotations

import json
from typing import Any

import pytest

from stages.core import evidence, expectations, quarantine, review, verdict
from stages.core.drift import Drift
from stages.core.evidence import Known
from stages.core.expectations import SEVERITIES, Rule, Situation
from stages.core.facts import Facts
from stages.core.measurement import Measurement
from stages.core.neighbours import Neighbour
from stages.validate import ValidateParams

CLASSES = ["cats", "dogs"]
EVERY = Situation(CLASSES, 7, class_set=True, decisions=True, drift=True)
SCHEMAS = {
    "images": evidence.IMAGES, "classes": evidence.CLASSES, "class_set": evidence.CLASS_SET,
    "decisions": evidence.DECISIONS, "drift": evidence.DRIFT,
}  # fmt: skip
OPTIONAL = {"class_set": "class_set", "decisions": "decisions", "drift": "drift"}  # rule: its table
CRITICAL = [
    "columns", "file_count", "names_present", "names_unique", "labels_known", "class_set", "class_count",
    "images_per_class", "bad_files", "label_conflicts",
]  # fmt: skip


def fact(name: str, label: str = "cats", image_id: str = "", split: str | None = None, **figures: Any) -> Facts:
    measured: dict[str, Any] = {
        "size_bytes": 9, "format": "PNG", "width": 90, "height": 60, "mode": "RGB", "bit_depth": 8, "frames": 1,
        "orientation": 1, "trailing_bytes": 0, "brightness": 0.5, "contrast": 0.2, "entropy": 7.0, "sharpness": 0.1,
        "saturation": 0.2, "warmth": 0.0,
    }  # fmt: skip
    return Facts(name, label, split, image_id or name, Measurement(**measured | figures))


def known(
    facts: list[Facts],
    groups: list[str] | None = None,
    why: list[str | None] | None = None,
    lines: str = "",
    near: list[Neighbour | None] | None = None,
) -> Known:
    """With `why` the reasons are given, otherwise judged."""
    decided = review.apply(review.parse(f"decision,name,image_id,why\n{lines}", "d"), facts, "d")
    judged = (
        [reason and (reason, "detail") for reason in why]
        if why is not None
        else quarantine.judge(facts, decided.decisions, ValidateParams())
    )
    none: list[Neighbour | None] = [None] * len(facts)
    return Known(facts, groups or [one.image_id for one in facts], near or none, judged, decided)  # type: ignore[arg-type]


def table(*args: Any, **options: Any) -> dict[str, list[Any]]:
    found = evidence.image_table(known(*args, **options))
    assert found.schema.equals(evidence.IMAGES)
    columns: dict[str, list[Any]] = found.to_pydict()
    return columns


def asked(situation: Situation = EVERY, **params: Any) -> dict[str, Rule]:
    found = expectations.rules(ValidateParams(**params), situation)
    assert len({rule.id for rule in found}) == len(found)
    return {rule.id: rule for rule in found}


def test_relations_name_the_other_image() -> None:
    found = table(
        [
            fact("a", "cats", "x", "train"),
            fact("b", "cats", "x", "train"),
            fact("c", "dogs", "y", "val"),
            fact("d", "dogs", "z", "val"),
            fact("D", "dogs", "w"),
        ],
        ["x", "x", "x", "z", "w"],
    )
    assert found["copy_of"] == [None, "a", None, None, None]
    assert found["near_copy_of"] == [None, None, "a", None, None]
    assert found["disagrees_with"] == ["c", "c", "a", None, None]
    assert found["leaks_into"] == ["c", "c", "a", None, None]
    assert found["same_name_as"] == [None, None, None, None, "d"]
    assert found["shorter_side"] == [60] * 5
    assert found["longer_side"] == [90] * 5


def test_quality_and_duplicates_are_asked_of_accepted_images_only() -> None:
    found = table([fact("a", "cats", "x"), fact("b", "dogs", "x"), fact("c", "cats", "c", height=80)])
    assert found["quarantine"] == ["label_conflict", "label_conflict", None]
    assert found["conflicts_with"] == ["b", "a", None]
    for column in (
        "mode", "bit_depth", "frames", "orientation", "trailing_bytes", "brightness", "contrast", "sharpness",
    ):  # fmt: skip
        assert found[column][:2] == [None, None]
        assert found[column][2] is not None
    assert found["copy_of"] == [None, None, None]


def test_what_people_decided_on_is_not_complained_of_again() -> None:
    facts = [fact("a", width=4), fact("b", width=4), fact("c", width=4)]
    found = table(facts, lines="allow,a,,x\ndeny,b,,x\n")
    assert found["quarantine"] == [None, None, "too_small"]
    assert found["shorter_side"] == [None, None, 4]
    assert found["aspect"] == [None, None, 15.0]


def test_sharpness_is_not_asked_of_small_images() -> None:
    assert table([fact("a"), fact("b", width=64, height=64)])["sharpness"] == [None, 0.1]


@pytest.mark.parametrize(
    ("grey", "of", "odd"), [(0, 20, None), (1, 20, "grey"), (2, 20, "grey"), (3, 20, None), (19, 20, "coloured")]
)
def test_a_colour_is_odd_where_hardly_any_image_has_it(grey: int, of: int, odd: str | None) -> None:
    facts = [fact(f"{at:02}", saturation=0.0 if at < grey else 0.3) for at in range(of)]
    column = table(facts)["odd_colour"]
    assert {value for value in column if value} == ({odd} if odd else set())
    assert sum(value is not None for value in column) == (min(grey, of - grey) if odd else 0)


def test_outliers_are_the_neighbours_word() -> None:
    found = table([fact("a"), fact("b"), fact("c")], near=[Neighbour("b", 3.0, 1.5), Neighbour("a", 3.0, None), None])
    assert found["outlier"] == [1.5, None, None]


def test_class_table_holds_empty_and_unknown_classes() -> None:
    facts = [fact("a"), fact("b"), fact("c"), fact("d", "dogs"), fact("e", "new")]
    found = known(facts, why=[None, None, "empty", None, "empty"])
    rows = evidence.class_table(found, ["cats", "dogs", "birds"]).to_pylist()
    assert [(row["label"], row["images"], row["accepted"], row["times_smaller"]) for row in rows] == [
        ("birds", 0, 0, None), ("cats", 3, 2, 1.0), ("dogs", 1, 1, 2.0), ("new", 1, 0, None),
    ]  # fmt: skip


def test_class_set_table_says_how_the_classes_differ_from_the_accepted_ones() -> None:
    found = evidence.class_set_table(["cats", "Dogs", "wolves"], ["cats", "dogs", "birds"])
    assert found.schema.equals(evidence.CLASS_SET)
    rows = found.to_pylist()
    assert {row["label"]: row["change"] for row in rows} == {
        "cats": None, "Dogs": "was 'dogs'", "dogs": "gone", "wolves": "new", "birds": "gone",
    }  # fmt: skip


def test_decision_table_says_which_lines_have_no_effect() -> None:
    facts = [fact("a", width=4), Facts("b", "cats", None, "b", Measurement(9, "PNG", "truncated", "cut"))]
    lines = "allow,a,,x\nallow,b,,x\ndeny,gone,,x\n"
    decisions = review.parse(f"decision,name,image_id,why\n{lines}", "d")
    found = evidence.decision_table(known(facts, lines=lines), decisions)
    assert found.schema.equals(evidence.DECISIONS)
    assert found.to_pydict() == {
        "decision": ["line 2: allow a", "line 3: allow b", "line 4: deny gone"],
        "why": ["x", "x", "x"],
        "without_effect": [None, "still quarantined: truncated", "no such image"],
    }


def test_drift_table_has_a_row_for_every_quantity() -> None:
    drifts = [
        Drift(name, "t", 0.5, "e", 0.1, 0.1, name == "warmth", "low", "high", "") for name in ("aspect", "warmth")
    ]
    found = evidence.drift_table(drifts)
    assert found.schema.equals(evidence.DRIFT)
    assert found.to_pydict() == {"quantity": ["aspect", "warmth"], "drifted": [None, "low → high"]}


def test_every_rule_asks_a_column_that_exists_and_says_what_it_allows() -> None:
    found = asked()
    for rule in found.values():
        assert rule.description.endswith(".")
        assert rule.advice.endswith(".")
        if rule.threshold is None:
            assert rule.expectation.startswith("expect_table_")
        else:
            assert rule.expectation.startswith("expect_column_values_to_")
            assert rule.arguments["column"] in SCHEMAS[rule.table].names
            assert rule.arguments["mostly"] == pytest.approx(1 - rule.threshold)
    assert [rule.id for rule in found.values() if rule.severity == "critical"] == CRITICAL


def test_every_column_of_the_tables_is_asked_about() -> None:
    columns = {(rule.table, rule.arguments.get("column")) for rule in asked().values()}
    known_by = {
        "images": "name",
        "classes": "label",
        "class_set": "label",
        "decisions": "decision",
        "drift": "quantity",
    }
    counts = {("classes", "images"), ("decisions", "why")}  # stand there for the reader
    for name, schema in SCHEMAS.items():
        rest = {(name, column) for column in schema.names if column != known_by[name]}
        assert rest - counts <= columns


def limits() -> list[str]:
    """The parameters that are the limit of some rule."""
    return [
        name
        for name in ValidateParams.model_fields
        if name.startswith(("max_", "min_", "dark_", "bright_", "blurred_", "uniform_", "outlier_", "drift_"))
        and name != "min_drift"
    ]


@pytest.mark.parametrize("name", limits())
def test_every_limit_changes_a_rule_and_stands_in_its_text(name: str) -> None:
    default = getattr(ValidateParams(), name)
    other, shown = {
        "fraction": (0.0625, "6.25 %"),
        "rate": (0.0625, "6.25 %"),
        "below": (0.0625, "0.0625"),
        "above": (0.9375, "0.9375"),
    }.get(name.rsplit("_", 1)[-1], (37, "37"))
    if name == "outlier_above":
        other, shown = 7.25, "7.25"
    if isinstance(default, float):
        other = float(other)
    before, after = asked(), asked(**{name: other})
    changed = [id for id in before if before[id] != after[id]]
    assert len(changed) == 1
    (rule,) = (after[id] for id in changed)
    assert shown in rule.description
    assert before[rule.id].description != rule.description
    if name != "drift_false_alarm_rate":  # what it decides stands in the table already
        assert before[rule.id].arguments != rule.arguments or before[rule.id].threshold != rule.threshold


def test_thresholds_come_from_the_parameters() -> None:
    found = asked(max_bad_fraction=0.07, min_images_per_class=3, dark_below=0.2, max_imbalance=4.0)
    assert found["bad_files"].arguments["mostly"] == 0.93
    assert "7 %" in found["bad_files"].description
    assert found["images_per_class"].arguments["min_value"] == 3
    assert found["dark"].arguments["min_value"] == 0.2
    assert found["imbalance"].arguments["max_value"] == 4.0
    assert found["file_count"].arguments["value"] == 7
    assert found["labels_known"].arguments["value_set"] == CLASSES


@pytest.mark.parametrize("there", [(), ("class_set",), ("decisions",), ("drift",), tuple(OPTIONAL)])
def test_optional_rules_are_asked_where_there_is_something_to_ask(there: tuple[str, ...]) -> None:
    found = asked(Situation(CLASSES, 7, **dict.fromkeys(there, True)))
    assert set(OPTIONAL) & set(found) == set(there)
    assert set(asked()) - set(found) == set(OPTIONAL) - set(there)
    assert {rule: found[rule].table for rule in there} == {rule: OPTIONAL[rule] for rule in there}


def test_without_overrides_the_severities_are_in_order() -> None:
    severities = [rule.severity for rule in asked().values()]
    assert severities == sorted(severities, key=SEVERITIES.index)
    assert set(severities) == set(SEVERITIES)


def test_a_severity_can_be_changed_and_moves_the_rule() -> None:
    before = asked()
    overrides = {"dark": "critical", "bad_files": "info", "leakage": "critical", "outliers": "warning"}
    after = asked(severity=overrides)
    assert set(after) == set(before)
    assert {id: after[id].severity for id in overrides} == overrides
    severities = [rule.severity for rule in after.values()]
    assert severities == sorted(severities, key=SEVERITIES.index)
    # Among equals the order stays.
    rest = [id for id in before if id not in overrides]
    assert [id for id in after if id not in overrides] == rest
    for id in before:
        assert {**before[id].__dict__, "severity": ""} == {**after[id].__dict__, "severity": ""}


@pytest.mark.parametrize("id", expectations.changeable(ValidateParams()))
def test_any_changeable_rule_can_be_left_out(id: str) -> None:
    assert set(asked()) - set(asked(severity={id: "off"})) == {id}


def test_changeable_are_all_rules_but_those_about_the_tables_themselves() -> None:
    legal = expectations.changeable(ValidateParams())
    assert set(asked()) - set(legal) == set(expectations.UNCHANGEABLE)
    assert set(legal) < set(asked())
    # A rule that is off can be set again.
    assert expectations.changeable(ValidateParams(severity=dict.fromkeys(legal, "off"))) == legal
    assert list(asked(severity=dict.fromkeys(legal, "off"))) == list(expectations.UNCHANGEABLE)


def test_a_rule_that_does_not_exist_or_must_not_change_is_refused_with_a_hint() -> None:
    problems = list(ValidateParams(severity={"darkk": "off", "columns": "off", "dark": "off"}).across({}))
    assert [problem.key for problem in problems] == ["validate.severity.columns", "validate.severity.darkk"]
    assert "'dark'" in problems[1].message


def answers(broken: set[str], **params: Any) -> list[verdict.Answer]:
    return [
        verdict.Answer(rule, id not in broken, 0.5, int(id in broken), (("a", 1),) * (id in broken))
        for id, rule in asked(**params).items()
    ]


def record(broken: set[str], found: Known, skipped: Any = (), **params: Any) -> dict[str, Any]:
    classes = evidence.class_table(found, CLASSES)
    value = verdict.results(answers(broken, **params), found, classes, None, [], None, skipped)
    assert json.loads(json.dumps(value, allow_nan=False)) == value
    return value


@pytest.mark.parametrize(
    ("broken", "params", "expected"),
    [
        (set(), {}, "accepted"),
        ({"dark"}, {}, "accepted"),
        ({"dark", "leakage"}, {}, "accepted_with_warnings"),
        ({"leakage", "bad_files"}, {}, "rejected"),
        ({"dark"}, {"severity": {"dark": "critical"}}, "rejected"),
        ({"bad_files"}, {"severity": {"bad_files": "warning"}}, "accepted_with_warnings"),
        ({"bad_files"}, {"severity": {"bad_files": "info"}}, "accepted"),
    ],
)
def test_severity_decides_the_verdict(broken: set[str], params: dict[str, Any], expected: str) -> None:
    value = record(broken, known([fact("a"), fact("b", "dogs")]), **params)
    assert value["verdict"] == expected
    assert {rule["id"] for rule in verdict.failed_rules(value)} == broken
    if expected == "rejected":
        message = verdict.rejection(value, "reports/x.html")
        critical = {rule["id"] for rule in verdict.failed_rules(value, "critical")}
        assert all((id in message) is (id in critical) for id in broken)
        assert "reports/x.html" in message


def test_record_counts_groups_and_leaks() -> None:
    facts = [
        fact("a", image_id="x", split="train"), fact("b", image_id="x", split="val"), fact("c"), fact("d"), fact("e"),
    ]  # fmt: skip
    found = known(facts, ["x", "x", "c", "c", "e"], [None, None, None, None, "aspect"])
    value = record(set(), found, [{"name": "l", "reason": "link"}])
    assert (value["images"], value["accepted"], value["quarantined"]) == (5, 4, {"aspect": 1})
    assert (value["duplicate_groups"]["exact"], value["duplicate_groups"]["near"]) == (1, 1)
    assert value["leakage"] == {
        "groups": 1, "files": 2,
        "listed": [{"kind": "exact", "files": 2, "labels": ["cats"], "splits": ["train", "val"],
                    "names": ["a", "b"]}],
    }  # fmt: skip
    assert value["skipped_by_download"] == [{"name": "l", "reason": "link"}]


def test_every_failing_row_is_written_out_whether_the_rule_is_kept_or_broken() -> None:
    facts = [fact("a"), fact("b", "dogs")]
    rules = asked()
    given = [
        verdict.Answer(rules["dark"], False, 1.0, 2, (("a", 0.01), ("b", 0.02))),
        verdict.Answer(rules["bright"], True, 0.5, 1, (("b", 0.99),)),
        verdict.Answer(rules["imbalance"], False, 0.5, 1, (("dogs", 12.0),)),
    ]
    rows = verdict.failing_rows(given, facts)
    assert [list(row) for row in rows] == [verdict.FAILING_COLUMNS] * 4
    assert [(row["rule"], row["rule_kept"], row["name"], row["image_id"], row["value"]) for row in rows] == [
        ("dark", "no", "a", "a", 0.01), ("dark", "no", "b", "b", 0.02), ("bright", "yes", "b", "b", 0.99),
        ("imbalance", "no", "dogs", "", 12.0),
    ]  # fmt: skip
