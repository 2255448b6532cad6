"""Decides which images may not be trained on, each with a reason code and a detail in words."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from stages.core import images
from stages.core.facts import Facts
from stages.core.review import ALLOW, DENY, Decision

# Ways to lose the process that decodes an image; a broken file that is only refused has a reason of `images`.
LOST = ("decoder_crash", "timeout", "memory")
EXPORTED = ("JPEG", "PNG", "GIF", "BMP", "WEBP")  # formats that the exported model decodes
# In the order they are looked for: an image gets the first that fits.
REASONS = (
    "denied", *images.REASONS, *LOST, "too_small", "aspect", "multi_frame", "label_conflict",
)  # fmt: skip


class Limits(Protocol):
    """The parameters of `validate` that judge one image."""

    @property
    def formats(self) -> Sequence[str]: ...
    @property
    def min_side(self) -> int: ...
    @property
    def max_side(self) -> int: ...
    @property
    def max_aspect(self) -> float: ...
    @property
    def multi_frame(self) -> str: ...


def judge(facts: Sequence[Facts], decisions: Sequence[Decision | None], limits: Limits) -> list[tuple[str, str] | None]:
    """For each image (reason, detail), or None where it is accepted.

    A decision to allow overrides every reason but that there are no pixels to train on, that the exported
    model could not read the format, or that the same bytes are allowed under two labels.
    """
    rivals = conflicts(facts, decisions)
    judged: list[tuple[str, str] | None] = []
    for fact, decision, rival in zip(facts, decisions, rivals, strict=True):
        if decision and decision.decision == DENY:
            judged.append(("denied", f"{decision.why} (decisions.csv, line {decision.line})"))
        elif decision and fact.decodes and fact.measured.format in EXPORTED:
            judged.append(_conflict(fact, rival))
        else:
            judged.append(_alone(fact, limits) or _conflict(fact, rival))
    return judged


def conflicts(facts: Sequence[Facts], decisions: Sequence[Decision | None]) -> list[Facts | None]:
    """For each image one of the same bytes under another label, or None.

    Denied images count on neither side. Where people allowed one label, its images are in no conflict
    any more; the others still are.
    """
    # Nobody else's facts are kept: there may be more of them than memory should hold (measurements.of_shards).
    common = repeated(fact.image_id for fact in facts)
    owners: defaultdict[str, dict[str, Facts]] = defaultdict(dict)
    for fact, decision in zip(facts, decisions, strict=True):
        # Empty files and error pages are alike without being the same picture.
        if fact.image_id in common and fact.decodes and (decision is None or decision.decision != DENY):
            owners[fact.image_id].setdefault(fact.label, fact)
    won = settled(facts, decisions)
    found: list[Facts | None] = []
    for fact, decision in zip(facts, decisions, strict=True):
        owned = owners[fact.image_id] if fact.image_id in common else {}
        rivals = (other for label, other in owned.items() if label != fact.label)
        denied = decision is not None and decision.decision == DENY
        found.append(None if denied or won.get(fact.image_id) == fact.label else next(rivals, None))
    return found


def repeated(values: Iterable[str]) -> set[str]:
    """Those that come more than once."""
    seen: set[str] = set()
    again: set[str] = set()
    for value in values:
        (again if value in seen else seen).add(value)
    return again


def settled(facts: Sequence[Facts], decisions: Sequence[Decision | None]) -> dict[str, str]:
    """The label by image_id, of those of which people allowed exactly one."""
    allowed: defaultdict[str, set[str]] = defaultdict(set)
    for fact, decision in zip(facts, decisions, strict=True):
        if decision and decision.decision == ALLOW:
            allowed[fact.image_id].add(fact.label)
    return {image_id: next(iter(labels)) for image_id, labels in allowed.items() if len(labels) == 1}


def rows(facts: Sequence[Facts], judged: Sequence[tuple[str, str] | None]) -> list[dict[str, Any]]:
    """The judged images as rows of schemas.QUARANTINE."""
    return [
        {
            "name": fact.name,
            "label": fact.label,
            "image_id": fact.image_id,
            "reason": found[0],
            "detail": found[1],
        }
        for fact, found in zip(facts, judged, strict=True)
        if found
    ]


def _alone(fact: Facts, limits: Limits) -> tuple[str, str] | None:
    """What one image's own facts say against it."""
    measured = fact.measured
    if measured.format is not None and measured.format not in limits.formats:
        return "format", f"{measured.format}; validate.formats allows {', '.join(limits.formats)}"
    if measured.reason is not None:
        return measured.reason, measured.detail
    if fact.sides is None or fact.aspect is None:
        raise AssertionError(f"{fact.name!r} decodes but has no size")
    shorter, longer = fact.sides
    size = f"{measured.width} x {measured.height} pixels"
    if longer > limits.max_side:
        return "too_large", f"{size}; validate.max_side allows {limits.max_side} on the longer side"
    if shorter < limits.min_side:
        return "too_small", f"{size}; validate.min_side asks for {limits.min_side} on the shorter side"
    if fact.aspect > limits.max_aspect:
        return "aspect", f"{size}, {fact.aspect:.4g} : 1; validate.max_aspect allows {limits.max_aspect:g}"
    if limits.multi_frame == "quarantine" and measured.frames != 1:
        return "multi_frame", f"{measured.frames or 'more than one'} frames; validate.multi_frame is 'quarantine'"
    return None


def _conflict(fact: Facts, rival: Facts | None) -> tuple[str, str] | None:
    if rival is None:
        return None
    labels = sorted((fact.label, rival.label))
    return "label_conflict", f"the same bytes are labelled {', '.join(map(repr, labels))}"
