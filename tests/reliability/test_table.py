"""The table of faults is whole: every row, and every test it names."""

from __future__ import annotations

import ast
import functools
import re

import pytest

from tests.reliability import table
from tests.reliability.fault import Fault

LAST = 66


@functools.cache
def defined(file: str) -> set[str]:
    """The test functions of a file below tests/."""
    tree = ast.parse((table.ROOT / "tests" / file).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def test_every_row_is_there_once() -> None:
    assert [one.row for one in table.FAULTS] == list(range(1, LAST + 1))


@pytest.mark.parametrize("one", table.FAULTS, ids=lambda one: f"row {one.row}")
def test_a_row_has_tests_that_exist_or_says_why_not(one: Fault) -> None:
    assert one.inject
    if not one.tests:
        assert one.gap.startswith("not covered: ")
        assert not one.seen
        return
    assert one.seen
    assert not one.gap.startswith("not covered")
    assert len(set(one.tests)) == len(one.tests)
    for test in one.tests:
        file, _, name = test.partition("::")
        assert name in defined(file), test


def test_the_page_is_generated_from_the_lists_and_the_record() -> None:
    text = table.PAGE.read_text(encoding="utf-8")
    assert text == table.page(text), "run python -m tests.reliability.table"
    for one in table.FAULTS:
        assert f"\n| {one.row} | {one.inject} | " in text


def test_what_experiments_recorded_can_be_read() -> None:
    for name, one in table.recorded().items():
        assert set(one) == table.KEYS, name
        assert 0 <= one["survived"] <= one["tried"], name
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", one["date"]), name
        assert "|" not in one["note"], name


def test_no_cell_breaks_its_row() -> None:
    for line in [*table.faults().splitlines()[2:]]:
        assert line.count(" | ") == 3, line
        assert "\n" not in line
