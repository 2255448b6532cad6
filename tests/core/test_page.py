"""The page builder: nothing escapes it unescaped, and nothing it makes needs the network."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import re
import urllib.parse
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import pytest

from stages.core.page import Badge, Cell, Estimate, Link, Page, Picture, Tile, escape, visible
from stages.core.page_script import SCRIPT

NASTY = "<script>alert(1)</script>\"'&\n\u202egpj.exe 🐈 <img src=x onerror=y>"
OUTSIDE = [
    "https://example.org", "//example.org", "javascript:x", "/etc", " /etc", "\\\\host\\share", "data:text/html,x",
    "https://example.org#x", "JAVASCRIPT:x#rows?a", "\thttps://example.org", "file:///etc",
]  # fmt: skip


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


def everything(value: str, script: bool = False) -> str:
    page = Page(value, script=script)
    page.banner("bad", value, value)
    page.heading(value)
    page.paragraph(value)
    page.links([(value, "data_docs/index.html")])
    page.figures([(value, value)])
    page.table([value], [[value], [Badge(value, "warn")], [3], [0.25], [None], [True]], caption=value)
    page.bars([(value, 2.0), ("other", 1.0)], unit=value)
    page.histogram([1, 4, 2], 0, 1, label=value)
    page.gallery([(b"\x89PNG", value), (None, value)])
    page.contents()
    page.heading(value, id="part")
    page.sentence([value, Badge(value), Link(value, f"#rows?{value}"), Link(value, "#part"), 3, None])
    page.figures([(value, Link(value, "#rows"))])
    page.download(value, value, [value], [[value], [Link(value, "#part")]])
    page.bars([(value, 2.0)], unit=value, hrefs=[f"#rows?{value}"])
    page.histogram([1, 4, 2], 0, 1, label=value, reference=[3, 1, 1])
    page.gallery([Tile(b"\xff\xd8", value, [value, value], "warn"), Tile(None, value)], row=True)
    with page.details(value):
        page.table(
            [value, "b"],
            [[Picture(b"\x89PNG", value), Picture(None, value)], [value, Link(value, f"x.html#a?{value}")]],
            caption=value, id="rows", sortable=True, filterable=True, tags=[[value, value], []],
        )  # fmt: skip
        page.table([value], [[value]])
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


WITH_LINKS: dict[str, Callable[[Page, str], Any]] = {
    "links": lambda page, href: page.links([("x", href)]),
    "link": lambda page, href: Link("x", href),
    "figures": lambda page, href: page.figures([("x", Link(1, href))]),
    "table": lambda page, href: page.table(["a"], [[Link("x", href)]]),
    "sentence": lambda page, href: page.sentence([Link("x", href)]),
    "bars": lambda page, href: page.bars([("a", 1)], unit="images", hrefs=[href]),
}


@pytest.mark.parametrize("place", WITH_LINKS)
def test_links_that_leave_the_disk_are_refused(place: str) -> None:
    for href in OUTSIDE:
        with pytest.raises(ValueError, match="relative path"):
            WITH_LINKS[place](Page("t"), href)
    for href in ("#rows", "#rows?label=a:b/c", "data_docs/index.html", "../x.html#part", "a b.html"):
        WITH_LINKS[place](Page("t"), href)


def policy(html: str) -> str:
    return next(value for value in re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', html))


def test_page_without_script_has_none() -> None:
    html = everything(NASTY)
    assert "<script" not in html
    assert "script-src" not in policy(html)


def test_the_one_script_is_allowed_by_its_hash() -> None:
    html = everything(NASTY, script=True)
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    assert script == SCRIPT
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert [part for part in policy(html).split("; ") if part.startswith("script-src")] == [
        f"script-src 'sha256-{digest}'"
    ]
    assert html.count("<script") == 1
    assert len(SCRIPT) < 6 * 1024
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|eval|Function\(|document\.write|fetch|import", SCRIPT)


def test_script_changes_nothing_else() -> None:
    with_script = re.sub(r"\n<script>.*</script>", "", everything("a", script=True), flags=re.DOTALL)
    assert re.sub(r"; script-src '[^']*'", "", with_script) == everything("a")


def attributes(html: str, name: str) -> list[str]:
    return [value or "" for key, value in parse(html).attributes if key == name]


def test_link_to_rows_of_a_tag_jumps_to_the_table_without_script() -> None:
    page = Page("t")
    page.sentence([Link(12345, "#rows?label=a?b#c\n"), Link("plain", "#rows"), Link("far", "x.html#rows?a")])
    html = page.render()
    assert attributes(html, "href") == ["#rows", "#rows", "x.html#rows?a"]
    assert attributes(html, "data-filter") == ["label=a?b#c⟨U+000A⟩"]
    assert ">12,345</a>" in html


def test_tags_are_kept_whatever_they_hold() -> None:
    own = [[NASTY, "rule=blurred"], [], ['"],[', "a b", "\udcff"]]
    page = Page("t")
    page.table(["a"], [["x"], ["y"], ["z"]], id="rows", tags=own)
    assert [json.loads(value) for value in attributes(page.render(), "data-tags")] == [
        [visible(tag) for tag in tags] for tags in own
    ]
    with pytest.raises(ValueError, match="zip"):
        Page("t").table(["a"], [["x"]], tags=[])


def test_an_estimate_stands_with_its_interval_and_is_sorted_by_its_value() -> None:
    page = Page("t")
    rows: list[list[Cell]] = [[Estimate(0.98765432, 0.9, 1.0)], [Estimate(1.0, 0.95, 1.0)], [""]]
    page.table(["accuracy"], rows, sortable=True)
    page.download("save", "rows.csv", ["accuracy"], rows)
    html = page.render()
    assert 'data-value="0.98765432"><span class="estimate"><span>0.9877</span> <span>(0.9000 to 1.0000)</span>' in html
    assert 'data-value="1.0"><span class="estimate"><span>1.0000</span> ' in html
    assert "0.98765432%0D%0A1.0%0D%0A" in html


def test_sort_values_are_exact() -> None:
    page = Page("t")
    numbers: list[Cell] = [1234, 5, 1 / 3, Link(10000, "#a"), float("inf"), -0.5, None, True, "word"]
    page.table(["a"], [[value] for value in numbers], sortable=True)
    assert attributes(page.render(), "data-value") == ["1234", repr(1 / 3), "10000", "Infinity"]
    assert page.render().count('<td class="number"') == 7  # an empty cell stands under the numbers
    page = Page("t")
    page.table(["a"], [[1 / 3]])
    assert "data-value" not in page.render()


def test_contents_list_the_headings_that_have_an_id() -> None:
    page = Page("t")
    page.heading("Before", id="before")
    page.contents()
    page.heading("No id")
    page.heading("Small", 3, id="small")
    page.heading("After & last", id="after")
    html = page.render()
    (nav,) = re.findall(r'<nav class="contents" aria-label="Contents">(.*?)</nav>', html)
    assert re.findall(r'<a href="([^"]*)">([^<]*)</a>', nav) == [
        ("#before", "Before"), ("#after", "After &amp; last"),
    ]  # fmt: skip
    assert html.index("Before</h2>") < html.index("<nav") < html.index("No id")
    assert '<h3 id="small">' in html


@pytest.mark.parametrize("id", ["", "a b", "1", 'x"y', "a?b", "кот", "a\n"])
def test_ids_are_plain_words(id: str) -> None:
    with pytest.raises(ValueError, match="plain word"):
        Page("t").heading("x", id=id)
    with pytest.raises(ValueError, match="plain word"):
        Page("t").table(["a"], [], id=id)


def test_ids_are_given_once() -> None:
    page = Page("t")
    page.heading("x", id="a")
    with pytest.raises(ValueError, match="only one"):
        page.table(["a"], [], id="a")


def saved(page: Page) -> str:
    head, _, body = attributes(page.render(), "href")[0].partition(",")
    assert head == "data:text/csv;charset=utf-8"
    return urllib.parse.unquote(body, errors="strict")


def test_download_holds_the_rows() -> None:
    rows: list[list[Cell]] = [
        ['a,b "quoted"', 1234567, 1 / 3, True, None],
        ["кот 🐈\r\nline \u202e", Badge("kept", "good"), Link(-5, "#x"), Picture(None, "alt"), "% # & <b>"],
    ]
    page = Page("t")
    page.download("save", "rows.csv", ["a", "b", "c", "d", "e"], rows)
    text = saved(page)
    assert list(csv.reader(io.StringIO(text, newline=""))) == [
        ["a", "b", "c", "d", "e"],
        ['a,b "quoted"', "1234567", repr(1 / 3), "yes", ""],
        ["кот 🐈\r\nline \u202e", "kept", "-5", "alt", "% # & <b>"],
    ]
    assert text.endswith("\r\n")
    assert text.startswith("a,b,c,d,e\r\n")
    assert attributes(page.render(), "download") == ["rows.csv"]


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_download_holds_no_formula(start: str) -> None:
    value = f"{start}cmd|'/c calc'!A0"
    page = Page("t")
    page.download("save", "rows.csv", [value], [[value], [Badge(value)], [Link(value, "#x")], [-5], ["a=1"]])
    kept = [row[0] for row in csv.reader(io.StringIO(saved(page), newline=""))]
    assert kept == [*["'" + value] * 4, "-5", "a=1"]


def test_download_of_a_broken_name() -> None:
    page = Page("t")
    page.download("save", "rows.csv", ["a"], [["x\udcff"]])
    assert "x\\udcff" in saved(page)


def test_bars_link_their_numbers() -> None:
    page = Page("t")
    page.bars([("a", 1500), ("b", 2)], unit="images", hrefs=["#rows?label=a", None])
    assert '<a href="#rows" data-filter="label=a">1,500</a> images' in page.render()
    assert attributes(page.render(), "href") == ["#rows"]
    with pytest.raises(ValueError, match="zip"):
        page.bars([("a", 1)], unit="images", hrefs=["#a", "#b"])


def test_histogram_with_a_reference_compares_shares() -> None:
    page = Page("t")
    page.histogram([10, 30, 0], 0, 1500, label="sharpness", reference=[1, 1, 2])
    html = page.render()
    heights = [float(value) for value in re.findall(r"height='([\d.]+)'><title>", html)]
    assert heights == [50.0, 150.0, 0.0]  # 1/4 and 3/4 of the data, of which 3/4 is the tallest
    assert "d='M0,150.0V100.0H200.0V100.0H400.0V50.0H600.0V150.0'" in html
    assert "aria-label='sharpness, from 0 to 1,500; columns: now, outline: accepted'" in html
    assert ">now</span>" in html
    assert ">accepted</span>" in html
    with pytest.raises(ValueError, match="zip"):
        page.histogram([1], 0, 1, label="x", reference=[1, 2])
    page.histogram([0, 0], 0, 1, label="x", reference=[0, 0])
    page.histogram([], 0, 1, label="x", reference=[])


def test_tiles_tell_more_than_a_caption() -> None:
    page = Page("t")
    page.gallery([Tile(b"\xff\xd8", "a.jpg", ["200 x 150", "blurred"], "bad"), (None, "b.jpg")])
    html = page.render()
    assert '<figure class="bad"><img alt="" src="data:image/jpeg;base64,' in html
    assert "<figcaption>a.jpg<small>200 x 150</small><small>blurred</small></figcaption>" in html
    assert '<div class="gallery">' in html
    page.gallery([(None, "a<b"), (None, "c")], row=True)
    assert 'tabindex="0" role="region" aria-label="side by side: a&lt;b, c"' in page.render()


def test_details_hold_what_is_added_inside() -> None:
    page = Page("t")
    with page.details("more"):
        page.paragraph("inside")
    page.paragraph("after")
    assert re.search(r"<details><summary>more</summary>\s*<p>inside</p>\s*</details>\s*<p>after</p>", page.render())


def test_scrolling_boxes_are_named_and_reached_by_key() -> None:
    page = Page("t")
    page.table(["a<b", "c"], [])
    page.table(["a"], [], caption="the caption")
    html = page.render()
    assert html.count('<div class="scroll" tabindex="0" role="region"') == 2
    assert 'aria-label="table of a&lt;b, c"' in html
    assert 'aria-label="the caption"' in html
