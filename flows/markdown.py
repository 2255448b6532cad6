"""Text from data as Markdown that shows it and does nothing else."""

from __future__ import annotations

import re

# Prefect's UI undoes backslashes and these few entities, no numeric ones. An underscore inside a word and a colon
# before a space mean nothing: names and values stay legible.
ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
MARKS = re.compile(r"[&<>]|[\\`*{}\[\]()#+!|~$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|:(?=//)|@|(?<=www)\.")


def inert(text: object) -> str:
    """The text as one line that Markdown renders as itself: no tag, link, cell end or emphasis."""
    return MARKS.sub(lambda found: ENTITIES.get(found[0], f"\\{found[0]}"), printable(str(text)))


def printable(text: str) -> str:
    r"""Without control characters, line breaks, or what turns the writing direction: `\n`, `\u202e`."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)
