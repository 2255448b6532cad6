"""The drawings of a report page, as SVG and HTML; texts handed in must be HTML already."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

WIDTH, HEIGHT = 600.0, 150.0


def number(value: float) -> str:
    """A number for people: 12,345 or 0.0312."""
    return f"{value:,}" if isinstance(value, int) or float(value).is_integer() else f"{value:,.4g}"


def bar(share: float, value: str) -> str:
    """One horizontal bar, filled to `share` of its length, that reads `value`."""
    return (
        f"<svg viewBox='0 0 100 10' preserveAspectRatio='none' role='img' aria-label='{value}'>"
        f"<rect class='track' width='100' height='10'/>"
        f"<rect class='ink' width='{min(100.0, 100 * share):.2f}' height='10'/></svg>"
    )


def histogram(counts: Sequence[int], low: float, high: float, *, label: str, reference: Sequence[int] | None) -> str:
    """Columns of `counts`; with `reference`, shares of each series' total, the reference as an outline."""
    step = WIDTH / max(1, len(counts))
    drawn: list[float] = list(counts)
    outline, outlined = "", list[float]()
    if reference is not None:
        drawn, outlined = _shares(counts), _shares(reference)
    tallest = max([*drawn, *outlined], default=0) or 1
    titles = [number(count) for count in counts]
    said = f"{label}, from {number(low)} to {number(high)}"
    caption = f"tallest column: {number(tallest)}"
    if reference is not None:
        said += "; columns: now, outline: accepted"
        caption = (
            "<span class='key now'>now</span> <span class='key accepted'>accepted</span> "
            f"each as a share of its own total; full height: {100 * tallest:.3g} %"
        )
        titles = [
            f"now {100 * now:.3g} %, accepted {100 * then:.3g} %" for now, then in zip(drawn, outlined, strict=True)
        ]
        path = "".join(
            f"V{HEIGHT * (1 - share / tallest):.1f}H{(at + 1) * step:.1f}" for at, share in enumerate(outlined)
        )
        outline = f"<path class='outline' d='M0,{HEIGHT:.1f}{path}V{HEIGHT:.1f}'/>"
    columns = "".join(
        f"<rect class='ink' x='{at * step + 0.5:.1f}' y='{HEIGHT * (1 - value / tallest):.1f}' "
        f"width='{step - 1:.1f}' height='{HEIGHT * value / tallest:.1f}'>"
        f"<title>{title}</title></rect>"
        for at, (value, title) in enumerate(zip(drawn, titles, strict=True))
    )
    # The texts stand outside the drawing, which is squeezed on a phone, and keep their size.
    return (
        f"<figure class='chart'><svg viewBox='0 0 {WIDTH:.0f} {HEIGHT:.0f}' preserveAspectRatio='none' role='img' "
        f"aria-label='{said}'>{columns}{outline}</svg>"
        f"<div class='axis' aria-hidden='true'><span>{number(low)}</span><span>{label}</span>"
        f"<span>{number(high)}</span></div><figcaption>{caption}</figcaption></figure>"
    )


def reliability(series: Sequence[tuple[str, str, Sequence[Mapping[str, float]]]], *, label: str) -> str:
    """Curves of accuracy by confidence, both 0-1, over the diagonal on which they would be equal.

    A series is (name, class of its style, its points from left to right); a point has `confidence`, `accuracy`,
    `accuracy_low`, `accuracy_high` (its interval, drawn as a line) and `images`, with which its area grows.
    """
    curves = "".join(_curve(*one) for one in series)
    keys = " ".join(f"<span class='key {style}'>{name}</span>" for name, style, _ in series)
    return (
        f"<figure class='chart square'><svg viewBox='0 0 100 100' role='img' aria-label='{label}'>"
        f"<path class='diagonal' d='M0,100L100,0'/>{curves}</svg>"
        "<div class='axis' aria-hidden='true'><span>0</span><span>mean probability of the named class</span>"
        f"<span>1</span></div><figcaption>{keys} upwards: share that was right, with its 95 % interval; on the dashed "
        "line both are equal; a larger dot holds more images</figcaption></figure>"
    )


def _curve(name: str, style: str, points: Sequence[Mapping[str, float]]) -> str:
    whole = max(1, sum(point["images"] for point in points))
    places = [(100 * point["confidence"], 100 - 100 * point["accuracy"]) for point in points]
    intervals = "".join(
        f"M{x:.1f},{100 - 100 * point['accuracy_low']:.1f}V{100 - 100 * point['accuracy_high']:.1f}"
        for (x, _), point in zip(places, points, strict=True)
    )
    dots = "".join(
        f"<circle class='{style}' cx='{x:.1f}' cy='{y:.1f}' r='{0.8 + 2.2 * math.sqrt(point['images'] / whole):.2f}'>"
        f"<title>{name}: {100 * point['confidence']:.3g} % sure, {100 * point['accuracy']:.3g} % right "
        f"({100 * point['accuracy_low']:.3g} to {100 * point['accuracy_high']:.3g} %), {number(point['images'])} images"
        "</title></circle>"
        for (x, y), point in zip(places, points, strict=True)
    )
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    drawn = f"<path class='interval {style}' d='{intervals}'/>" if points else ""
    return f"{drawn}<polyline class='{style}' points='{line}'/>{dots}"


def _shares(counts: Sequence[int]) -> list[float]:
    total = sum(counts) or 1
    return [count / total for count in counts]
