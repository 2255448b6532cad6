"""One run of the pipeline: what was asked for, the checkout it works on, and how each stage ended."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from flows.dvc_door import Door

STAGES = ("download", "validate", "split", "feature_extract", "fine_tune", "evaluate", "export")
NOTHING_DONE = {"Unchanged", "Skipped"}  # names of states in which a task leaves every file as it was
EXIT = re.compile(r"\(exit (\d+)\)")


@dataclass(frozen=True)
class GpuPool:
    """Where a stage marked `resource: gpu` runs.

    `remote` None means that the pool's workers see this very checkout; otherwise they have clones of
    their own, and data travels through the DVC remote of that name.
    """

    name: str
    remote: str | None = None


class Run:
    """Shared by the tasks of one run. No dataclass: Prefect would hand each task a copy of one."""

    def __init__(
        self, root: Path, door: Door, wanted: set[str], force: bool, gpu: GpuPool | None, added: str | None = None
    ) -> None:
        """`root` is the checkout that is held; `door` may lead to a tree beside it.

        `added` is what `graft add` said where it took images in before the run (flows/listing.py).
        """
        self.root, self.added = root, added
        self.door, self.wanted, self.force, self.gpu = door, wanted, force, gpu
        self.ended: dict[str, State[Any]] = {}
        self._at_start: dict[str, list[str]] | None = None

    def stale(self, stage: str) -> list[str]:
        """`Door.stale`; while no stage has run yet all are asked about in one question."""
        if not {str(state.name) for state in self.ended.values()} <= NOTHING_DONE:
            return self.door.stale(stage)
        if self._at_start is None:
            self._at_start = self.door.stale_stages()
        return self._at_start.get(stage, [])

    def failed(self) -> str | None:
        """The stage that ended badly, if any."""
        return next((stage for stage, state in self.ended.items() if state.is_failed() or state.is_crashed()), None)

    def outcome(self) -> State[Any]:
        """How the run as a whole ended: Unchanged, Completed, or the failed stage's state."""
        broken = self.failed()
        if broken:
            state = self.ended[broken]
            return Failed(name=state.name, message=state.message)
        names = [str(self.ended[stage].name) for stage in STAGES if stage in self.ended]
        if set(names) <= NOTHING_DONE:
            return Completed(name="Unchanged", message="no stage had to run")
        return Completed(message=summary(names))


def summary(names: Sequence[str]) -> str:
    """Counts of state names in the order they first came: `4 Unchanged, 3 Completed`."""
    return ", ".join(f"{names.count(name)} {name}" for name in dict.fromkeys(names))


def exit_code(state: State[Any]) -> int:
    """0, or the exit code that a failed state's message names (1 where it names none: a defect)."""
    if state.is_completed():
        return 0
    found = EXIT.search(state.message or "")
    return int(found[1]) if found else 1
