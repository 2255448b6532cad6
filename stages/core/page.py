"""Builds one self-contained HTML page: no script, no network, every value escaped.

    page = Page("Validation of the images")
    page.banner("good", "Accepted.", "Nothing to do.")
    page.heading("Classes")
    page.bars([("cat", 900), ("dog", 870)], unit="images")
    page.table(["name", "reason"], [["a.jpg", "empty"]])
    html = page.render()

Follows the reader's light or dark setting, fits a phone, and prints black on white. The same calls
give the same bytes.
"""

from __future__ import annotations

import base64
import html
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from stages.core.page_style import STYLE

Tone = Literal["good", "warn", "bad", "plain"]

# Invisible characters that emoji and some scripts are written with; they reorder nothing.
_JOINERS = {"\u200c", "\u200d"}
_HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def visible(text: str) -> str:
    """`text` with control, direction-changing and broken characters spelt out: a newline is ⟨U+000A⟩."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        f"⟨U+{ord(char):04X}⟩" if unicodedata.category(char) in _HIDDEN and char not in _JOINERS else char
        for char in text
    )


def escape(value: object) -> str:
    """Any value as HTML text that holds no tag, no quote and no invisible character."""
    return html.escape(visible(str(value)), quote=True)


@dataclass(frozen=True)
class Badge:
    """A table cell shown as a coloured word."""

    text: str
    tone: Tone = "plain"


Cell = str | int | float | bool | Badge | None


class Page:
    """Collects the parts of a page in reading order."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._parts: list[str] = []

    def banner(self, tone: Tone, headline: str, body: str) -> None:
        """The page's answer in one sentence, and what to do next."""
        self._parts.append(f'<div class="banner {tone}"><strong>{escape(headline)}</strong><p>{escape(body)}</p></div>')

    def heading(self, text: str, level: Literal[2, 3] = 2) -> None:
        self._parts.append(f"<h{level}>{escape(text)}</h{level}>")

    def paragraph(self, text: str) -> None:
        self._parts.append(f"<p>{escape(text)}</p>")

    def links(self, links: Iterable[tuple[str, str]]) -> None:
        """Links as (text, path relative to this page). Raises ValueError for one that leaves the disk."""
        shown = []
        for text, href in links:
            if ":" in href or href.startswith("/"):
                raise ValueError(f"link {href!r}: must be a relative path, because the page is read offline")
            shown.append(f'<a href="{escape(href)}">{escape(text)}</a>')
        self._parts.append(f'<p class="links">{" · ".join(shown)}</p>')

    def figures(self, figures: Iterable[tuple[str, Cell]]) -> None:
        """A few numbers that sum the page up, as (what, value)."""
        tiles = "".join(f"<div><dt>{escape(what)}</dt><dd>{_cell(value)}</dd></div>" for what, value in figures)
        self._parts.append(f'<dl class="figures">{tiles}</dl>')

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[Cell]], *, caption: str = "") -> None:
        """Rows under column names; numbers are set right. A wide table scrolls inside the page."""
        kept = list(rows)
        first = kept[0] if kept else [""] * len(columns)
        head = "".join(
            f'<th scope="col"{_alignment(cell)}>{escape(column)}</th>'
            for column, cell in zip(columns, first, strict=True)
        )
        lines = ("".join(f"<td{_alignment(cell)}>{_cell(cell)}</td>" for cell in row) for row in kept)
        body = "".join(f"<tr>{line}</tr>\n" for line in lines)
        title = f"<caption>{escape(caption)}</caption>" if caption else ""
        self._parts.append(
            f'<div class="scroll"><table>{title}<thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table></div>'
        )

    def bars(self, bars: Sequence[tuple[str, float]], *, unit: str, whole: float | None = None) -> None:
        """One horizontal bar per (label, value >= 0), all to the scale of `whole` or of the largest."""
        full = whole or max((value for _, value in bars), default=0) or 1
        rows = "".join(
            f"<tr><th scope='row'>{escape(label)}</th><td class='bar'>"
            f"<svg viewBox='0 0 100 10' preserveAspectRatio='none' role='img' aria-label='{_number(value)}'>"
            f"<rect class='track' width='100' height='10'/>"
            f"<rect class='ink' width='{min(100.0, 100 * value / full):.2f}' height='10'/></svg></td>"
            f"<td class='number'>{_number(value)} {escape(unit)}</td></tr>\n"
            for label, value in bars
        )
        self._parts.append(f'<table class="bars"><tbody>\n{rows}</tbody></table>')

    def histogram(self, counts: Sequence[int], low: float, high: float, *, label: str) -> None:
        """Columns of `counts` over equal steps from `low` to `high`, on the axis `label`."""
        width, height, foot = 600.0, 150.0, 26.0
        step = width / max(1, len(counts))
        tallest = max(counts, default=0) or 1
        columns = "".join(
            f"<rect class='ink' x='{at * step + 0.5:.1f}' y='{height * (1 - count / tallest):.1f}' "
            f"width='{step - 1:.1f}' height='{height * count / tallest:.1f}'>"
            f"<title>{_number(count)}</title></rect>"
            for at, count in enumerate(counts)
        )
        middle = height + foot - 8
        self._parts.append(
            f"<figure class='chart'><svg viewBox='0 0 {width:.0f} {height + foot:.0f}' role='img' "
            f"aria-label='{escape(label)}'>{columns}"
            f"<line class='axis' x1='0' x2='{width:.0f}' y1='{height:.0f}' y2='{height:.0f}'/>"
            f"<text x='0' y='{middle:.0f}'>{_number(low)}</text>"
            f"<text x='{width / 2:.0f}' y='{middle:.0f}' text-anchor='middle'>{escape(label)}</text>"
            f"<text x='{width:.0f}' y='{middle:.0f}' text-anchor='end'>{_number(high)}</text></svg>"
            f"<figcaption>tallest column: {_number(tallest)}</figcaption></figure>"
        )

    def gallery(self, pictures: Iterable[tuple[bytes | None, str]]) -> None:
        """Thumbnails (JPEG or PNG bytes; None where there is no picture to show) over their captions."""
        tiles = []
        for data, caption in pictures:
            if data is None:
                image = '<div class="blank">no picture</div>'
            else:
                kind = "png" if data.startswith(b"\x89PNG") else "jpeg"
                source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
                image = f'<img alt="" src="{source}">'
            tiles.append(f"<figure>{image}<figcaption>{escape(caption)}</figcaption></figure>")
        self._parts.append(f'<div class="gallery">\n{chr(10).join(tiles)}\n</div>')

    def render(self) -> str:
        """The whole page as HTML text, to be written as UTF-8."""
        return document(self._title, "\n".join(self._parts))


def document(title: str, body: str) -> str:
    """A whole page around `body`, which must be HTML already: escaped, and from a trusted builder."""
    return _PAGE.format(policy=POLICY, title=escape(title), style=STYLE, body=body)


def _cell(cell: Cell) -> str:
    if isinstance(cell, Badge):
        return f'<span class="badge {cell.tone}">{escape(cell.text)}</span>'
    if cell is None:
        return '<span class="none">–</span>'
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    return _number(cell) if isinstance(cell, int | float) else escape(cell)


def _alignment(cell: Cell) -> str:
    return ' class="number"' if isinstance(cell, int | float) and not isinstance(cell, bool) else ""


def _number(value: float) -> str:
    """A number for people: 12,345 or 0.0312."""
    return f"{value:,}" if isinstance(value, int) or float(value).is_integer() else f"{value:,.4g}"


# The policy keeps a browser from running or fetching anything, whatever a value may hold.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
<h1>{title}</h1>
{body}
</main>
</body>
</html>
"""
