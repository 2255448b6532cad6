"""The champion's turn after export: `graft promote` as a child, its decision as an artifact of the run.

The stages' work is good whatever is decided, so nothing here fails a run.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections import deque
from collections.abc import Callable
from typing import Any, Literal

from prefect.artifacts import create_markdown_artifact

from flows import child
from flows.markdown import inert
from flows.redact import redact
from flows.registry import RECORDS
from flows.run import Run

Mode = Literal["off", "decide", "promote"]
LAST_LINES = 5
DECIDED = (0, 2, 3)  # exit codes that may come with a record


def after_export(run: Run, mode: Mode, on_line: Callable[[str], None]) -> None:
    """Decide, and with "promote" tag, too, where the model is committed; artifact `promotion` shows it.

    A run beside the checkout has its commit by now. "decide" has nothing to say of a run that changed nothing;
    "promote" has, for the commit may have come since.
    """
    if mode == "off" or "export" not in run.wanted or run.failed():
        return
    if mode == "decide" and run.outcome().name == "Unchanged":
        return
    options = [] if mode == "promote" else ["--dry-run"]
    lines: list[str] = []
    command = [sys.executable, "-m", "commands", "promote", "--json", "--held", *options]
    try:
        code = child.run(command, run.door.root, lines.append)
        record = _record(lines) if code in DECIDED else None
        if record is None:
            last = deque((redact(line) for line in lines), LAST_LINES)
            on_line(f"graft promote could not decide (exit {code}):\n" + "\n".join(last))
            return
        if run.root != run.door.root and (run.door.root / RECORDS).is_dir():
            # A tree beside the checkout will be removed; what was decided is kept where people look.
            shutil.copytree(run.door.root / RECORDS, run.root / RECORDS, dirs_exist_ok=True)
        said = f"{record['verdict']}: {record['because']}"
        on_line(f"promotion{' (only decided)' if options else ''}: {said}")
        create_markdown_artifact(as_markdown(record), key="promotion", description=record["verdict"])
    except Exception as error:
        on_line(f"promotion could not be shown: {error}")


def _record(lines: list[str]) -> dict[str, Any] | None:
    """The JSON object among the lines, after which an error may stand."""
    text = "\n".join(lines)
    start = text.find("{\n")
    if start < 0:
        return None
    try:
        found = json.JSONDecoder().raw_decode(text[start:])[0]
    except ValueError:
        return None
    return found if isinstance(found, dict) and "verdict" in found else None


def as_markdown(record: dict[str, Any]) -> str:
    """The decision as people read it on a run's page."""
    champion = record["champion"]
    against = f" against {inert(champion['version'] or champion['tag'])}" if champion else ""
    rows = [
        f"| {inert(rule['name'])} | {'passed' if rule['passed'] else 'failed'} | {inert(rule['said'])} |"
        for rule in record["rules"]
    ]
    warnings = [f"Warning: {inert(warning)}" for warning in record["warnings"]]
    table = "\n".join(["| rule | | |", "| --- | --- | --- |", *rows])
    return "\n\n".join([f"# {inert(record['verdict'])}{against}", inert(record["because"]), table, *warnings]) + "\n"
