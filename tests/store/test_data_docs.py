"""Great Expectations as we use it: right answers, and pages that are offline, equal and without holes."""

from __future__ import annotations

import html
import importlib
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from stages.core.errors import IntegrityError
from stages.core.expectations import Rule
from stages.store import data_docs

NASTY = ['<script>alert("x")</script>', "a&b'c", "new\nline \u202e $name {{ name }}", "🐈.jpg", "plain.jpg"]
COLUMN = "expect_column_values_to_"


def rule(id: str, asks: str, column: str, mostly: float = 1.0, table: Any = "images", **more: Any) -> Rule:
    arguments = {"column": column, "mostly": mostly, **more}
    return Rule(id, table, "critical", COLUMN + asks, arguments, f"Rule '{id}' <b>.", "advice", 1 - mostly)


RULES = [
    rule("null", "be_null", "copy_of", 0.5),
    rule("known", "be_in_set", "label", value_set=["<b>", "dog & cat"]),
    rule("low", "be_between", "size", 0.25, min_value=3),
    rule("unique", "be_unique", "name"),
    rule("enough", "be_between", "accepted", table="classes", min_value=2),
    Rule("two", "classes", "warning", "expect_table_row_count_to_be_between", {"min_value": 2}, "Two.", "x"),
    Rule("count", "images", "info", "expect_table_row_count_to_equal", {"value": 6}, "Six.", "x"),
]
TABLES = {
    "images": pa.table(
        {
            "name": NASTY,
            "label": ["<b>", "dog & cat", "<b>", "<i>other", "<b>"],
            "copy_of": [None, NASTY[0], None, NASTY[2], NASTY[0]],
            "size": [1, 2, 3, 4, None],
        }
    ),
    "classes": pa.table({"label": ["<b>", "dog & cat"], "accepted": [3, 1]}),
}


def inquire(folder: Path, rules: list[Rule] = RULES) -> data_docs.Inquiry:
    folder.mkdir()
    return data_docs.inquire(TABLES, rules, folder)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, data_docs.Inquiry]:
    folder = tmp_path_factory.mktemp("docs") / "data_docs"
    return folder, inquire(folder)


def test_answers(built: tuple[Path, data_docs.Inquiry]) -> None:
    answers = {answer.rule.id: answer for answer in built[1].answers}
    assert list(answers) == [rule.id for rule in RULES]
    assert {id: answer.success for id, answer in answers.items()} == {
        "null": False, "known": False, "low": True, "unique": True,
        "enough": False, "two": True, "count": False,
    }  # fmt: skip
    assert {id: answer.failing for id, answer in answers.items()} == {
        "null": 3, "known": 1, "low": 2, "unique": 0, "enough": 1, "two": 0, "count": 0,
    }  # fmt: skip
    assert answers["null"].observed == pytest.approx(0.6)
    assert answers["low"].observed == pytest.approx(0.5)  # of the four that have a size
    assert answers["count"].observed == 5
    assert answers["null"].failing_names == (NASTY[1], NASTY[3], NASTY[4])  # as they were, not escaped
    assert answers["enough"].failing_names == ("dog & cat",)


def test_values_are_shown_escaped_once_and_no_tag_survives(built: tuple[Path, data_docs.Inquiry]) -> None:
    pages = {path.name: path.read_text() for path in built[0].iterdir()}
    allowed = {
        "!doctype", "html", "head", "meta", "title", "style", "body", "main", "h1", "h2", "h3", "h4", "p",
        "a", "div", "span", "table", "thead", "tbody", "tr", "th", "td", "br", "hr", "strong", "ul",
        "li",
    }  # fmt: skip
    for name, text in pages.items():
        tags = {tag.lower() for tag in re.findall(r"<\s*/?\s*([!\w]+)", text)}
        assert tags <= allowed, name
        assert "&amp;lt;" not in text
        assert "&amp;amp;" not in text
    shown = html.unescape(pages["images.html"])
    assert NASTY[0] in shown
    assert NASTY[1] in shown
    assert "new⟨U+000A⟩line ⟨U+202E⟩ $name {{ name }}" in shown
    assert "<i>other" in shown


def test_pages_need_no_network(built: tuple[Path, data_docs.Inquiry]) -> None:
    names = {path.name for path in built[0].iterdir()}
    assert names == {"index.html", "images.html", "images_rules.html", "classes.html", "classes_rules.html"}
    for path in built[0].iterdir():
        text = path.read_text()
        assert not re.search(r"https?:|\bsrc=|@import|url\(|<link|<script|\son\w+=", text)
        for target in re.findall(r'href="([^"]*)"', text):
            assert target in names | {"../index.html"}


def test_every_rule_is_on_its_pages(built: tuple[Path, data_docs.Inquiry]) -> None:
    for asked in RULES:
        for name in (f"{asked.table}.html", f"{asked.table}_rules.html", "index.html"):
            text = html.unescape((built[0] / name).read_text())
            assert asked.description in text
            assert asked.severity in text
    assert "75% " not in (built[0] / "index.html").read_text()
    assert "broken" in (built[0] / "classes.html").read_text()


def test_two_builds_are_equal_and_other_data_differs(built: tuple[Path, data_docs.Inquiry], tmp_path: Path) -> None:
    again = inquire(tmp_path / "again")
    assert again == built[1]
    for path in built[0].iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()
    suite = again.suites["images"]["expectations"]
    assert [part["severity"] for part in suite] == ["critical"] * 4 + ["info"]
    assert not re.search(r"[0-9a-f]{8}-[0-9a-f]{4}-", str(again.suites))


def test_a_rule_that_cannot_be_evaluated_stops_the_stage(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="could not evaluate rule 'wrong'"):
        inquire(tmp_path / "docs", [rule("wrong", "be_null", "no_such_column"), *RULES])


def test_a_renderer_that_raises_stops_the_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data_docs._great_expectations()
    registry = importlib.import_module("great_expectations.expectations.registry")

    def raises(*_: Any, **__: Any) -> None:
        raise ValueError("ink ran out")

    renderers = registry._registered_renderers["expect_column_values_to_be_null"]
    kind = "renderer.diagnostic.observed_value"
    monkeypatch.setitem(renderers, kind, (renderers[kind][0], raises))
    with pytest.raises(IntegrityError, match=r"could not draw its pages whole: .*ink ran out"):
        inquire(tmp_path / "docs")


def test_a_page_with_a_rule_missing_stops_the_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_docs, "content", lambda page: "<p>nothing</p>")
    with pytest.raises(IntegrityError, match=r"left out of its page images\.html"):
        inquire(tmp_path / "docs")


def test_tables_without_rows(tmp_path: Path) -> None:
    empty = {name: table.slice(0, 0) for name, table in TABLES.items()}
    answers = data_docs.inquire(empty, RULES, tmp_path).answers
    assert {answer.rule.id for answer in answers if not answer.success} == {"two", "count"}
