"""The two tables the rules are asked of: one row per image, one row per class.

A relation between images ("is a copy of") stands in a row as the name of the other image, so that
a failing row shows what it failed against. Quality and duplicates are asked of accepted images
only: the columns are null for a quarantined one, which already counts as bad.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa

from stages.core.facts import SHARPNESS_SIDE, Facts
from stages.core.schemas import FACTS

IMAGES = pa.schema(
    [
        pa.field("name", pa.string()),
        pa.field("label", pa.string()),
        pa.field("quarantine", pa.string()),  # reason code
        pa.field("shorter_side", pa.int32()),  # pixels
        pa.field("longer_side", pa.int32()),
        pa.field("aspect", pa.float64()),  # longer side / shorter side
        pa.field("extension_matches", pa.bool_()),  # null where the contents are no known format
        pa.field("frames", pa.int32()),
        pa.field("brightness", pa.float64()),  # mean luma, 0-1
        pa.field("contrast", pa.float64()),  # standard deviation of luma, 0-0.5
        pa.field("sharpness", pa.float64()),  # variance of the Laplacian; null for images too small to judge
        pa.field("same_name_as", pa.string()),  # an earlier name that differs in upper and lower case alone
        pa.field("conflicts_with", pa.string()),  # the same bytes under another label
        pa.field("copy_of", pa.string()),  # an earlier image of the same bytes
        pa.field("near_copy_of", pa.string()),  # the first image of its near-duplicate group
        pa.field("disagrees_with", pa.string()),  # a near duplicate under another label
        pa.field("leaks_into", pa.string()),  # a duplicate in another split the data came with
    ]
)
CLASSES = pa.schema(
    [
        pa.field("label", pa.string()),
        pa.field("images", pa.int64()),
        pa.field("accepted", pa.int64()),
        pa.field("times_smaller", pa.float64()),  # largest class / this one, accepted images
    ]
)


def image_table(facts: Sequence[Facts], groups: Sequence[str], reasons: Sequence[str | None]) -> pa.Table:
    """Table of schema IMAGES, a row per image in the order given."""
    accepted = [(f, g) for f, g, r in zip(facts, groups, reasons, strict=True) if r is None]
    # The first image of every kind: all a row has to name, however large its group is.
    by_name = _first_of((fact.name.casefold(), "", fact) for fact in facts)
    by_owner = _first_of((fact.image_id, fact.label, fact) for fact in facts)
    by_bytes = _first_of((group, fact.image_id, fact) for fact, group in accepted)
    by_label = _first_of((group, fact.label, fact) for fact, group in accepted)
    by_split = _first_of((group, fact.given_split, fact) for fact, group in accepted if fact.given_split)
    rows = []
    for fact, group, reason in zip(facts, groups, reasons, strict=True):
        sides = [side for side in (fact.width, fact.height) if side is not None]
        twin = by_name[fact.name.casefold()][""].name
        row: dict[str, Any] = {
            "name": fact.name,
            "label": fact.label,
            "quarantine": reason,
            "shorter_side": min(sides, default=None),
            "longer_side": max(sides, default=None),
            "aspect": fact.aspect,
            "extension_matches": fact.extension_matches if fact.format else None,
            "same_name_as": twin if twin != fact.name else None,
            "conflicts_with": _other(by_owner[fact.image_id], fact.label),
        }
        if reason is None:
            leader = next(iter(by_bytes[group].values()))
            copy = by_bytes[group][fact.image_id]
            leak = _other(by_split[group], fact.given_split) if fact.given_split else None
            row |= {
                "frames": fact.frames,
                "brightness": fact.brightness,
                "contrast": fact.contrast,
                # An enlarged picture is smooth however sharp it is.
                "sharpness": fact.sharpness if min(sides) >= SHARPNESS_SIDE else None,
                "copy_of": copy.name if copy is not fact else None,
                "near_copy_of": leader.name if leader.image_id != fact.image_id else None,
                "disagrees_with": _other(by_label[group], fact.label),
                "leaks_into": leak,
            }
        rows.append(row)
    return pa.Table.from_pylist(rows, schema=IMAGES)


def class_table(facts: Sequence[Facts], reasons: Sequence[str | None], classes: Sequence[str]) -> pa.Table:
    """Table of schema CLASSES: every class of `classes`, and every other label an image carries."""
    images = Counter(fact.label for fact in facts)
    accepted = Counter(fact.label for fact, reason in zip(facts, reasons, strict=True) if reason is None)
    largest = max(accepted.values(), default=0)
    rows = [
        {
            "label": label,
            "images": images[label],
            "accepted": accepted[label],
            # An empty class is found by its own, critical rule.
            "times_smaller": largest / accepted[label] if accepted[label] else None,
        }
        for label in sorted({*classes, *images})
    ]
    return pa.Table.from_pylist(rows, schema=CLASSES)


def fact_rows(facts: Sequence[Facts], groups: Sequence[str], reasons: Sequence[str | None]) -> list[dict[str, Any]]:
    """The facts as rows of schemas.FACTS, in the order given."""
    known = [name for name in FACTS.names if name not in ("group", "quarantine")]
    return [
        {name: getattr(fact, name) for name in known} | {"group": group, "quarantine": reason}
        for fact, group, reason in zip(facts, groups, reasons, strict=True)
    ]


Firsts = defaultdict[str, dict[str, Facts]]


def _first_of(entries: Iterable[tuple[str, str, Facts]]) -> Firsts:
    """For each (outer, inner) key the first image that has it, inner keys in order of appearance."""
    firsts: Firsts = defaultdict(dict)
    for outer, inner, fact in entries:
        firsts[outer].setdefault(inner, fact)
    return firsts


def _other(firsts: dict[str, Facts], own: str) -> str | None:
    """The name of the first image under another key than `own`."""
    return next((fact.name for key, fact in firsts.items() if key != own), None)
