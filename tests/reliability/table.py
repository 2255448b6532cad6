"""docs/reliability.md from the lists of faults and from benchmarks/reliability.json.

    python -m tests.reliability.table           # write the two parts of the page that are generated
    python -m tests.reliability.table --count   # run the tests of rows 1 to 40 and record how many cases held
"""

from __future__ import annotations

import datetime
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from tests.reliability.input_faults import INPUT_FAULTS
from tests.reliability.run_faults import RUN_FAULTS

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/reliability.md"
RECORD = ROOT / "benchmarks/reliability.json"
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
    return "\n".join(lines)


def recorded() -> dict[str, Any]:
    """What benchmarks/reliability.json holds, by experiment."""
    found: dict[str, Any] = json.loads(RECORD.read_text(encoding="utf-8"))
    return found


def record(name: str, tried: int, survived: int, seconds: float, note: str) -> None:
    """Put an experiment's outcome in place of its last one."""
    found = recorded() if RECORD.exists() else {}
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    found[name] = {"tried": tried, "survived": survived, "seconds": round(seconds), "date": today, "note": note}
    RECORD.write_text(json.dumps(found, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def page(text: str) -> str:
    """The page's text with both generated parts put between their markers."""
    for name, part in (("faults", faults()), ("figures", figures(recorded()))):
        before, start, rest = text.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition(f"<!-- /{name} -->")
        text = f"{before}{start}{part}\n{end}{after}"
    return text


def count() -> None:
    """Run every test of the rows of bad input once, and record how many cases held."""
    asked = sorted({f"tests/{test}" for one in FAULTS if one.row in BAD_INPUTS for test in one.tests})
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        subprocess.run([sys.executable, "-m", "pytest", "-q", f"--junitxml={report}", *asked], cwd=ROOT)
        (suite,) = ElementTree.parse(report).getroot()
    bad, skipped = int(suite.get("failures", 0)) + int(suite.get("errors", 0)), int(suite.get("skipped", 0))
    tried = int(suite.get("tests", 0)) - skipped
    note = "cases of the tests of rows 1 to 40, each with at least one bad input, refused or taken as the row says"
    record("bad_inputs", tried, tried - bad, time.monotonic() - begun, note)


if __name__ == "__main__":
    if sys.argv[1:] == ["--count"]:
        count()
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
