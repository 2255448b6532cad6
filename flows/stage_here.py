"""Run a stage in this process's checkout, for all to see: its lines in the run's log, its progress in the UI."""

from __future__ import annotations

from prefect.logging import get_run_logger

from flows.artifacts import Progress
from flows.dvc_door import Door, Outcome


def run_here(door: Door, stage: str, force: bool) -> Outcome:
    """`dvc repro -s`, or the restoring it amounts to. Raises StageFailed."""
    log, progress = get_run_logger(), Progress(stage)

    def line(text: str) -> None:
        log.info("%s", text)
        progress.line(text)

    outcome = door.reproduce(stage, force, line)
    progress.done()
    return outcome
