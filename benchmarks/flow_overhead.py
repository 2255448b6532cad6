"""What does the flow cost over `dvc repro` when nothing changed?

    python -m benchmarks.flow_overhead 5

Run in a checkout that `dvc repro` finds up to date. In turn, each time: `dvc repro` as a command; a flow
of seven tasks that do nothing; the flow `pipeline`. The flows run in one process with one temporary
Prefect server, started before the clock: that is Prefect's own start-up. Prints one JSON line.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

STAGES = 7


def seconds(action: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def dvc_repro() -> None:
    """The command, in a process of its own; fails where a stage would run."""
    done = subprocess.run([sys.executable, "-m", "dvc", "repro"], check=True, capture_output=True, text=True)
    assert done.stdout.count("didn't change") == STAGES, done.stdout


def main(rounds: int) -> None:
    """Measure and print: medians in seconds, and what a stage of the no-op flow costs beyond `dvc repro`."""
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "ERROR")
    from prefect import flow, task

    from flows.pipeline import pipeline

    @task
    def nothing() -> None:
        """A task."""

    @flow
    def empty() -> None:
        for _ in range(STAGES):
            nothing()

    def no_op() -> None:
        state = pipeline(return_state=True)
        assert state.name == "Unchanged", state

    empty()
    no_op()
    dvc_repro()
    taken: dict[str, list[float]] = {"dvc repro": [], "empty flow": [], "pipeline": []}
    for _ in range(rounds):
        taken["dvc repro"].append(seconds(dvc_repro))
        taken["empty flow"].append(seconds(empty))
        taken["pipeline"].append(seconds(no_op))
    median = {name: statistics.median(times) for name, times in taken.items()}
    found = {
        "rounds": rounds,
        **{f"{name}, s": round(value, 3) for name, value in median.items()},
        "pipeline over dvc repro, s a stage": round((median["pipeline"] - median["dvc repro"]) / STAGES, 3),
        "pipeline over empty flow, s a stage": round((median["pipeline"] - median["empty flow"]) / STAGES, 3),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
    }
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
