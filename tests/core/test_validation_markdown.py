"""The Markdown for a pull request: the same figures as the record, and every value of the data as mere text."""

from __future__ import annotations

import re
from typing import Any

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

from stages.core import evidence, expectations, validation_markdown, verdict
from stages.core.drift import Drift
from stages.core.evidence import Known
from stages.core.facts import Facts
from stages.core.measurement import Measurement
from stages.core.review import Review
from stages.core.validation_markdown import NAMED, inert, render
from stages.validate import ValidateParams

HOSTILE = [
    "a|b||c.png",
    "\\|\\\\|.png",
    "`code` ``|`` ```",
    "line\nbreak\r\n\n# heading\n| a | b |\n|---|---|",
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>&lt;b&gt; &amp; &#60;",
    "<!-- hidden -->",
    "@octocat and @team/all",
    "[click](https://example.org) ![i](http://x.y/z.png)",
    "https://example.org/a www.example.org ftp://a.b mail@example.org",
    "<https://example.org>",
    "[ref]: https://example.org",
    "**bold** __bold__ *it* _it_ ~~gone~~",
    "# heading\u2028## two",
    "- item\n1. item\n> quote",
    "$x$ $$y$$",
    "\u202egpj.exe\u200b\x00\x1b[31m",
    "   ",
    "|",
    "\\",
    "a\\",
    "---",
    "\t\tindented",
    "日本 🐈 Ünï",
]
MARKDOWN = MarkdownIt("commonmark").enable("table").enable("strikethrough")


def tokens(text: str) -> list[Token]:
    """All tokens of a parse, those within lines included."""
    flat: list[Token] = []
    for token in MARKDOWN.parse(text):
        flat += [token, *(token.children or [])]
    return flat


def shown(text: str) -> str:
    """What a reader sees of it."""
    return "".join(
        "\n" if token.type in ("softbreak", "paragraph_close", "inline_close") else token.content
        for token in tokens(text)
        if token.type in ("text", "softbreak", "code_inline", "text_special")
    )


def record(
    broken: dict[str, list[str]], names: list[str] | None = None, drifts: tuple[Drift, ...] = (), changes: Any = None
) -> dict[str, Any]:
    """The record of a validation in which the named rows break the named rules."""
    found = [
        Facts(name, "cats", None, f"{at:064x}", Measurement(9, "PNG", width=9, height=9))
        for at, name in enumerate(names or ["a", "b"])
    ]
    known = Known(
        found, [fact.image_id for fact in found], [None] * len(found), [None] * len(found),
        Review([None] * len(found), []),
    )  # fmt: skip
    situation = expectations.Situation(["cats", "dogs"], len(found), class_set=True, decisions=True, drift=True)
    answers = [
        verdict.Answer(
            rule, rule.id not in broken, 0.25, len(broken.get(rule.id, ())),
            tuple((name, "value") for name in broken.get(rule.id, ())),
        )
        for rule in expectations.rules(ValidateParams(), situation)
    ]  # fmt: skip
    classes = evidence.class_table(known, ["cats", "dogs"])
    return verdict.results(answers, known, classes, None, drifts, changes, [])


def drift(quantity: str, accepted: str, current: str, drifted: bool = True) -> Drift:
    return Drift(quantity, "test", 0.5, "effect", 0.001, 0.001, drifted, accepted, current, "")


def came(added: int, removed: int, exact: bool = True) -> dict[str, Any]:
    return {"pictures": {"added": added, "removed": removed, "kept": 9, "exact": exact, "standard_error": 0.0}}


def table_rows(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("|")]


@pytest.mark.parametrize("value", HOSTILE)
def test_any_value_is_text_in_a_paragraph_a_list_and_a_table(value: str) -> None:
    text = inert(value)
    assert "\n" not in text
    assert "\r" not in text
    for setting in (f"before {text} after", f"- **x**: {text}", f"| a | b |\n|---|---|\n| {text} | {text} |"):
        found = tokens(setting)
        kinds = {token.type for token in found}
        assert not kinds & {
            "html_inline", "html_block", "link_open", "image", "code_inline", "em_open", "s_open", "heading_open",
            "fence", "code_block", "blockquote_open", "hr", "softbreak", "hardbreak", "ordered_list_open",
        }, setting  # fmt: skip
        assert sum(token.type == "strong_open" for token in found) == setting.count("**x**")
        if setting.startswith("|"):
            assert sum(token.type == "td_open" for token in found) == 2
            assert sum(token.type == "tr_open" for token in found) == 2


@pytest.mark.parametrize("value", ["a|b", "\\|", "a_b*c", "<b>&amp;", "1. x", "C:\\a\\b", "日本 🐈", "a - b ~ c"])
def test_a_reader_sees_the_value_itself(value: str) -> None:
    assert shown(f"- seen {inert(value)}").strip() == f"seen {value}"
    assert shown(f"| a |\n|---|\n| {inert(value)} |").removeprefix("a").strip() == value


@pytest.mark.parametrize(
    ("value", "never"),
    [
        ("@octocat", r"@\w"),
        ("mail@example.org", r"@\w"),
        ("https://example.org", r"://"),
        ("www.example.org", r"www\."),
        ("fixes #123", r"#\d"),
        ("owner/repo#123", r"#\d"),
    ],
)
def test_nobody_is_mentioned_and_nothing_becomes_a_link(value: str, never: str) -> None:
    """What GitHub looks for in text that Markdown is done with: an escaped `\\#123` is a `#123` again by then."""
    assert not re.search(never, shown(inert(value)))


def test_hostile_names_break_no_row_of_the_table_and_no_list() -> None:
    broken = {"bad_files": HOSTILE[:4], "leakage": HOSTILE[4:9], "dark": HOSTILE[9:]}
    drifts = (drift(HOSTILE[0], HOSTILE[1], HOSTILE[2]), drift("kept", "a", "b", drifted=False))
    text = render(record(broken, HOSTILE, drifts, came(3, 1)))
    calm = render(record({rule: ["x"] * len(names) for rule, names in broken.items()}, HOSTILE, drifts, came(3, 1)))
    assert len(text.splitlines()) == len(calm.splitlines())
    assert [token.type for token in MARKDOWN.parse(text)] == [token.type for token in MARKDOWN.parse(calm)]
    assert len(table_rows(text)) == 2 + len(broken)
    for row in table_rows(text):
        assert len(re.findall(r"(?<!\\)\|", re.sub(r"\\\\", "", row))) == 5
    for token in tokens(text):
        assert token.type not in ("html_inline", "html_block", "link_open", "image", "code_block", "fence")
    assert "<" not in text
    assert "@octocat" not in text


def test_a_clean_record_is_one_line_of_good_news() -> None:
    text = render(record({}))
    assert text.startswith("## ✅ Accepted")
    assert "2 of 2 images accepted in 2 classes, 0 quarantined." in text
    assert "|" not in text
    assert "Since" not in text
    assert text.endswith(".\n")


@pytest.mark.parametrize(
    ("broken", "mark"),
    [({"bad_files": ["a"]}, "❌ Rejected"), ({"leakage": ["a"]}, "⚠️ Accepted"), ({"dark": ["a"]}, "✅ Accepted")],
)
def test_the_headline_follows_the_verdict_and_every_broken_rule_is_listed(
    broken: dict[str, list[str]], mark: str
) -> None:
    data = record(broken)
    text = render(data)
    assert text.startswith(f"## {mark}")
    (rule,) = verdict.failed_rules(data)
    (row,) = table_rows(text)[2:]
    parts = (rule["severity"], rule["id"], verdict.observation(rule), rule["description"])
    assert row == f"| {' | '.join(map(inert, parts))} |"
    assert all(part in shown(text) for part in parts)


def test_only_the_first_names_are_listed_and_more_are_hinted_at() -> None:
    for count in (NAMED - 1, NAMED, NAMED + 1, 400):
        names = [f"n{at}" for at in range(count)]
        (line,) = [line for line in render(record({"dark": names}, names)).splitlines() if line.startswith("- **dark")]
        assert [f"n{at}" for at in range(min(count, NAMED))] == re.findall(r"n\d+", line)
        assert line.endswith("…") is (count > NAMED)


def test_quarantine_is_counted_by_reason() -> None:
    data = record({}) | {"quarantined": {"too_small": 1200, "denied": 3}, "images": 9000, "accepted": 7797}
    text = render(data)
    assert "7,797 of 9,000 images accepted" in text
    assert "1,203 quarantined (" in text
    assert "too_small 1,200, denied 3" in shown(text)


def test_changes_and_drift_are_told_where_something_was_accepted() -> None:
    drifts = (drift("brightness", "median 0.5", "median 0.9"), drift("contrast", "same", "same", drifted=False))
    text = render(record({}, drifts=drifts, changes=came(1200, 3)))
    assert "Since the accepted data 1,200 pictures came and 3 went." in text
    assert "brightness drifted: median 0.5 → median 0.9" in shown(text)
    assert "contrast" not in text
    assert "about 7 pictures" in render(record({}, changes=came(7, 0, exact=False)))


def test_the_same_record_gives_the_same_text() -> None:
    data = record({"bad_files": HOSTILE}, HOSTILE)
    assert validation_markdown.render(data) == validation_markdown.render(data)
