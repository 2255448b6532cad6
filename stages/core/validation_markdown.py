"""A validation in a few lines of Markdown, for a comment on a pull request."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from stages.core.page import visible
from stages.core.validation_report import headline
from stages.core.verdict import failed_rules, observation

NAMED = 5  # failing rows per rule
MARKS = {"bad": "❌", "warn": "⚠️", "good": "✅", "plain": ""}


def render(record: Mapping[str, Any]) -> str:
    """Markdown text of verdict.results' record; every value of the data is shown as text."""
    tone, answer, next_step = headline(record)
    out = sum(record["quarantined"].values())
    lines = [
        f"## {MARKS[tone]} {answer}",
        "",
        next_step,
        "",
        f"{record['accepted']:,} of {record['images']:,} images accepted in {len(record['classes'])} classes, "
        f"{out:,} quarantined"
        + (
            f" ({', '.join(f'{inert(reason)} {count:,}' for reason, count in record['quarantined'].items())})"
            if out
            else ""
        )
        + ".",
    ]
    broken = failed_rules(record)
    if broken:
        lines += ["", "| severity | rule | observed | what it asks |", "|---|---|---|---|"]
        lines += [
            f"| {rule['severity']} | {inert(rule['id'])} | {inert(observation(rule))} | {inert(rule['description'])} |"
            for rule in broken
        ]
        lines += [""]
        for rule in broken:
            names = [inert(name) for name in rule["failing_names"][:NAMED]]
            more = " …" if rule["failing"] > NAMED else ""
            lines += [f"- **{inert(rule['id'])}**: {', '.join(names)}{more}"] if names else []
    changes = record["changes"]
    if changes:
        came = changes["pictures"]
        about = "" if came["exact"] else "about "
        lines += ["", f"Since the accepted data {about}{came['added']:,} pictures came and {came['removed']:,} went."]
        drifted = [one for one in record["drift"] if one["drifted"]]
        lines += [
            f"- **{inert(one['quantity'])}** drifted: {inert(one['accepted'])} → {inert(one['current'])}"
            for one in drifted
        ]
    return "\n".join(lines).rstrip() + "\n"


def inert(value: object) -> str:
    """Any value as text that Markdown, and the HTML it may hold, leave alone."""
    text = visible(str(value)).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    # A mention would notify people, #1 would be noted on that issue; a bare address would become a link. A backslash
    # does not prevent these: hosts look for them in text that Markdown is done with.
    text = re.sub("[@#]|:(?=//)|www(?=\\.)", "\\g<0>\u200b", text)
    return re.sub(r"([\\`*_{}\[\]#|~$])", r"\\\1", text)
