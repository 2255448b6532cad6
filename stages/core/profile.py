"""What a data set looks like, small enough to be kept in git: counts, and a sample of its images' facts.

The sample is a bottom-k sketch (Cohen & Kaplan 2007, "Summarizing data using bottom-k sketches"): of
all near-duplicate groups the SAMPLE whose hash is smallest. It depends on no order and on no random
state, stays nearly the same while the set grows, and two of them say how far their sets overlap.
"""

from __future__ import annotations

import hashlib
import heapq
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from stages.core.facts import Facts
from stages.core.measurement import LAYOUT

VERSION = 1  # of the layout and of how the facts are measured: profiles of two versions do not compare
SAMPLE = 500
ID_DIGITS = 16  # hex digits of an image_id: 64 bits, two of 500 images agree with probability 1e-14

TEXTS = ("label", "format", "mode")
NUMBERS = (
    "shorter_side",  # pixels
    "aspect",  # longer side / shorter side
    "size_bytes",
    "brightness",  # mean luma, 0-1
    "contrast",  # standard deviation of luma, 0-0.5
    "sharpness",  # as Facts.sharpness; null for a picture too small to compare
    "entropy",  # bits, 0-8
    "saturation",  # mean of max(R, G, B) - min(R, G, B), 0-1
    "warmth",  # mean R - mean B, -1 to 1
)
OF_FACTS = ("aspect", "sharpness")  # worked out by Facts; the other figures are its measurement's
COUNTS = ("images", "accepted", "groups")
TABLES = ("quarantined", "classes", "formats", "modes")
COLUMNS = ("image_id", *TEXTS, *NUMBERS, "layout")


@dataclass(frozen=True)
class Overlap:
    """How many near-duplicate groups two data sets share.

    `kept + removed` is the accepted set, `kept + added` the current one.
    """

    added: int
    removed: int
    kept: int
    exact: bool  # counted; otherwise estimated
    standard_error: float  # of each of the three, in groups; 0 where exact


def profile(facts: Sequence[Facts], groups: Sequence[str], reasons: Sequence[str | None]) -> dict[str, Any]:
    """The profile of a data set, JSON values only; the same for every order of the images.

    `groups` holds the near-duplicate group of each image, `reasons` why it is quarantined or None.
    Counts are of images; `classes`, `formats`, `modes` of accepted ones. `digest` is the SHA-256 over
    the sorted lines "image_id label" of accepted images. `sample` maps COLUMNS to lists of equal
    length, at most SAMPLE, units as in NUMBERS: one image a group, because copies are not
    independent draws. About 80 KB as compact JSON with a full sample and short labels.
    """
    lines: list[str] = []
    classes, formats, modes = Counter[str | None](), Counter[str | None](), Counter[str | None]()
    # Not the facts themselves: of all but the sample little is needed.
    members: dict[str, tuple[str, int]] = {}  # by group the smallest image_id and where it stands
    for at, (fact, group, reason) in enumerate(zip(facts, groups, reasons, strict=True)):
        if reason is None:
            lines.append(f"{fact.image_id} {fact.label}\n")
            classes[fact.label] += 1
            formats[fact.measured.format] += 1
            modes[fact.measured.mode] += 1
            image_id, first = members.get(group, (None, at))
            if image_id is None or fact.image_id < image_id:
                # Most groups are called as their only image is: one text instead of two.
                members[group] = (group if group == fact.image_id else fact.image_id, at)
            elif fact.image_id == image_id and (fact.label, fact.name) < (facts[first].label, facts[first].name):
                # Files of the same bytes, whose label or name may differ.
                members[group] = (image_id, at)
    lines.sort()
    sample = [facts[at] for _, at in heapq.nsmallest(SAMPLE, members.values(), key=lambda member: rank(member[0]))]
    return {
        "version": VERSION,
        "images": len(facts),
        "accepted": len(lines),
        "groups": len(members),
        "quarantined": _counts(Counter(reason for reason in reasons if reason is not None)),
        "classes": _counts(classes),
        "formats": _counts(formats),
        "modes": _counts(modes),
        "digest": hashlib.sha256("".join(lines).encode()).hexdigest(),
        "sample": {column: [_value(fact, column) for fact in sample] for column in COLUMNS},
    }


def rank(image_id: str) -> str:
    """Where an image stands in the order of the sketch, 64 hex digits; asks for the first ID_DIGITS digits only.

    A hash of the id and not the id: a group goes by its smallest id, so that groups of many copies
    would be drawn more often.
    """
    return hashlib.sha256(image_id[:ID_DIGITS].encode()).hexdigest()


def overlap(accepted: Mapping[str, Any], current: Mapping[str, Any]) -> Overlap:
    """How many near-duplicate groups were added, removed and kept, from two profiles.

    A group counts as the same where the image it goes by is; copies that join a group may change
    that. Exact where neither set has more than SAMPLE groups, or both digests agree. Otherwise the
    shared part J of the union is read off the hashes that both sketches cover, w of them (at least SAMPLE,
    Beyer et al. 2007), and with n and m groups in the sets J / (1 + J) * (n + m) are kept. Its
    standard error is (n + m) / (1 + J)^2 * sqrt(J (1 - J) / w): for two sets of 10,000 that share
    nine tenths of their union about 74 groups.
    """
    before, after = accepted["groups"], current["groups"]
    if accepted["digest"] == current["digest"] and before == after:
        return Overlap(0, 0, before, exact=True, standard_error=0.0)
    old, new = set(accepted["sample"]["image_id"]), set(current["sample"]["image_id"])
    if before <= SAMPLE and after <= SAMPLE:
        kept = len(old & new)
        return Overlap(len(new) - kept, len(old) - kept, kept, exact=True, standard_error=0.0)
    ends = [rank(side["sample"]["image_id"][-1]) for side in (accepted, current) if side["groups"] > SAMPLE]
    covered = {image for image in old | new if rank(image) <= min(ends)}
    shared = len(old & new & covered)
    part = shared / len(covered)
    total = before + after
    kept = min(round(part / (1 + part) * total), before, after)
    # Laplace's estimate: a sample without a change does not prove that there is none.
    smooth = (shared + 1) / (len(covered) + 2)
    error = total / (1 + smooth) ** 2 * math.sqrt(smooth * (1 - smooth) / len(covered))
    return Overlap(after - kept, before - kept, kept, exact=False, standard_error=_short(error))


def read(value: Any) -> dict[str, Any]:
    """A profile from parsed JSON, checked: people edit and merge such files.

    Raises ValueError with the key, what is there and what may be.
    """
    found = _mapping("the profile", value, ("version", *COUNTS, *TABLES, "digest", "sample"))
    if found["version"] != VERSION or isinstance(found["version"], bool):
        raise ValueError(f"version is {_shown(found['version'])}, must be {VERSION}")
    for key in COUNTS:
        _count(key, found[key])
    for key in TABLES:
        table = _mapping(key, found[key])
        for name, number in table.items():
            _count(f"{key}.{name}", number)
        total = found["images"] - found["accepted"] if key == "quarantined" else found["accepted"]
        if sum(table.values()) != total:
            meant = "images - accepted" if key == "quarantined" else "accepted"
            raise ValueError(f"{key} adds up to {sum(table.values())}, must add up to {meant}, {total}")
    if not _hex(found["digest"], 64):
        raise ValueError(f"digest is {_shown(found['digest'])}, must be 64 hex digits in lower case")
    if not found["groups"] <= found["accepted"] or (found["groups"] == 0) != (found["accepted"] == 0):
        raise ValueError(f"groups is {found['groups']}, must be from 1 to accepted, {found['accepted']} (0 where 0)")
    sample = _mapping("sample", found["sample"], COLUMNS)
    length = min(found["groups"], SAMPLE)
    for column, values in sample.items():
        if not isinstance(values, list) or len(values) != length:
            got = f"a list of {len(values)}" if isinstance(values, list) else _shown(values)
            raise ValueError(f"sample.{column} is {got}, must be a list of {length} (groups, at most {SAMPLE})")
        for position, entry in enumerate(values):
            _check_value(column, position, entry)
    ranks = [rank(image_id) for image_id in sample["image_id"]]
    for position, (one, other) in enumerate(pairwise(ranks), 1):
        if one >= other:
            raise ValueError(
                f"sample.image_id[{position}] is {sample['image_id'][position]!r}, must not be the same as an earlier "
                "one and must come later in the order of the sample (the SHA-256 of the id)"
            )
    return found


def _counts(found: Mapping[Any, int]) -> dict[str, int]:
    """In the order of names."""
    named: Counter[str] = Counter()
    for value, number in found.items():
        named[value or "unknown"] += number
    return dict(sorted(named.items()))


def _value(fact: Facts, column: str) -> Any:
    if column == "image_id":
        return fact.image_id[:ID_DIGITS]
    if column == "label":
        return fact.label
    if column == "shorter_side":
        return fact.sides[0] if fact.sides else None
    value = getattr(fact if column in OF_FACTS else fact.measured, column)
    if column in TEXTS:
        return value or "unknown"
    if column == "layout":
        return None if value is None else list(value)
    return _short(value) if isinstance(value, float) else value


def _short(value: float) -> float:
    """6 significant digits: more than the facts mean, and a third of the file."""
    return float(f"{value:.6g}")


def _mapping(key: str, value: Any, keys: Sequence[str] | None = None) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{key} is {_shown(value)}, must be an object")
    if keys is not None and set(value) != set(keys):
        missing, unknown = sorted(set(keys) - set(value)), sorted(set(value) - set(keys))
        raise ValueError(
            f"{key} has the keys {', '.join(sorted(value)) or 'none'}; missing: {', '.join(missing) or 'none'}, "
            f"unknown: {', '.join(unknown) or 'none'}"
        )
    return value


def _count(key: str, value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{key} is {_shown(value)}, must be a whole number from 0")


def _check_value(column: str, position: int, value: Any) -> None:
    if column == "image_id":
        legal, meant = _hex(value, ID_DIGITS), f"{ID_DIGITS} hex digits in lower case"
    elif column in TEXTS:
        legal, meant = isinstance(value, str), "text"
    elif column == "layout":
        legal = value is None or (isinstance(value, list) and len(value) == LAYOUT and all(map(_is_number, value)))
        meant = f"{LAYOUT} numbers or null"
    else:
        legal, meant = value is None or _is_number(value), "a finite number or null"
    if not legal:
        raise ValueError(f"sample.{column}[{position}] is {_shown(value)}, must be {meant}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _hex(value: Any, digits: int) -> bool:
    return isinstance(value, str) and len(value) == digits and not set(value) - set("0123456789abcdef")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
