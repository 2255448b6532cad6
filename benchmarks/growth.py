"""What does feature_extract cost when one image in a hundred is new, and when it was killed near its end?

    python -m benchmarks.growth [--quick]

Whole processes, start-up included, in turn, three rounds, each from an empty memo:

    cold      `python -m stages.feature_extract` on N photographs
    grown     the same again with 1 % more photographs, all over the shards
    rebuilt   those from an empty memo: must give the same bytes
    killed    from an empty memo, SIGKILL when 90 % of the batches are done
    resumed   again after that: must give the same bytes

Figures: grown / cold, and resumed / cold. N is 3,000; --images asks for another number.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks import photographs
from stages.store import hashes

IMAGES, QUICK_IMAGES = 3000, 100
ROUNDS, QUICK_ROUNDS = 3, 1
STAGE = [sys.executable, "-m", "stages.feature_extract"]


def measure(quick: bool, images: int | None = None, rounds: int | None = None) -> list[dict[str, Any]] | dict[str, Any]:
    """Both figures, or why they were skipped."""
    why = photographs.missing()
    if why:
        return {"skipped": why}
    count = images or (QUICK_IMAGES if quick else IMAGES)
    more = max(1, count // 100)
    every = photographs.read(count + more)
    # The hashes of their names decide which come later.
    late = {name for name, _ in sorted(every, key=lambda one: hash_of(one[0]))[:more]}
    early = [one for one in every if one[0] not in late]
    taken: dict[str, list[float]] = {name: [] for name in ("cold", "grown", "resumed")}
    same = True
    for _ in range(rounds or (QUICK_ROUNDS if quick else ROUNDS)):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            photographs.store(folder, early)
            taken["cold"].append(run(folder))
            first = outputs(folder)
            photographs.store(folder, every)
            taken["grown"].append(run(folder))
            grown = outputs(folder)
            shutil.rmtree(folder / ".graft")
            run(folder)
            same &= outputs(folder) == grown
            photographs.store(folder, early)
            shutil.rmtree(folder / ".graft")
            kill_at_90_percent(folder)
            taken["resumed"].append(run(folder))
            same &= outputs(folder) == first
    median = {name: statistics.median(values) for name, values in taken.items()}
    details = {
        "seconds": {name: [round(value, 1) for value in values] for name, values in taken.items()},
        "images": count, "new images": more, "same bytes as from an empty memo": same,
        "load": round(os.getloadavg()[0], 1), "cores": os.cpu_count(), "python": platform.python_version(),
        "versions": {name: version(name) for name in ("keras", "openvino")},
    }  # fmt: skip
    bounds = {"grown": ("feature_extract with 1 % new images / cold", 0.10),
              "resumed": ("feature_extract again after a kill -9 at 90 % / uninterrupted", 0.15)}  # fmt: skip
    return [
        {"figure": figure, "bound": f"<= {bound:.2f}", "value": round(median[name] / median["cold"], 3),
         "passed": same and median[name] / median["cold"] <= bound, "details": details}
        for name, (figure, bound) in bounds.items()
    ]  # fmt: skip


def hash_of(name: str) -> str:
    """Of a photograph's name; an order that has nothing to do with the names' own."""
    return hashlib.sha256(name.encode()).hexdigest()


def run(folder: Path) -> float:
    """Seconds of the stage as a process."""
    start = time.perf_counter()
    subprocess.run(STAGE, cwd=folder, check=True, env=photographs.environment(), stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


def kill_at_90_percent(folder: Path) -> None:
    """Run the stage and end it with SIGKILL when it says that 90 % is done."""
    process = subprocess.Popen(
        STAGE, cwd=folder, env=photographs.environment(), stderr=subprocess.PIPE, text=True, bufsize=1
    )
    assert process.stderr is not None
    for line in process.stderr:
        if " 90 % running" in line:
            process.send_signal(signal.SIGKILL)
            break
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "the stage ended before it could be killed"


def outputs(folder: Path) -> dict[str, str]:
    """SHA-256 by file."""
    return hashes.sha256_of_tree(folder / "data/feature_extract")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--images", type=int)
    parser.add_argument("--rounds", type=int)
    chosen = parser.parse_args()
    sys.stdout.write(json.dumps(measure(chosen.quick, chosen.images, chosen.rounds)) + "\n")
