"""What the answered rules amount to, as the one record that results.json, the page and results.md show."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from stages.core.drift import Drift
from stages.core.evidence import Known
from stages.core.expectations import Rule
from stages.core.facts import Facts

NAMES_KEPT = 20  # failing rows named per rule
FAILING_COLUMNS = ["rule", "severity", "rule_kept", "name", "label", "image_id", "value"]
GROUPS_KEPT = 50  # duplicate groups listed


@dataclass(frozen=True)
class Answer:
    """Great Expectations' answer to one rule."""

    rule: Rule
    success: bool
    observed: float  # share of rows that fail, 0-1; for a rule about a whole table, the number it found
    failing: int  # rows
    failing_rows: tuple[tuple[str, Any], ...]  # all of them: (image name, class label …, the value asked about)

    @property
    def failing_names(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.failing_rows)


def results(
    answers: Sequence[Answer],
    known: Known,
    classes: pa.Table,
    decisions: pa.Table | None,
    drifts: Sequence[Drift],
    changes: Mapping[str, Any] | None,
    skipped: Sequence[Mapping[str, str]],
) -> dict[str, Any]:
    """The record of one validation, made of JSON values only.

    `classes` is evidence.class_table's, `decisions` evidence.decision_table's; `changes` is what became
    different since the accepted data (None where none was accepted); `skipped` is what download left out,
    as {name, reason}.
    """
    failed = [answer for answer in answers if not answer.success]
    critical = any(answer.rule.severity == "critical" for answer in failed)
    warned = any(answer.rule.severity == "warning" for answer in failed)
    reasons = known.reasons
    named = {name for answer in answers for name in answer.failing_names}
    ids = {fact.name: fact.image_id for fact in known.facts if fact.name in named} if named else {}
    return {
        "verdict": "rejected" if critical else "accepted_with_warnings" if warned else "accepted",
        "images": len(known.facts),
        "accepted": sum(reason is None for reason in reasons),
        "quarantined": dict(sorted(Counter(reason for reason in reasons if reason).items())),
        "rules": [_record(answer, ids) for answer in answers],
        "classes": {
            row["label"]: {"images": row["images"], "accepted": row["accepted"]} for row in classes.to_pylist()
        },
        **_duplicates(known),
        "decisions": decisions.to_pylist() if decisions is not None else [],
        "drift": [asdict(one) for one in drifts],
        "changes": changes,
        "skipped_by_download": [{"name": row["name"], "reason": row["reason"]} for row in skipped],
    }


def failing_rows(answers: Sequence[Answer], facts: Sequence[Facts]) -> list[dict[str, Any]]:
    """Every row that fails a rule, kept or broken, as rows of failing.csv."""
    named = {name for answer in answers for name in answer.failing_names}
    by_name = {fact.name: (fact.label, fact.image_id) for fact in facts if fact.name in named} if named else {}
    rows = []
    for answer in answers:
        for name, value in answer.failing_rows:
            label, image_id = by_name.get(name, ("", "")) if answer.rule.table == "images" else ("", "")
            rows.append(
                {
                    "rule": answer.rule.id,
                    "severity": answer.rule.severity,
                    "rule_kept": "yes" if answer.success else "no",
                    "name": name,
                    "label": label,
                    "image_id": image_id,
                    "value": value,
                }
            )
    return rows


def failed_rules(record: Mapping[str, Any], severity: str | None = None) -> list[dict[str, Any]]:
    """The broken rules of a record, of one severity or of all."""
    return [r for r in record["rules"] if not r["success"] and severity in (None, r["severity"])]


def rejection(record: Mapping[str, Any], report: str) -> str:
    """Why the data is rejected, as the message of DataRejected: every broken critical rule."""
    lines = []
    for rule in failed_rules(record, "critical"):
        named = f": {', '.join(map(repr, rule['failing_names'][:5]))}" if rule["failing_names"] else ""
        more = " …" if rule["failing"] > 5 else ""
        lines.append(f"  {rule['id']}: {rule['description']} Observed {observation(rule)}{named}{more}")
    noun = "critical rule is" if len(lines) == 1 else "critical rules are"
    head = f"{len(lines)} {noun} broken; nothing was trained"
    return "\n".join([head, *lines, f"Open {report} for the files"])


def summary(record: Mapping[str, Any]) -> str:
    """One line on data that is accepted."""
    out = sum(record["quarantined"].values())
    warnings = len(failed_rules(record, "warning"))
    plural = "" if warnings == 1 else "s"
    return (
        f"{record['accepted']:,} of {record['images']:,} images accepted "
        f"in {len(record['classes'])} classes, {out:,} quarantined, {warnings} warning{plural}"
    )


UNITS = {
    "images": ("file", "files"),
    "classes": ("class", "classes"),
    "class_set": ("class", "classes"),
    "decisions": ("line", "lines"),
    "drift": ("quantity", "quantities"),
}


def observation(rule: Mapping[str, Any]) -> str:
    """What was found, in words: '12 files (3.4 %)'."""
    if rule["threshold"] is None:
        return f"{rule['observed']:,.6g}"
    one, many = UNITS[rule["table"]]
    return f"{rule['failing']:,} {one if rule['failing'] == 1 else many} ({100 * rule['observed']:.3g} %)"


def _record(answer: Answer, ids: Mapping[str, str]) -> dict[str, Any]:
    rule = answer.rule
    names = answer.failing_names
    return {
        "id": rule.id,
        "table": rule.table,
        "severity": rule.severity,
        "success": answer.success,
        "observed": round(answer.observed, 9),
        "threshold": rule.threshold,
        "failing": answer.failing,
        "failing_names": list(names[:NAMES_KEPT]),
        "failing_ids": [ids[name] for name in names if name in ids] if rule.table == "images" else [],
        "description": rule.description,
        "advice": rule.advice,
    }


def _duplicates(known: Known) -> dict[str, dict[str, Any]]:
    members: defaultdict[str, list[Facts]] = defaultdict(list)
    common = known.common_groups
    for fact, group, reason in zip(known.facts, known.groups, known.reasons, strict=True) if common else ():
        if reason is None and group in common:
            members[group].append(fact)
    several = list(members.values())
    several.sort(key=lambda group: (-len(group), group[0].name))
    exact = [group for group in several if len({fact.image_id for fact in group}) == 1]
    leaking = [group for group in several if len({f.given_split for f in group if f.given_split}) > 1]
    mixed = [group for group in several if len({fact.label for fact in group}) > 1]
    return {
        "duplicate_groups": {
            "exact": len(exact),
            "near": len(several) - len(exact),
            "files": sum(len(group) for group in several),
            "listed": [_listed(group) for group in several[:GROUPS_KEPT]],
        },
        "leakage": {
            "groups": len(leaking),
            "files": sum(len(group) for group in leaking),
            "listed": [_listed(group) for group in leaking[:GROUPS_KEPT]],
        },
        "label_conflicts": _conflicts(known, mixed),
    }


def _conflicts(known: Known, mixed: Sequence[Sequence[Facts]]) -> dict[str, Any]:
    """The same bytes, or the same look, under several labels."""
    owners: defaultdict[str, list[Facts]] = defaultdict(list)
    common, won = known.common_bytes, known.settled
    for fact, reason in zip(known.facts, known.reasons, strict=True) if common else ():
        # What has no copy is in no conflict.
        if fact.image_id in common and fact.decodes and reason != "denied" and fact.image_id not in won:
            owners[fact.image_id].append(fact)
    same = [group for group in owners.values() if len({fact.label for fact in group}) > 1]
    listed = [*same, *(group for group in mixed if len({fact.image_id for fact in group}) > 1)]
    return {
        "groups": len(listed),
        "files": sum(len(group) for group in listed),
        "listed": [_listed(group) for group in listed[:GROUPS_KEPT]],
    }


def _listed(group: Sequence[Facts]) -> dict[str, Any]:
    return {
        "kind": "exact" if len({fact.image_id for fact in group}) == 1 else "near",
        "files": len(group),
        "labels": sorted({fact.label for fact in group}),
        "splits": sorted({fact.given_split for fact in group if fact.given_split}),
        "names": [fact.name for fact in group[:NAMES_KEPT]],
    }
