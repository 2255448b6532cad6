"""What a run shows in Prefect's UI: the plan, the data's verdict, metrics against the last commit, curves, progress."""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Callable
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
from flows.dvc_door import Door

TOP_FINDINGS = 10
# How stages report progress where no terminal is: `fine_tune: 30 % head epoch 9 of 20`.
PROGRESS = re.compile(r"^(\w+): (\d{1,3}) % (.+)$")


def show_plan(door: Door) -> None:
    """Artifact `plan`: which stages would run now, and why."""
    _safely("plan", lambda: create_markdown_artifact(plan.as_markdown(plan.plan(door.root)), key="plan"))


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

    def line(self, text: str) -> None:
        """Look at one line of the stage's output."""
        found = PROGRESS.match(text)
        if found and found[1] == self._stage:
            _safely(self._stage, lambda: self._move(float(min(int(found[2]), 100)), found[3]))

    def done(self) -> None:
        """The stage has ended well: full, whatever it said last."""
        if self._artifact:
            _safely(self._stage, lambda: self._move(100.0, "done"))

    def _move(self, percent: float, label: str) -> None:
        if self._artifact is None:
            key = f"{self._stage.replace('_', '-')}-progress"
            made = create_progress_artifact(percent, key=key, description=_text(label))
            assert isinstance(made, UUID)
            self._artifact = made
        else:
            update_progress_artifact(self._artifact, percent, description=_text(label))


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
        f"# Data {_text(results['verdict'])}",
        f"{results['accepted']:,} of {results['images']:,} images may be trained on, {aside:,} are quarantined, "
        f"{len(broken)} of {len(results['rules'])} rules are broken.",
        f"Report: [{_text(str(report / 'index.html'))}]({(report / 'index.html').as_uri()})",
    ]
    if broken:
        rows = [
            f"| {_text(rule['severity'])} | {_text(rule['description'])} | {rule['failing'] or 0:,} "
            f"| {_text(', '.join(map(str, rule['failing_names'][:3])))} | {_text(rule['advice'])} |"
            for rule in broken[:TOP_FINDINGS]
        ]
        lines.append(
            "\n".join(["| severity | rule | failing | such as | what to do |", "|---|---|---|---|---|", *rows])
        )
    create_markdown_artifact("\n\n".join(lines), key="validation", description=f"Data {results['verdict']}")


def _metrics(door: Door) -> None:
    """Artifact `metrics`: each metric now, at the last commit, and the change."""
    changes = door.metrics_change()
    rows = [
        {"metric": key, "now": _number(value.get("new")), "last commit": _number(value.get("old")),
         "change": _number(value.get("diff"))}
        for metrics in changes.values()
        for key, value in metrics.items()
    ]  # fmt: skip
    if rows:
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


def _text(value: str) -> str:
    """Text from data as Markdown that shows it and does nothing else: no tag, link, cell end or emphasis."""
    flat = html.escape(re.sub(r"\s+", " ", str(value)))
    return re.sub(r"[|\\\[\]`*_]", lambda match: f"&#{ord(match[0])};", flat)
