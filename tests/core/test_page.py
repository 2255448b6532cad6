"""The page builder: nothing escapes it unescaped, and nothing it makes needs the network."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from stages.core.page import Badge, Page, escape, visible

NASTY = "<script>alert(1)</script>\"'&\n\u202egpj.exe 🐈 <img src=x onerror=y>"


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.text: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def parse(html: str) -> Tags:
    tags = Tags()
    tags.feed(html)
    return tags


def everything(value: str) -> str:
    page = Page(value)
    page.banner("bad", value, value)
    page.heading(value)
    page.paragraph(value)
    page.links([(value, "data_docs/index.html")])
    page.figures([(value, value)])
    page.table([value], [[value], [Badge(value, "warn")], [3], [0.25], [None], [True]], caption=value)
    page.bars([(value, 2.0), ("other", 1.0)], unit=value)
    page.histogram([1, 4, 2], 0, 1, label=value)
    page.gallery([(b"\x89PNG", value), (None, value)])
    return page.render()


def test_no_value_becomes_a_tag() -> None:
    plain, nasty = parse(everything("plain")), parse(everything(NASTY))
    assert nasty.seen == plain.seen  # the same tags, so none came from the value
    assert "script" not in nasty.seen
    assert not [name for name, _ in nasty.attributes if name.startswith("on")]
    shown = "".join(nasty.text)
    assert shown.count("<script>alert(1)</script>\"'&⟨U+000A⟩⟨U+202E⟩gpj.exe 🐈") >= 12


def test_page_needs_no_network() -> None:
    html = everything("plain")
    assert not re.search(r"https?://|//[a-z]|@import|url\(", html)
    assert "default-src 'none'" in html


def test_same_calls_give_the_same_bytes_and_other_calls_do_not() -> None:
    assert everything("one") == everything("one")
    assert everything("one") != everything("two")


def test_values_are_escaped_once() -> None:
    assert escape("a & <b>") == "a &amp; &lt;b&gt;"
    assert "&amp;amp;" not in everything("a & b")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain.jpg", "plain.jpg"),
        ("a\nb\t", "a⟨U+000A⟩b⟨U+0009⟩"),
        ("\u202ex\u2066", "⟨U+202E⟩x⟨U+2066⟩"),
        ("кот 猫 قط", "кот 猫 قط"),
        ("👩\u200d🚀", "👩\u200d🚀"),
        ("\udcff", "⟨U+DCFF⟩"),
    ],
)
def test_invisible_characters_are_spelt_out(text: str, shown: str) -> None:
    assert visible(text) == shown
    shown.encode()


def test_bars_are_to_scale() -> None:
    page = Page("t")
    page.bars([("a", 50), ("b", 25), ("c", 0)], unit="images")
    html = page.render()
    assert re.findall(r"class='ink' width='([\d.]+)'", html) == ["100.00", "50.00", "0.00"]
    page = Page("t")
    page.bars([("a", 50)], unit="images", whole=200)
    assert "class='ink' width='25.00'" in page.render()


def test_histogram_columns_are_to_scale() -> None:
    page = Page("t")
    page.histogram([2, 8, 0], 0.0, 1.5, label="brightness")
    html = page.render()
    assert re.findall(r"height='([\d.]+)'><title>", html) == ["37.5", "150.0", "0.0"]
    assert ">1.5<" in html


def test_empty_parts_are_drawn_all_the_same() -> None:
    page = Page("t")
    page.bars([], unit="images")
    page.histogram([], 0, 1, label="x")
    page.table(["a"], [])
    page.gallery([])
    assert page.render().endswith("</html>\n")


def test_links_that_leave_the_disk_are_refused() -> None:
    for href in ("https://example.org", "//example.org", "javascript:x", "/etc"):
        with pytest.raises(ValueError, match="relative path"):
            Page("t").links([("x", href)])
