"""Takes what matters out of Great Expectations' pages, which need the network to be readable."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import ClassVar


def content(html: str) -> str:
    """The content of one of Great Expectations' pages as plain elements, to be put into a page of ours.

    Its links lead to index.html and `<suite>_rules.html` beside it.
    """
    parser = _Content()
    parser.feed(html)
    parser.close()
    body = re.sub(r"\s*\n\s*", "\n", "".join(parser.kept)).strip()
    return f'<p class="links"><a href="index.html">All pages</a></p>\n{body}'


class _Content(HTMLParser):
    """Keeps elements' names, texts and inner links; drops scripts, styles, menus and folded-away parts.

    What it drops is what needs the network or changes from run to run: the folded-away parts hold
    the load time and are tied to their buttons by random ids.
    """

    VOID = frozenset({"br", "hr", "img", "input", "link", "meta"})
    DROPPED = frozenset({"head", "script", "style", "nav", "footer", "button", "label"})
    DROPPED_CLASSES = frozenset({"collapse", "col-lg-2"})  # col-lg-2 is the side menu
    ICONS = (
        ("fa-times", "bad", "broken"),
        ("fa-check-circle", "good", "kept"),
        ("fa-exclamation", "warn", "unclear"),
    )

    SCROLL = '<div class="scroll" tabindex="0" role="region" aria-label="table">'
    RENAMED: ClassVar = {"h5": "h2", "h6": "h3"}  # its headings, at the size of this page's

    def __init__(self) -> None:
        super().__init__(convert_charrefs=False)
        self.kept: list[str] = []
        self._dropping = 0  # open elements since the one that is dropped, itself included

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        classes = set(values.get("class", "").split())
        if self._dropping:
            self._dropping += tag not in self.VOID
        elif self._is_dropped(tag, values, classes):
            self._dropping = int(tag not in self.VOID)
        elif tag in ("br", "hr"):
            self.kept.append(f"<{tag}>")
        elif tag == "i":
            self.kept += [
                f'<span class="badge {tone}">{word}</span>'
                for name, tone, word in self.ICONS
                if any(part.startswith(name) for part in classes)
            ]
            self._dropping = 1
        elif tag == "a":
            target = re.search(r"expectations/(\w+)\.html$", values.get("href", ""))
            self.kept.append(f'<a href="{target[1]}_rules.html">' if target else '<a href="index.html">')
        elif tag not in self.VOID and tag not in ("html", "body"):
            hidden = " hidden" if tag == "thead" and "hidden" in values else ""
            # On a phone a wide table scrolls in its own box; the page does not.
            box = self.SCROLL if tag == "table" else ""
            self.kept.append(f"{box}<{self.RENAMED.get(tag, tag)}{hidden}>")

    def _is_dropped(self, tag: str, values: dict[str, str], classes: set[str]) -> bool:
        folds = tag == "a" and "data-toggle" in values
        return folds or tag in self.DROPPED or bool(classes & self.DROPPED_CLASSES)

    def handle_endtag(self, tag: str) -> None:
        if tag in self.VOID:
            return
        if self._dropping:
            self._dropping -= 1
        elif tag not in ("html", "body"):
            self.kept.append(f"</{self.RENAMED.get(tag, tag)}>" + "</div>" * (tag == "table"))

    def handle_data(self, data: str) -> None:
        if not self._dropping:
            self.kept.append(data)

    def handle_entityref(self, name: str) -> None:
        self.handle_data(f"&{name};")

    def handle_charref(self, name: str) -> None:
        self.handle_data(f"&#{name};")
