"""docs/reliability.md from the lists of faults and from benchmarks/reliability.json.

    python -m tests.reliability.table           # write the two parts of the page that are generated
    python -m tests.reliability.table --count   # run the tests of rows 1 to 40, count what held
    python -m tests.reliability.table --count REPORT ...   # the same of JUnit reports of a run of all tests
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from benchmarks import reliability
from tests.reliability.input_faults import INPUT_FAULTS
from tests.reliability.run_faults import RUN_FAULTS

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/reliability.md"
RECORD = reliability.RESULTS
FAULTS = sorted([*INPUT_FAULTS, *RUN_FAULTS], key=lambda one: one.row)
BAD_INPUTS = range(1, 41)
KEYS = {"tried", "survived", "seconds", "date", "note"}


def faults() -> str:
    """The table of faults, as Markdown."""
    lines = ["| row | injected | seen | tests |", "|---|---|---|---|"]
    for one in FAULTS:
        seen = ". ".join(part[:1].upper() + part[1:] for part in (one.seen, one.gap) if part)
        lines.append(f"| {one.row} | {one.inject} | {seen} | {'<br>'.join(f'`{test}`' for test in one.tests)} |")
    return "\n".join(lines)


def figures(record: Mapping[str, Mapping[str, Any]]) -> str:
    """The table of experiments, as Markdown."""
    lines = ["| experiment | tried | survived | seconds | date | note |", "|---|---|---|---|---|---|"]
    for name, one in sorted(record.items()):
        cells = [name.replace("_", " "), f"{one['tried']:,}", f"{one['survived']:,}", f"{one['seconds']:,.0f}"]
        lines.append(f"| {' | '.join([*cells, one['date'], one['note']])} |")
    kills = [one for name, one in record.items() if name.startswith("kill ")]
    tried, survived = (sum(one[count] for one in kills) for count in ("tried", "survived"))
    lost = "no byte was lost" if survived == tried else f"{tried - survived:,} did not"
    lines += ["", f"Kills survived / tried: {survived:,} / {tried:,}. Whatever survived ended with the bytes of a run "
              f"without a fault: {lost}."]  # fmt: skip
    return "\n".join(lines)


def recorded() -> dict[str, Any]:
    """What benchmarks/reliability.json holds, by experiment."""
    found: dict[str, Any] = json.loads(RECORD.read_text(encoding="utf-8"))
    return found


def page(text: str) -> str:
    """The page's text with both generated parts put between their markers."""
    for name, part in (("faults", faults()), ("figures", figures(recorded()))):
        before, start, rest = text.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition(f"<!-- /{name} -->")
        text = f"{before}{start}{part}\n{end}{after}"
    return text


def tally(report: Path) -> tuple[int, int]:
    """How many test cases ran, skipped ones left out, and how many of them failed, by pytest's JUnit report."""
    (suite,) = ElementTree.parse(report).getroot()
    ran = int(suite.get("tests", 0)) - int(suite.get("skipped", 0))
    return ran, int(suite.get("failures", 0)) + int(suite.get("errors", 0))


def asked() -> list[str]:
    """The tests of the rows of bad input, as pytest names them."""
    return sorted({f"tests/{test}" for one in FAULTS if one.row in BAD_INPUTS for test in one.tests})


def count() -> None:
    """Run the tests of the rows of bad input that are not slow, a file at a time, and record how many cases held."""
    tried = survived = 0
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        for file in sorted({test.partition("::")[0] for test in asked()}):
            chosen = [test for test in asked() if test.startswith(f"{file}::")]
            command = [sys.executable, "-m", "pytest", "-q", "-m", "not slow", f"--junitxml={report}", *chosen]
            subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL)
            ran, bad = tally(report)
            sys.stderr.write(f"{file}: {ran - bad} of {ran}\n")
            tried, survived = tried + ran, survived + ran - bad
    _record_inputs(tried, survived, time.monotonic() - begun, " but slow ones")


def tally_of(tests: Collection[str], reports: Iterable[Path]) -> tuple[int, int, float]:
    """Of the cases of some tests in pytest's JUnit reports: how many ran, how many of them held, and their seconds.

    Raises ValueError naming a test that no report has: the figure would say too much.
    """
    left, ran, held, seconds = set(tests), 0, 0, 0.0
    for report in reports:
        for case in ElementTree.parse(report).iter("testcase"):
            name = f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name', '').partition('[')[0]}"
            if name in tests:
                left.discard(name)
                ran += case.find("skipped") is None
                held += not any(case.find(bad) is not None for bad in ("skipped", "failure", "error"))
                seconds += float(case.get("time", 0))
    if left:
        raise ValueError(f"no report has {', '.join(sorted(left))}")
    return ran, held, seconds


def _record_inputs(tried: int, survived: int, seconds: float, which: str) -> None:
    note = f"cases of the tests of rows 1 to 40{which}; each refuses or takes its bad input as the row says"
    reliability.record({"bad_inputs": reliability.entry(tried, survived, seconds, note)})


if __name__ == "__main__":
    if sys.argv[1:] == ["--count"]:
        count()
    elif sys.argv[1:2] == ["--count"]:
        _record_inputs(*tally_of(asked(), map(Path, sys.argv[2:])), "")
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
