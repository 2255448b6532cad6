"""Decisions about single images: which lines are legal, and which images they mean."""

from __future__ import annotations

import random

import pytest

from stages.core import review
from stages.core.errors import ConfigError
from stages.core.facts import Facts
from stages.core.measurement import Measurement
from stages.core.review import Decision

PATH = "data/review/decisions.csv"
HEADER = "decision,name,image_id,why\n"
ID, OTHER = "a" * 64, "b" * 64


def parse(text: str) -> list[Decision]:
    return review.parse(text, PATH)


def refusal(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    return str(caught.value)


def fact(name: str, image_id: str = ID, label: str = "cats") -> Facts:
    return Facts(name, label, None, image_id, Measurement(9, "PNG", width=9, height=9))


def applied(text: str, *facts: Facts) -> review.Review:
    return review.apply(parse(HEADER + text), facts, PATH)


def words(found: review.Review) -> list[str | None]:
    return [decision and decision.decision for decision in found.decisions]


def test_a_file_of_every_kind_of_line() -> None:
    text = f'{HEADER}deny,cats/17.jpg,,"shows a drawing, not a cat"\nallow,,{ID},fine\nallow,a,{OTHER},x\n'
    assert parse(text) == [
        Decision(2, "deny", "cats/17.jpg", None, "shows a drawing, not a cat"),
        Decision(3, "allow", None, ID, "fine"),
        Decision(4, "allow", "a", OTHER, "x"),
    ]
    assert [str(decision) for decision in parse(text)][:2] == ["line 2: deny cats/17.jpg", f"line 3: allow {ID}"]


@pytest.mark.parametrize(
    "text",
    [
        HEADER,
        HEADER.strip(),
        "\ufeff" + HEADER,
        HEADER + "\n\n,,,\n\n",
    ],
)
def test_a_file_without_decisions(text: str) -> None:
    assert parse(text) == []


def test_what_spreadsheets_write_is_read() -> None:
    """A byte order mark, CRLF, quotes around everything, empty lines, a newline within a field."""
    text = '\ufeffdecision,name,image_id,why\r\n"deny","a","","line one\r\nline ""two"""\r\n\r\n,,,\r\nallow,b,,y\r\n'
    first, second = parse(text)
    assert (first.decision, first.name, first.image_id) == ("deny", "a", None)
    assert first.why.split() == ["line", "one", "line", '"two"']
    assert (second.decision, second.name, second.line) == ("allow", "b", 6)


def test_names_may_hold_anything() -> None:
    names = ["a,b.png", 'a"b.png', "a\nb.png", " a.png ", "=cmd()", "日本/猫.png"]
    quoted = [name.replace('"', '""') for name in names]
    text = HEADER + "".join(f'deny,"{name}",,x\n' for name in quoted)
    assert [decision.name for decision in parse(text)] == names


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("maybe,a,,x", "'maybe'; must be 'allow' or 'deny'"),
        ("Deny,a,,x", "'Deny'; must be"),
        (" deny,a,,x", "' deny'; must be"),
        (",a,,x", "''; must be"),
        ("deny,,,x", "neither name nor image_id"),
        ("deny,a", "2 fields; must be 4"),
        ("deny,a,,x,y", "5 fields; must be 4"),
        ("deny,a,,x, y", "5 fields; must be 4"),
        ("deny,a,abc,x", "'abc'; must be 64 hex digits"),
        (f"deny,a,{ID.upper()},x", "must be 64 hex digits"),
        (f"deny,a,{ID}0,x", "must be 64 hex digits"),
        (f"deny,a,{ID[1:]}g,x", "must be 64 hex digits"),
        ("deny,a,,", "why is empty"),
        ('deny,a,," \t"', "why is empty"),
        ('deny,a,,"open', "end of data"),
        ('deny,"a"b,,x', "expected after"),
    ],
)
def test_a_wrong_line_is_named(line: str, said: str) -> None:
    message = refusal(f"{HEADER}deny,first,,fine\n{line}\n")
    assert message.startswith(f"{PATH}: ")
    assert "line 3" in message
    assert said in message
    assert "line 2" not in message


def test_an_id_with_a_newline_is_none() -> None:
    assert "must be 64 hex digits" in refusal(f'{HEADER}deny,a,"{ID}\n",x\n')


def test_every_wrong_line_is_named_at_once() -> None:
    message = refusal(f"{HEADER}no,a,,x\ndeny,b,,fine\ndeny,c\ndeny,d,,\n")
    assert [line.split(":")[0].strip() for line in message.splitlines()] == [PATH, "line 2", "line 4", "line 5"]


@pytest.mark.parametrize(
    "header",
    ["", "\n", "decision,name,why\n", "name,decision,image_id,why\n", "Decision,name,image_id,why\n",
     "decision;name;image_id;why\n", "deny,a,,x\n", "decision,name,image_id,why,\n"],
)  # fmt: skip
def test_another_header_is_refused_with_the_right_one(header: str) -> None:
    message = refusal(header + "deny,a,,x\n")
    assert message.startswith(f"{PATH}: line 1: ")
    assert "must be 'decision,name,image_id,why'" in message


def test_a_header_that_never_ends_is_refused() -> None:
    assert "line 1: unexpected end of data" in refusal('"decision')


def test_no_text_raises_anything_else() -> None:
    rng = random.Random(0)
    pieces = ["deny", "allow", ",", ",,", '"', "\n", "\r\n", "\r", "\0", ID, "a.png", " ", "\ufeff", "é", ";", "\\"]
    refused = []
    for _ in range(500):
        text = HEADER + "".join(rng.choices(pieces, k=rng.randrange(12)))
        try:
            parse(text)
        except ConfigError as error:
            refused.append(str(error))
    assert len(refused) > 300
    assert all(message.startswith(f"{PATH}: ") for message in refused)


def test_by_name_by_id_and_by_both() -> None:
    facts = fact("a", ID), fact("b", ID), fact("a2", OTHER)
    assert words(applied("deny,a,,x\n", *facts)) == ["deny", None, None]
    assert words(applied(f"deny,,{ID},x\n", *facts)) == ["deny", "deny", None]
    assert words(applied(f"deny,b,{ID},x\n", *facts)) == [None, "deny", None]
    assert words(applied("", *facts)) == [None, None, None]
    assert words(applied("deny,A,,x\n", *facts)) == [None, None, None]


def test_by_both_it_stops_applying_when_the_bytes_change_or_the_file_moves() -> None:
    line = f"allow,a,{ID},x\n"
    assert words(applied(line, fact("a", ID))) == ["allow"]
    for other in (fact("a", OTHER), fact("b", ID)):
        found = applied(line, other)
        assert words(found) == [None]
        assert [decision.line for decision in found.unused] == [2]


def test_lines_that_mean_no_image_are_listed_in_order() -> None:
    found = applied(f"deny,gone,,x\ndeny,a,,x\nallow,,{OTHER},x\nallow,a,{OTHER},x\n", fact("a"))
    assert [decision.line for decision in found.unused] == [2, 4, 5]
    assert applied("", fact("a")).unused == []
    assert [decision.line for decision in applied("deny,a,,x\n").unused] == [2]


def test_two_lines_that_agree_are_both_used() -> None:
    found = applied(f"deny,a,,x\ndeny,,{ID},y\n", fact("a"))
    assert words(found) == ["deny"]
    assert found.unused == []


@pytest.mark.parametrize(
    "lines", ["deny,a,,x\nallow,a,,y\n", f"deny,a,,x\nallow,,{ID},y\n", f"allow,a,{ID},x\ndeny,,{ID},y\n"]
)
def test_lines_that_contradict_each_other_are_refused_with_both_lines(lines: str) -> None:
    with pytest.raises(ConfigError) as caught:
        applied(lines, fact("z", OTHER), fact("a"))
    message = str(caught.value)
    assert message.startswith(f"{PATH}: ")
    assert "line 2" in message
    assert "line 3" in message
    assert "'a'" in message


def test_lines_about_different_bytes_of_one_name_do_not_contradict_each_other() -> None:
    found = applied(f"deny,a,{ID},old\nallow,a,{OTHER},new\n", fact("a", OTHER))
    assert words(found) == ["allow"]
    assert [decision.line for decision in found.unused] == [2]
