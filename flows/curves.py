"""Learning curves as one small SVG, drawn from the TSV files that fine_tune leaves."""

from __future__ import annotations

import csv
from pathlib import Path

WIDTH, HEIGHT, LEFT, TOP, PANEL = 720, 300, 56, 34, 290
COLOURS = {"train": "#9a6700", "val": "#0969da"}


def draw(folder: Path) -> str | None:
    """Accuracy and loss per epoch, training and validation, from `folder`/plots/metrics; None where there are none."""
    panels = []
    for number, metric in enumerate(("accuracy", "loss")):
        lines = {split: _read(folder / "plots" / "metrics" / split / f"{metric}.tsv") for split in COLOURS}
        if not any(lines.values()):
            return None
        panels.append(_panel(metric, lines, LEFT + number * (PANEL + 62)))
    legend = "".join(
        f'<rect x="{LEFT + at * 110}" y="10" width="18" height="4" fill="{colour}"/>'
        f'<text x="{LEFT + 24 + at * 110}" y="16">{"training" if split == "train" else "validation"}</text>'
        for at, (split, colour) in enumerate(COLOURS.items())
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="12" fill="#24292f">'
        f'<rect width="100%" height="100%" fill="#ffffff"/>{legend}{"".join(panels)}</svg>'
    )


def _read(path: Path) -> list[tuple[int, float]]:
    """(step, value) rows of one of DVCLive's TSV files; empty where it does not exist."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        rows = list(csv.reader(file, delimiter="\t"))[1:]
    return [(int(step), float(value)) for step, value in rows]


def _panel(metric: str, lines: dict[str, list[tuple[int, float]]], left: int) -> str:
    bottom = HEIGHT - 40
    values = [value for line in lines.values() for _, value in line]
    low, high = min(values), max(values)
    high = high if high > low else low + 1.0
    last = max(max((step for step, _ in line), default=0) for line in lines.values())

    def at(step: int, value: float) -> str:
        across = left + PANEL * step / max(last, 1)
        return f"{across:.1f},{bottom - (bottom - TOP) * (value - low) / (high - low):.1f}"

    drawn = [f'<path d="M{left},{TOP}V{bottom}H{left + PANEL}" fill="none" stroke="#8c959f"/>']
    for split, line in lines.items():
        points = " ".join(at(step, value) for step, value in line)
        drawn.append(f'<polyline points="{points}" fill="none" stroke="{COLOURS[split]}" stroke-width="2"/>')
    drawn += [
        f'<text x="{left - 6}" y="{TOP + 4}" text-anchor="end">{high:.3g}</text>',
        f'<text x="{left - 6}" y="{bottom + 4}" text-anchor="end">{low:.3g}</text>',
        f'<text x="{left}" y="{bottom + 18}" text-anchor="middle">1</text>',
        f'<text x="{left + PANEL}" y="{bottom + 18}" text-anchor="middle">{last + 1}</text>',
        f'<text x="{left + PANEL / 2}" y="{bottom + 32}" text-anchor="middle">{metric} per epoch</text>',
    ]
    return "".join(drawn)
