"""The table of faults is whole: every row, and every test it names."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
from pathlib import Path

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


def test_kills_are_summed_and_those_that_lost_bytes_are_told() -> None:
    one = {"seconds": 1, "date": "2026-01-01", "note": "x"}
    record = {f"kill {name}": {**one, "tried": 1000, "survived": 1000 - lost} for name, lost in (("a", 0), ("b", 2))}
    record["disk a"] = {**one, "tried": 5, "survived": 4}
    assert "Kills survived / tried: 1,998 / 2,000. " in table.figures(record)
    assert table.figures(record).endswith("without a fault: 2 did not.")
    assert table.figures({"kill a": record["kill a"]}).endswith("without a fault: no byte was lost.")


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


def test_cases_are_counted_in_reports_of_a_whole_run(tmp_path: Path) -> None:
    (tmp_path / "test_toy.py").write_text(
        "import pytest\n"
        "@pytest.mark.parametrize('n', [1, 2, 3])\n"
        "def test_bad(n): assert n < 3\n"
        "@pytest.mark.parametrize('n', ['a[b', 'c'])\n"
        "def test_held(n): n == 'c' and pytest.skip('no such machine')\n"
        "def test_other(): assert False\n"
    )
    report = tmp_path / "report.xml"
    command = [sys.executable, "-m", "pytest", "-q", f"--junitxml={report}", "-p", "no:cacheprovider", "test_toy.py"]
    subprocess.run(command, cwd=tmp_path, stdout=subprocess.DEVNULL)
    ran, held, seconds = table.tally_of({"test_toy.py::test_bad", "test_toy.py::test_held"}, [report])
    assert (ran, held) == (4, 3)
    assert seconds >= 0
    with pytest.raises(ValueError, match=r"no report has test_toy\.py::test_gone$"):
        table.tally_of({"test_toy.py::test_bad", "test_toy.py::test_gone"}, [report])
    assert all(test.startswith("tests/") for test in table.asked())
