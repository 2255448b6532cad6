"""What a run shows in Prefect's UI: the plan, the data's verdict, metrics against the last commit, curves, progress."""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect.artifacts import (
    create_image_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.logging import get_run_logger

from flows import curves, plan
from flows.dvc_door import PROGRESS, Door
from flows.markdown import inert

TOP_FINDINGS = 10
# A stage may report faster than anybody looks; each move is a call to the server.
BETWEEN_MOVES = 1.0


def show_plan(door: Door, targets: Sequence[str], force: bool) -> None:
    """Artifact `plan`: which of the asked-for stages would run now, and why."""

    def show() -> None:
        planned = plan.as_markdown(plan.plan(door.root, targets))
        forced = "Forced: each of these stages runs, changed or not.\n\n" if force else ""
        create_markdown_artifact(forced + planned, key="plan")

    _safely("plan", show)


def show_after(stage: str, door: Door) -> None:
    """The artifacts that belong to a stage, from what it left in reports/; nothing for most stages."""
    shown = {"validate": _verdict, "fine_tune": _curves, "evaluate": _metrics}.get(stage)
    if shown:
        _safely(stage, lambda: shown(door))


class Progress:
    """Artifact `<stage>-progress`, moved by the stage's own progress lines; made by the first of them."""

    def __init__(self, stage: str) -> None:
        self._stage = stage
        self._artifact: UUID | None = None
        self._moved = 0.0

    def line(self, text: str) -> None:
        """Look at one line of the stage's output."""
        found = PROGRESS.match(text)
        if found and found[1] == self._stage and time.monotonic() - self._moved >= BETWEEN_MOVES:
            self._moved = time.monotonic()
            _safely(self._stage, lambda: self._move(float(min(int(found[2]), 100)), found[3]))

    def done(self) -> None:
        """The stage has ended well: full, whatever it said last."""
        if self._artifact:
            _safely(self._stage, lambda: self._move(100.0, "done"))

    def _move(self, percent: float, label: str) -> None:
        if self._artifact is None:
            key = f"{self._stage.replace('_', '-')}-progress"
            made = create_progress_artifact(percent, key=key, description=inert(label))
            assert isinstance(made, UUID)
            self._artifact = made
        else:
            update_progress_artifact(self._artifact, percent, description=inert(label))


def _verdict(door: Door) -> None:
    """Artifact `validation`: the verdict in a sentence, where the report is, the findings that matter most."""
    report = door.root / "reports" / "validate"
    results = _read(report / "results.json")
    if results is None:
        return
    broken = [rule for rule in results["rules"] if not rule["success"]]
    order = {"critical": 0, "warning": 1, "info": 2}
    broken.sort(key=lambda rule: (order.get(rule["severity"], 3), -(rule["failing"] or 0)))
    aside = sum(results["quarantined"].values())
    lines = [
        f"# Data {inert(results['verdict'])}",
        f"{results['accepted']:,} of {results['images']:,} images may be trained on, {aside:,} are quarantined, "
        f"{len(broken)} of {len(results['rules'])} rules are broken.",
        _report_link(door.root),
    ]
    if broken:
        rows = [
            f"| {inert(rule['severity'])} | {inert(rule['description'])} | {rule['failing'] or 0:,} "
            f"| {inert(', '.join(map(str, rule['failing_names'][:3])))} | {inert(rule['advice'])} |"
            for rule in broken[:TOP_FINDINGS]
        ]
        lines.append(
            "\n".join(["| severity | rule | failing | such as | what to do |", "|---|---|---|---|---|", *rows])
        )
    create_markdown_artifact("\n\n".join(lines), key="validation", description=f"Data {results['verdict']}")


def _report_link(root: Path) -> str:
    """Where the report is. A page of the UI cannot open files, so it is a link only where reports are served."""
    served = os.environ.get("GRAFT_REPORTS_URL")
    if served and root == Path.cwd():
        return f"[Open the report]({served.rstrip('/')}/validate/index.html)"
    return f"Report: `graft report validate` in {inert(str(root))}"


def _metrics(door: Door) -> None:
    """Artifact `metrics`: each metric now, at the last commit, and the change."""
    changes = door.metrics_change()
    rows = [
        {"metric": key, "now": _number(value.get("new")), "last commit": _number(value.get("old")),
         "change": _number(value.get("diff")) or ""}
        for metrics in changes.values()
        for key, value in metrics.items()
    ]  # fmt: skip
    if rows:
        # What the model does on images it never saw comes first, the baselines last.
        first = ("test.", "val.", "baselines.")
        rows.sort(key=lambda row: ([not row["metric"].startswith(name) for name in first], row["metric"]))
        create_table_artifact(rows, key="metrics", description="Metrics now and at the last commit")


def _curves(door: Door) -> None:
    """Artifact `learning-curves`: accuracy and loss per epoch, as a picture."""
    picture = curves.draw(door.root / "reports" / "fine_tune")
    if picture:
        # In the address itself: the UI's server has no folder that the picture could be fetched from.
        address = "data:image/svg+xml;base64," + base64.b64encode(picture.encode()).decode()
        create_image_artifact(address, key="learning-curves", description="Accuracy and loss per epoch")


def _safely(what: str, show: Callable[[], object]) -> None:
    """Show something; where that fails, say so in the log and go on, because the stage's work is good without it."""
    try:
        show()
    except Exception as error:
        get_run_logger().warning("%s: its artifact could not be made: %s", what, error, exc_info=True)


def _read(path: Path) -> Any:
    return json.loads(path.read_text()) if path.exists() else None


def _number(value: Any) -> Any:
    return round(value, 4) if isinstance(value, float) else value
