"""Decides which images may not be trained on, each with a reason code and a detail in words."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Protocol

from stages.core import images
from stages.core.facts import Facts

# In the order they are looked for: an image gets the first that fits.
REASONS = (*images.REASONS, "too_small", "aspect", "multi_frame", "label_conflict")


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


def judge(facts: Sequence[Facts], limits: Limits) -> list[tuple[str, str] | None]:
    """For each image (reason, detail), or None where it is accepted."""
    labels: defaultdict[str, set[str]] = defaultdict(set)
    for fact in facts:
        labels[fact.image_id].add(fact.label)
    return [_alone(fact, limits) or _conflict(fact, labels[fact.image_id]) for fact in facts]


def rows(facts: Sequence[Facts], judged: Sequence[tuple[str, str] | None]) -> list[dict[str, str]]:
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
    if fact.format is not None and fact.format not in limits.formats:
        return "format", f"{fact.format}; validate.formats allows {', '.join(limits.formats)}"
    if fact.reason is not None:
        return fact.reason, fact.detail
    if fact.width is None or fact.height is None or fact.aspect is None:
        raise AssertionError(f"{fact.name!r} decodes but has no size")
    size = f"{fact.width} x {fact.height} pixels"
    if max(fact.width, fact.height) > limits.max_side:
        return "too_large", f"{size}; validate.max_side allows {limits.max_side} on the longer side"
    if min(fact.width, fact.height) < limits.min_side:
        return "too_small", f"{size}; validate.min_side asks for {limits.min_side} on the shorter side"
    if fact.aspect > limits.max_aspect:
        return "aspect", f"{size}, {fact.aspect:.4g} : 1; validate.max_aspect allows {limits.max_aspect:g}"
    if limits.multi_frame == "quarantine" and fact.frames != 1:
        return "multi_frame", f"{fact.frames or 'more than one'} frames; validate.multi_frame is 'quarantine'"
    return None


def _conflict(fact: Facts, labels: set[str]) -> tuple[str, str] | None:
    if len(labels) == 1:
        return None
    return "label_conflict", f"the same bytes are labelled {', '.join(map(repr, sorted(labels)))}"
