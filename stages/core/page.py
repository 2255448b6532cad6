"""Builds one self-contained HTML page: no network, every value escaped, and no script unless asked for.

    page = Page("Validation of the images", script=True)
    page.banner("good", "Accepted.", "Nothing to do.")
    page.contents()
    page.heading("Classes", id="classes")
    page.bars([("cat", 900), ("dog", 870)], unit="images", hrefs=["#rows?label=cat", "#rows?label=dog"])
    page.heading("Images", id="images")
    page.table(
        ["name", "reason"], [["a.jpg", "empty"]], id="rows", sortable=True, filterable=True, tags=[["label=cat"]]
    )
    html = page.render()

Follows the reader's light or dark setting, fits a phone, and prints black on white. Whatever the
script does, sorting and filtering, the page can be read without it. The same calls give the same
bytes.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import html
import io
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from stages.core import page_plots
from stages.core.page_plots import number
from stages.core.page_script import SCRIPT
from stages.core.page_style import STYLE

Tone = Literal["good", "warn", "bad", "plain"]

# Invisible characters that emoji and some scripts are written with; they reorder nothing.
_JOINERS = {"\u200c", "\u200d"}
_HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def visible(text: str) -> str:
    """`text` with control, direction-changing and broken characters spelt out: a newline is ⟨U+000A⟩."""
    if text.isascii() and text.isprintable():
        return text
    # What only looks spelt out is spelt out too, or two names could be shown as one.
    text = text.replace("⟨U+", "⟨U+27E8⟩U+")
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


@dataclass(frozen=True)
class Link:
    """A link to a file beside the page, or to `#id` on it; `#id?tag` shows a table's rows of one tag.

    Raises ValueError for an address that leaves the disk.
    """

    text: str | int | float
    href: str

    def __post_init__(self) -> None:
        # A browser drops blanks around an address and takes a backslash for a slash.
        path = self.href.partition("#")[0].strip().replace("\\", "/")
        if ":" in path or path.startswith("/"):
            raise ValueError(f"link {self.href!r}: must be a relative path, because the page is read offline")


@dataclass(frozen=True)
class Picture:
    """A table cell shown as a thumbnail: JPEG or PNG bytes, None where there is nothing to show."""

    data: bytes | None
    alt: str


@dataclass(frozen=True)
class Estimate:
    """A table cell of a figure with the bounds of its interval, four decimals each; sorted by the figure."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Tile:
    """A picture of a gallery, with small lines under its caption and a border in the colour of `tone`."""

    data: bytes | None
    caption: str
    notes: Sequence[str] = ()
    tone: Tone = "plain"


Cell = str | int | float | bool | Badge | Link | Picture | Estimate | None


class Page:
    """Collects the parts of a page in reading order."""

    def __init__(self, title: str, *, script: bool = False) -> None:
        self._title = title
        self._script = script
        self._parts: list[str | None] = []  # None: the contents go here
        self._ids: set[str] = set()
        self._contents: list[Link] = []

    def banner(self, tone: Tone, headline: str, body: str) -> None:
        """The page's answer in one sentence, and what to do next."""
        self._parts.append(f'<div class="banner {tone}"><strong>{escape(headline)}</strong><p>{escape(body)}</p></div>')

    def contents(self) -> None:
        """The place of the table of contents: every heading of level 2 that has an id."""
        self._parts.append(None)

    def heading(self, text: str, level: Literal[2, 3] = 2, id: str | None = None) -> None:
        """A heading, which links reach as `#id`."""
        self._parts.append(f"<h{level}{self._id(id)}>{escape(text)}</h{level}>")
        if id is not None and level == 2:
            self._contents.append(Link(text, f"#{id}"))

    def paragraph(self, text: str) -> None:
        """Plain text."""
        self._parts.append(f"<p>{escape(text)}</p>")

    def sentence(self, parts: Iterable[Cell]) -> None:
        """A paragraph of text, links and badges; blanks between them are the caller's."""
        self._parts.append(f"<p>{''.join(_cell(part) for part in parts)}</p>")

    @contextmanager
    def details(self, summary: str) -> Iterator[None]:
        """What is added inside is folded away under `summary` until the reader opens it."""
        self._parts.append(f"<details><summary>{escape(summary)}</summary>")
        yield
        self._parts.append("</details>")

    def links(self, links: Iterable[tuple[str, str]]) -> None:
        """Links as (text, path relative to this page). Raises ValueError for one that leaves the disk."""
        self._parts.append(f'<p class="links">{" · ".join(_cell(Link(text, href)) for text, href in links)}</p>')

    def download(self, text: str, file_name: str, columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> None:
        """A link that saves the rows as a CSV file, which the page itself carries."""
        file = io.StringIO()
        writer = csv.writer(file)  # ends lines with CR LF
        writer.writerow([_harmless(column) for column in columns])
        writer.writerows([_csv_value(cell) for cell in row] for row in rows)
        # A broken character of a file name has no bytes in UTF-8.
        data = file.getvalue().encode("utf-8", "backslashreplace")
        self._parts.append(
            f'<p><a class="download" download="{escape(file_name)}" '
            f'href="data:text/csv;charset=utf-8,{"".join(_IN_URI[byte] for byte in data)}">{escape(text)}</a></p>'
        )

    def figures(self, figures: Iterable[tuple[str, Cell]]) -> None:
        """A few numbers that sum the page up, as (what, value)."""
        tiles = "".join(f"<div><dt>{escape(what)}</dt><dd>{_cell(value)}</dd></div>" for what, value in figures)
        self._parts.append(f'<dl class="figures">{tiles}</dl>')

    def table(
        self,
        columns: Sequence[str],
        rows: Iterable[Sequence[Cell]],
        *,
        caption: str = "",
        id: str | None = None,
        sortable: bool = False,
        filterable: bool = False,
        tags: Sequence[Sequence[str]] | None = None,
    ) -> None:
        """Rows under column names; numbers are set right. A wide table scrolls inside the page.

        With a page's script the reader can sort and filter, and a link to `#id?tag` shows only the
        rows that have exactly that one of their `tags`, which is one sequence per row.
        """
        kept = list(rows)
        samples = [next((row[at] for row in kept if row[at] is not None), "") for at in range(len(columns))]
        head = "".join(
            f'<th scope="col"{_kind(sample)}>{escape(column)}</th>'
            for column, sample in zip(columns, samples, strict=True)
        )
        marks = [""] * len(kept) if tags is None else [_tags(own) for own in tags]
        body = "".join(
            f"<tr{mark}>"
            + "".join(
                f"<td{_kind(kind if cell is None else cell)}{_sort_value(cell) if sortable else ''}>{_cell(cell)}</td>"
                for kind, cell in zip(samples, row, strict=True)
            )
            + "</tr>\n"
            for mark, row in zip(marks, kept, strict=True)
        )
        title = f"<caption>{escape(caption)}</caption>" if caption else ""
        name = escape(caption or f"table of {', '.join(columns)}")
        wishes = " data-sortable" * sortable + " data-filterable" * filterable
        self._parts.append(
            f'<div class="listing"{self._id(id)}{wishes}><div class="scroll" tabindex="0" role="region" '
            f'aria-label="{name}"><table>{title}<thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table></div></div>'
        )

    def bars(
        self,
        bars: Sequence[tuple[str, float]],
        *,
        unit: str,
        whole: float | None = None,
        hrefs: Sequence[str | None] | None = None,
    ) -> None:
        """One horizontal bar per (label, value >= 0), all to the scale of `whole` or of the largest.

        With `hrefs`, one per bar, the numbers are links.
        """
        full = whole or max((value for _, value in bars), default=0) or 1
        rows = "".join(
            f"<tr><th scope='row'>{escape(label)}</th>"
            f"<td class='bar'>{page_plots.bar(value / full, number(value))}</td>"
            f"<td class='number'>{_cell(value if href is None else Link(value, href))} {escape(unit)}</td></tr>\n"
            for (label, value), href in zip(bars, hrefs or [None] * len(bars), strict=True)
        )
        self._parts.append(f'<table class="bars"><tbody>\n{rows}</tbody></table>')

    def histogram(
        self, counts: Sequence[int], low: float, high: float, *, label: str, reference: Sequence[int] | None = None
    ) -> None:
        """Columns of `counts` over equal steps from `low` to `high`, on the axis `label`.

        `reference` is the same of the accepted data, drawn over the columns as an outline; then both
        are shown as shares of their own total.
        """
        self._parts.append(page_plots.histogram(counts, low, high, label=escape(label), reference=reference))

    def reliability(self, series: Sequence[tuple[str, str, Sequence[Mapping[str, float]]]], *, label: str) -> None:
        """Curves of accuracy by confidence with intervals, over the line on which the two are equal.

        A series is (name, `now` or `accepted` for its colour, points as page_plots.reliability takes them).
        """
        named = [(escape(name), escape(style), points) for name, style, points in series]
        self._parts.append(page_plots.reliability(named, label=escape(label)))

    def gallery(
        self, pictures: Iterable[tuple[bytes | None, str] | Tile], *, row: bool = False, abreast: Literal[1, 2, 3] = 1
    ) -> None:
        """Thumbnails (JPEG or PNG bytes; None where there is no picture to show) over their captions.

        As a `row` they stand side by side in a box that scrolls, to be compared. `abreast` says how many square
        pictures each one holds beside each other.
        """
        tiles = [picture if isinstance(picture, Tile) else Tile(*picture) for picture in pictures]
        shown = "\n".join(_tile(tile) for tile in tiles)
        box = 'class="gallery"' if abreast == 1 else f'class="gallery abreast-{abreast}"'
        if row:
            name = escape(f"side by side: {', '.join(tile.caption for tile in tiles)}")
            box = f'class="gallery row" tabindex="0" role="region" aria-label="{name}"'
        self._parts.append(f"<div {box}>\n{shown}\n</div>")

    def render(self) -> str:
        """The whole page as HTML text, to be written as UTF-8."""
        items = "".join(f"<li>{_cell(link)}</li>" for link in self._contents)
        nav = f'<nav class="contents" aria-label="Contents"><ul>{items}</ul></nav>'
        body = "\n".join(nav if part is None else part for part in self._parts)
        return document(self._title, body, script=self._script)

    def _id(self, id: str | None) -> str:
        if id is None:
            return ""
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", id) or id in self._ids:
            raise ValueError(f"id {id!r}: must be a plain word, and the only one of its kind on the page")
        self._ids.add(id)
        return f' id="{id}"'


def document(title: str, body: str, *, script: bool = False) -> str:
    """A whole page around `body`, which must be HTML already: escaped, and from a trusted builder."""
    policy = POLICY
    if script:
        digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
        policy += f"; script-src 'sha256-{digest}'"
        body += f"\n<script>{SCRIPT}</script>"
    return _PAGE.format(policy=policy, title=escape(title), style=STYLE, body=body)


def _cell(cell: Cell) -> str:
    if isinstance(cell, Badge):
        return f'<span class="badge {cell.tone}">{escape(cell.text)}</span>'
    if isinstance(cell, Link):
        path, _, fragment = cell.href.partition("#")
        target, asks, tag = fragment.partition("?")
        # Without the script `#id?tag` would lead nowhere, as no element is named so.
        href = f'#{escape(target)}" data-filter="{escape(tag)}' if asks and not path else escape(cell.href)
        return f'<a href="{href}">{_cell(cell.text)}</a>'
    if isinstance(cell, Picture):
        if cell.data is None:
            return f'<span class="thumb blank" role="img" aria-label="{escape(f"no picture: {cell.alt}")}">none</span>'
        return f'<img class="thumb" alt="{escape(cell.alt)}" src="{_data_uri(cell.data)}">'
    if isinstance(cell, Estimate):
        bounds = f"({cell.low:.4f} to {cell.high:.4f})"
        return f'<span class="estimate"><span>{cell.value:.4f}</span> <span>{bounds}</span></span>'
    if cell is None:
        return '<span class="none">–</span>'
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    return number(cell) if isinstance(cell, int | float) else escape(cell)


def _tile(tile: Tile) -> str:
    image = '<div class="blank">no picture</div>'
    if tile.data is not None:
        image = f'<img alt="" src="{_data_uri(tile.data)}">'
    notes = "".join(f"<small>{escape(note)}</small>" for note in tile.notes)
    tone = "" if tile.tone == "plain" else f' class="{tile.tone}"'
    return f"<figure{tone}>{image}<figcaption>{escape(tile.caption)}{notes}</figcaption></figure>"


def _data_uri(data: bytes) -> str:
    kind = "png" if data.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _numeric(cell: Cell) -> float | None:
    value = cell.text if isinstance(cell, Link) else cell
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _kind(cell: Cell) -> str:
    if isinstance(cell, Picture):
        return ' class="picture"'
    if isinstance(cell, str) and len(cell) > _LONG:
        return ' class="long"'
    return "" if _numeric(cell) is None else ' class="number"'


def _sort_value(cell: Cell) -> str:
    """The number behind a text that was rounded or grouped, as a script reads it."""
    if isinstance(cell, Estimate):
        return f' data-value="{cell.value!r}"'
    value = _numeric(cell)
    if value is None:
        return ""
    plain = str(value) if isinstance(value, int) else repr(float(value)).replace("inf", "Infinity")
    return "" if plain == number(value) else f' data-value="{plain}"'


def _tags(tags: Sequence[str]) -> str:
    # What is shown of a tag is what is looked for, here and in Link: both have it spelt out alike.
    return f' data-tags="{escape(json.dumps([visible(tag) for tag in tags]))}"'


def _csv_value(cell: Cell) -> str | int | float:
    if isinstance(cell, Badge | Link):
        cell = cell.text
    if isinstance(cell, Picture):
        cell = cell.alt
    if isinstance(cell, Estimate):
        cell = cell.value
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    return _harmless(cell or "") if isinstance(cell, str | None) else cell


def _harmless(text: str) -> str:
    """A text that a spreadsheet would run as a formula, marked as text."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


_LONG = 40  # characters; a longer text gets room on a phone, where it would stand in one tall, narrow column

# Letters, digits and a few marks stand for themselves in a data URI. A slash does not, so that no page
# holds what looks like an address.
_IN_URI = [
    chr(byte) if chr(byte).isascii() and (chr(byte).isalnum() or chr(byte) in "-_.~,;=()") else f"%{byte:02X}"
    for byte in range(256)
]

# The policy keeps a browser from running or fetching anything, whatever a value may hold.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
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
