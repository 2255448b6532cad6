"""Decisions people wrote down about single images: allow one that a rule sets aside, deny one that passes.

They are lines of a CSV file with the columns decision, name, image_id and why, kept in git:

    decision,name,image_id,why
    deny,cats/17.jpg,,"shows a drawing"
    allow,dogs/long.png,3f0c…,"a real panorama"

A line names an image by its name, by its image_id, or by both; with both it stops applying when the
file's bytes change.
"""

from __future__ import annotations

import csv
import io
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from stages.core.errors import ConfigError
from stages.core.facts import Facts

COLUMNS = ["decision", "name", "image_id", "why"]
ALLOW: Literal["allow"] = "allow"
DENY: Literal["deny"] = "deny"


@dataclass(frozen=True)
class Decision:
    """One line: what it says, of which image, and why."""

    line: int
    decision: str  # ALLOW or DENY
    name: str | None
    image_id: str | None
    why: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.decision} {self.name or self.image_id}"


@dataclass(frozen=True)
class Review:
    """Which decision applies to each image, in the images' order, and which apply to none."""

    decisions: list[Decision | None]
    unused: list[Decision]


def parse(text: str, path: str) -> list[Decision]:
    """The decisions of a CSV text. Raises ConfigError that names every wrong line of `path`."""
    reader = csv.reader(io.StringIO(text.removeprefix("\ufeff")), strict=True)
    found: list[Decision] = []
    wrong: list[str] = []
    try:
        header = next(reader, None)
        if header != COLUMNS:
            raise ConfigError(f"{path}: line 1: received {','.join(header or [])!r}; must be {','.join(COLUMNS)!r}")
        for fields in reader:
            if any(fields):
                problem = _problem(fields)
                if problem:
                    wrong.append(f"  line {reader.line_num}: {problem}")
                else:
                    decision, name, image_id, why = fields
                    found.append(Decision(reader.line_num, decision, name or None, image_id or None, why))
    except csv.Error as error:
        wrong.append(f"  line {reader.line_num}: {error}")
    if wrong:
        raise ConfigError("\n".join([f"{path}: correct these lines", *wrong]))
    return found


def apply(decisions: Sequence[Decision], facts: Sequence[Facts], path: str) -> Review:
    """The decision for each image. Raises ConfigError where two lines contradict each other."""
    by_name: defaultdict[str, list[Decision]] = defaultdict(list)
    by_id: defaultdict[str, list[Decision]] = defaultdict(list)
    for decision in decisions:
        if decision.name is not None:
            by_name[decision.name].append(decision)
        elif decision.image_id is not None:
            by_id[decision.image_id].append(decision)
    used: set[int] = set()
    chosen: list[Decision | None] = []
    for fact in facts:
        named = [one for one in by_name.get(fact.name, ()) if one.image_id in (None, fact.image_id)]
        fitting = [*named, *by_id.get(fact.image_id, ())]
        if len({one.decision for one in fitting}) > 1:
            lines = " and ".join(map(str, fitting))
            raise ConfigError(f"{path}: {lines} contradict each other on {fact.name!r}; delete one")
        used |= {one.line for one in fitting}
        chosen.append(fitting[0] if fitting else None)
    return Review(chosen, [one for one in decisions if one.line not in used])


def _problem(fields: list[str]) -> str | None:
    """What is wrong with one line's fields."""
    if len(fields) != len(COLUMNS):
        return f"{len(fields)} fields; must be {len(COLUMNS)}: {', '.join(COLUMNS)}"
    decision, name, image_id, why = fields
    if decision not in (ALLOW, DENY):
        return f"decision {decision!r}; must be 'allow' or 'deny'"
    if not name and not image_id:
        return "neither name nor image_id; one of them must say which image is meant"
    if image_id and not re.fullmatch("[0-9a-f]{64}", image_id):
        return f"image_id {image_id!r}; must be 64 hex digits, as in failing.csv and results.json"
    return None if why.strip() else "why is empty; say it for whoever reviews this file"
