"""What became different since the data that was last accepted, in counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stages.core import profile
from stages.core.verdict import Answer


def since(accepted: Mapping[str, Any], current: Mapping[str, Any], answers: Sequence[Answer]) -> dict[str, Any]:
    """JSON values: how many pictures came and went, and every count that differs as [accepted, now].

    `accepted` is what `graft accept` wrote, `current` the profile of the data at hand.
    """
    before = accepted["profile"]
    overlap = profile.overlap(before, current)
    rules = {answer.rule.id: answer.failing for answer in answers}
    return {
        "pictures": {
            "added": overlap.added,
            "removed": overlap.removed,
            "kept": overlap.kept,
            "exact": overlap.exact,
            "standard_error": overlap.standard_error,
        },
        "images": [before["images"], current["images"]],
        "accepted": [before["accepted"], current["accepted"]],
        "classes": _different(before["classes"], current["classes"]),
        "quarantined": _different(before["quarantined"], current["quarantined"]),
        "formats": _different(before["formats"], current["formats"]),
        # A rule that one of the two was not asked has no count to compare.
        "rules": {
            rule: pair
            for rule, pair in _different(accepted["rules"], rules).items()
            if rule in accepted["rules"] and rule in rules
        },
    }


def counts(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[tuple[str, str, int, int]]:
    """(of what, which, before, now) of every count that differs between two records of verdict.results."""
    tables = []
    for record in (before, now):
        tables.append(
            {
                "all": {key: record[key] for key in ("images", "accepted")},
                "classes": {label: row["accepted"] for label, row in record["classes"].items()},
                "quarantined": record["quarantined"],
                "rules": {rule["id"]: rule["failing"] for rule in record["rules"]},
            }
        )
    return [
        (what, which, pair[0], pair[1])
        for what in tables[0]
        for which, pair in _different(tables[0][what], tables[1][what]).items()
        # A rule that one of the two was not asked has no count to compare.
        if what != "rules" or (which in tables[0][what] and which in tables[1][what])
    ]


def _different(before: Mapping[str, int], now: Mapping[str, int]) -> dict[str, list[int]]:
    """[before, now] of every key whose numbers differ; an absent one counts as 0."""
    pairs = {key: [before.get(key, 0), now.get(key, 0)] for key in sorted({*before, *now})}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}
