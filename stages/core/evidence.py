"""The tables the rules are asked of: a row per image, per class, per line of decisions, per drift test.

A relation between images ("is a copy of") stands in a row as the name of the other image, so that
a failing row shows what it failed against. Quality and duplicates are asked of accepted images
only: the columns are null for a quarantined one, which already counts as bad.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any, TypeVar

import pyarrow as pa

from stages.core.drift import Drift
from stages.core.facts import Facts
from stages.core.neighbours import Neighbour
from stages.core.quarantine import conflicts, repeated, settled
from stages.core.review import ALLOW, Decision, Review

IMAGES = pa.schema(
    [
        pa.field("name", pa.string()),
        pa.field("label", pa.string()),
        pa.field("quarantine", pa.string()),  # reason code; null where people decided
        pa.field("shorter_side", pa.int32()),  # pixels
        pa.field("longer_side", pa.int32()),
        pa.field("aspect", pa.float64()),  # longer side / shorter side
        pa.field("extension_matches", pa.bool_()),  # null where the contents are no known format
        pa.field("mode", pa.string()),  # Pillow's
        pa.field("bit_depth", pa.int32()),
        pa.field("frames", pa.int32()),
        pa.field("orientation", pa.int32()),  # EXIF 1-8
        pa.field("trailing_bytes", pa.int64()),  # behind the end of a JPEG or PNG
        pa.field("brightness", pa.float64()),  # mean luma, 0-1
        pa.field("contrast", pa.float64()),  # standard deviation of luma, 0-0.5
        pa.field("sharpness", pa.float64()),  # null for images too small to judge
        pa.field("odd_colour", pa.string()),  # "grey" where nearly all are coloured, or the other way round
        pa.field("outlier", pa.float64()),
        pa.field("same_name_as", pa.string()),  # an earlier name that differs in upper and lower case alone
        pa.field("conflicts_with", pa.string()),  # the same bytes under another label, not settled by people
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
CLASS_SET = pa.schema(
    [
        pa.field("label", pa.string()),
        pa.field("change", pa.string()),  # against the accepted data: "new", "gone", "was 'Cats'"
    ]
)
DECISIONS = pa.schema(
    [
        pa.field("decision", pa.string()),  # "line 3: deny cats/17.jpg"
        pa.field("why", pa.string()),
        pa.field("without_effect", pa.string()),  # why, where it has none
    ]
)
DRIFT = pa.schema(
    [
        pa.field("quantity", pa.string()),
        pa.field("drifted", pa.string()),  # in words, where it has
    ]
)

GREY_BELOW = 0.004  # saturation, one grey level: rounding in a JPEG of a grey picture stays below
FEW = 0.1  # a kind is odd where at most this share of the images is of it
BLOCK = 1024  # rows that are made at a time

T = TypeVar("T")
Firsts = defaultdict[str, dict[str, T]]  # by group, then by what its images differ in, in order of appearance


@dataclass(frozen=True)
class Known:
    """What was found of every image, lists in the images' order.

    `facts` may be objects that are made when asked for, so whoever keeps one takes memory.
    """

    facts: Sequence[Facts]
    groups: Sequence[str]
    neighbours: Sequence[Neighbour | None]
    judged: Sequence[tuple[str, str] | None]
    review: Review

    @property
    def reasons(self) -> list[str | None]:
        """Quarantine's reason code per image; None where accepted."""
        return [judgement and judgement[0] for judgement in self.judged]

    @cached_property
    def common_bytes(self) -> set[str]:
        """The image_ids that stand more than once."""
        return repeated(fact.image_id for fact in self.facts)

    @cached_property
    def common_groups(self) -> set[str]:
        """The groups with more than one accepted image."""
        return repeated(group for group, judged in zip(self.groups, self.judged, strict=True) if judged is None)

    @cached_property
    def settled(self) -> dict[str, str]:
        """quarantine.settled's."""
        decisions = self.review.decisions
        return settled(self.facts, decisions) if any(decisions) else {}

    @cached_property
    def rivals(self) -> list[str | None]:
        """The names of what quarantine.conflicts finds."""
        return [rival.name if rival else None for rival in conflicts(self.facts, self.review.decisions)]


def image_table(known: Known) -> pa.Table:
    """Table of schema IMAGES, a row per image in the order given."""
    rows = _image_rows(known)
    # Rows are Python objects, of which some at a time are enough.
    blocks = iter(lambda: list(islice(rows, BLOCK)), [])
    return pa.concat_tables([IMAGES.empty_table(), *(pa.Table.from_pylist(block, schema=IMAGES) for block in blocks)])


def _image_rows(known: Known) -> Iterator[dict[str, Any]]:
    facts, groups, reasons = known.facts, known.groups, known.reasons
    # The first image of every kind: all a row has to name, however large its group is.
    by_case: dict[str, str] = {}
    by_bytes: Firsts[tuple[int, str]] = defaultdict(dict)
    by_label: Firsts[str] = defaultdict(dict)
    by_split: Firsts[str] = defaultdict(dict)
    colours: Counter[str] = Counter()
    for at, (fact, group, reason) in enumerate(zip(facts, groups, reasons, strict=True)):
        by_case.setdefault(fact.name.casefold(), fact.name)
        if reason is None:
            colours[_colour(fact)] += 1
            if group in known.common_groups:
                by_bytes[group].setdefault(fact.image_id, (at, fact.name))
                by_label[group].setdefault(fact.label, fact.name)
                if fact.given_split:
                    by_split[group].setdefault(fact.given_split, fact.name)
    odd = _odd_colour(colours)
    won = known.settled
    for at, (fact, group, reason, decision, rival, neighbour) in enumerate(
        zip(facts, groups, reasons, known.review.decisions, known.rivals, known.neighbours, strict=True)
    ):
        twin = by_case[fact.name.casefold()]
        row: dict[str, Any] = {
            "name": fact.name,
            "label": fact.label,
            "quarantine": None
            if reason == "denied" or (reason == "label_conflict" and fact.image_id in won)
            else reason,
            # What people decided on is not complained of again.
            "shorter_side": fact.sides[0] if fact.sides and not decision else None,
            "longer_side": fact.sides[1] if fact.sides and not decision else None,
            "aspect": fact.aspect if not decision else None,
            "extension_matches": fact.extension_matches if fact.measured.format else None,
            "same_name_as": twin if twin != fact.name else None,
            "conflicts_with": rival if fact.image_id not in won else None,
        }
        if reason is None:
            row |= {
                "mode": fact.measured.mode,
                "bit_depth": fact.measured.bit_depth,
                "frames": fact.measured.frames,
                "orientation": fact.measured.orientation,
                "trailing_bytes": fact.measured.trailing_bytes,
                "brightness": fact.measured.brightness,
                "contrast": fact.measured.contrast,
                "sharpness": fact.sharpness,
                "odd_colour": odd if odd and odd == _colour(fact) else None,
                "outlier": neighbour and neighbour.outlier,
            }
        if reason is None and group in known.common_groups:
            leader_id, (_, leader) = next(iter(by_bytes[group].items()))
            first, copy = by_bytes[group][fact.image_id]
            row |= {
                "copy_of": copy if first != at else None,
                "near_copy_of": leader if leader_id != fact.image_id else None,
                "disagrees_with": _other(by_label[group], fact.label),
                "leaks_into": _other(by_split[group], fact.given_split) if fact.given_split else None,
            }
        yield row


def class_table(known: Known, classes: Sequence[str]) -> pa.Table:
    """Table of schema CLASSES: every class of `classes`, and every other label an image carries."""
    images: Counter[str] = Counter()
    accepted: Counter[str] = Counter()
    for fact, judged in zip(known.facts, known.judged, strict=True):
        images[fact.label] += 1
        accepted[fact.label] += judged is None
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


def class_set_table(classes: Iterable[str], accepted_classes: Iterable[str]) -> pa.Table:
    """Table of schema CLASS_SET, a row per class of the data at hand or of the accepted data."""
    now, before = set(classes), set(accepted_classes)
    rows = [{"label": label, "change": _change(label, now, before)} for label in sorted(now | before)]
    return pa.Table.from_pylist(rows, schema=CLASS_SET)


def decision_table(known: Known, decisions: Sequence[Decision]) -> pa.Table:
    """Table of schema DECISIONS, a row per line of the file."""
    unused = {decision.line for decision in known.review.unused}
    hollow = {
        decision.line: reason
        for decision, reason in zip(known.review.decisions, known.reasons, strict=True)
        if decision and decision.decision == ALLOW and reason is not None
    }
    rows = [
        {
            "decision": str(decision),
            "why": decision.why,
            "without_effect": "no such image"
            if decision.line in unused
            else hollow.get(decision.line) and f"still quarantined: {hollow[decision.line]}",
        }
        for decision in decisions
    ]
    return pa.Table.from_pylist(rows, schema=DECISIONS)


def drift_table(drifts: Sequence[Drift]) -> pa.Table:
    """Table of schema DRIFT, a row per quantity."""
    rows = [
        {"quantity": one.quantity, "drifted": f"{one.accepted} → {one.current}" if one.drifted else None}
        for one in drifts
    ]
    return pa.Table.from_pylist(rows, schema=DRIFT)


def fact_rows(known: Known) -> Iterator[dict[str, Any]]:
    """Everything known, as rows of schemas.FACTS, in the order given."""
    measured = ("size_bytes", "format", "width", "height", "mode", "bit_depth", "frames", "orientation",
                "trailing_bytes", "brightness", "contrast", "entropy", "sharpness", "saturation", "warmth")  # fmt: skip
    for fact, group, neighbour, rival, reason in zip(
        known.facts, known.groups, known.neighbours, known.rivals, known.reasons, strict=True
    ):
        yield {name: getattr(fact.measured, name) for name in measured} | {
            "name": fact.name,
            "label": fact.label,
            "given_split": fact.given_split,
            "image_id": fact.image_id,
            "extension_matches": fact.extension_matches,
            "decodes": fact.decodes,
            "aspect": fact.aspect,
            "phash": f"{fact.measured.hashes[0]:016x}" if fact.measured.hashes else None,
            "nearest": neighbour and neighbour.image_id,
            "nearest_distance": neighbour and neighbour.distance,
            "outlier": neighbour and neighbour.outlier,
            "group": group,
            "conflicts_with": rival,
            "quarantine": reason,
        }


def _other(firsts: dict[str, str], own: str) -> str | None:
    """The name of the first image under another key than `own`."""
    return next((name for key, name in firsts.items() if key != own), None)


def _colour(fact: Facts) -> str:
    return "grey" if (fact.measured.saturation or 0.0) < GREY_BELOW else "coloured"


def _odd_colour(counts: Counter[str]) -> str | None:
    """The kind that few images are of, or None where both are common or one is absent."""
    return next((kind for kind, count in counts.items() if count <= FEW * counts.total()), None)


def _change(label: str, now: set[str], before: set[str]) -> str | None:
    if label in before:
        return None if label in now else "gone"
    former = next((other for other in sorted(before - now) if other.casefold() == label.casefold()), None)
    return f"was {former!r}" if former else "new"
