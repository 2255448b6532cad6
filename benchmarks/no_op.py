"""What does it cost to find out that nothing is to do, beside DVC's own way, and what is imported for it?

    python -m benchmarks.no_op [--quick]

Three commands in turn, each a process of its own, medians: `dvc repro`; `graft plan`; and a process that asks
DVC about the seven stages as a flow does (flows/dvc_door.py) and starts none. The figure is the slower
of the last two over `dvc repro`. A fourth process does what these two do, loads the flow as well, and says
whether that imported TensorFlow, Keras or Great Expectations.

All in a copy of the working tree whose dvc.yaml keeps each stage's dependencies, parameters and outputs; only the
commands are replaced by one that writes a few bytes. Never in the checkout itself: where somebody edits a file
meanwhile, `dvc repro` would run stages for real.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from ruamel.yaml import YAML

from benchmarks.whole_pipeline import copy_checkout, environment_for

BOUND = 1.0
ROUNDS, QUICK_ROUNDS = 9, 3
HEAVY = ("tensorflow", "keras", "great_expectations")
UNCHANGED = re.compile(r"^Stage '\w+' didn't change", re.MULTILINE)
TOY = "toy_stage.py"

# As a flow asks before any stage has run (flows/run.py).
ASK_DOOR = """
from pathlib import Path
from flows.dvc_door import Door

with Door(Path.cwd()) as door:
    stale = door.stale_stages()
assert not stale, stale
"""
ASK_PLAN = """
from pathlib import Path
from commands.plan import plan

plan()
"""
NAME_IMPORTS = f"""
import sys
import flows.pipeline
sys.stderr.write(" ".join(name for name in {HEAVY!r} if name in sys.modules))
"""
# Writes the files given; each is an output, or what other stages read in one.
TOY_STAGE = """
import sys
from pathlib import Path

for name in sys.argv[1:]:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text("{}\\n")
"""


def measure(quick: bool) -> dict[str, Any]:
    """The figure; skipped where the copy does not come out up to date."""
    with tempfile.TemporaryDirectory(prefix="graft-bench-") as name:
        checkout = Path(name) / "checkout"
        checkout.mkdir()
        environment = environment_for(Path(name), os.environ)
        stages = prepare(checkout, environment)
        status = _run([sys.executable, "-m", "dvc", "status", "--json"], checkout, environment).stdout
        if stale := sorted(json.loads(status)):
            return {"skipped": f"after dvc repro with toy stages these are still not up to date: {', '.join(stale)}"}
        return _figure(checkout, stages, environment, QUICK_ROUNDS if quick else ROUNDS)


def _figure(checkout: Path, stages: Sequence[str], environment: Mapping[str, str], rounds: int) -> dict[str, Any]:
    commands = {
        "dvc repro": [sys.executable, "-m", "dvc", "repro"],
        "graft plan": [sys.executable, "-m", "commands", "plan"],
        "flow's question": [sys.executable, "-c", ASK_DOOR],
    }
    # Once before the clock: byte code and DVC's record of file states are there for all of them.
    said = {name: _run(command, checkout, environment).stdout for name, command in commands.items()}
    assert len(UNCHANGED.findall(said["dvc repro"])) == len(stages), said["dvc repro"]
    assert "nothing to do" in said["graft plan"], said["graft plan"]
    found: list[dict[str, float]] = []
    for number in range(rounds):
        taken = {"load before": round(os.getloadavg()[0], 2)}
        names = list(commands)
        first = number % len(names)  # another one goes first each time
        for name in names[first:] + names[:first]:
            start = time.perf_counter()
            _run(commands[name], checkout, environment)
            taken[name] = time.perf_counter() - start
        found.append({name: round(taken[name], 4) for name in ("load before", *names)})
    ratios = {
        name: statistics.median(one[name] / one["dvc repro"] for one in found)
        for name in ("graft plan", "flow's question")
    }
    imported = heavy_imports(checkout, environment)
    value = max(ratios.values())
    return {
        "figure": "No-op: deciding that nothing is to do ÷ `dvc repro` where nothing changed",
        "bound": f"<= {BOUND:.1f}; TensorFlow, Keras, Great Expectations never imported",
        "value": value,
        "passed": value <= BOUND and not imported,
        "details": {
            "rounds": rounds,
            "ratios": ratios,
            "median, s": {name: statistics.median(one[name] for one in found) for name in commands},
            "heavy modules imported": imported,
            "per round, s": found,
        },
    }


def heavy_imports(checkout: Path, environment: Mapping[str, str]) -> list[str]:
    """Which of HEAVY a process has loaded after both decisions and the flow's own modules."""
    code = ASK_DOOR + ASK_PLAN + NAME_IMPORTS
    command = [sys.executable, "-W", "ignore", "-c", code]
    return _run(command, checkout, environment).stderr.split()


def prepare(checkout: Path, environment: Mapping[str, str]) -> list[str]:
    """A copy of the working tree with toy stages, taken through `dvc repro` once; returns the stages' names."""
    copy_checkout(checkout)
    yaml = YAML()
    yaml.width = 4096
    document = yaml.load(checkout / "dvc.yaml")
    for stage, files in toy_files(document).items():
        document["stages"][stage]["cmd"] = f"python {TOY} {' '.join(files)}"
    yaml.dump(document, checkout / "dvc.yaml")
    (checkout / TOY).write_text(TOY_STAGE)
    _run([sys.executable, "-m", "dvc", "repro"], checkout, environment)
    return list(document["stages"])


def toy_files(document: Mapping[str, Any]) -> dict[str, list[str]]:
    """The files each stage of a dvc.yaml has to write so that its outputs, and all that is read in them, are there."""
    stages = document["stages"]
    read = {str(dependency) for stage in stages.values() for dependency in stage.get("deps", [])}
    read |= {next(iter(file)) if isinstance(file, Mapping) else str(file) for file in document.get("metrics", [])}
    files: dict[str, list[str]] = {}
    for name, stage in stages.items():
        files[name] = []
        for output in (PurePosixPath(str(output)) for output in stage.get("outs", [])):
            inside = [path for path in map(PurePosixPath, sorted(read)) if path != output and output in path.parents]
            # A path without a suffix is a folder: these are written by what is in them.
            wanted = [path if path.suffix else path / "toy" for path in inside] or [output / "toy"]
            files[name] += map(str, wanted)
    return files


def _run(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Raises RuntimeError with what the command said where it fails."""
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[:4])} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print one JSON line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.no_op")
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    given = parser.parse_args(arguments)
    sys.stdout.write(json.dumps(measure(given.quick)) + "\n")


if __name__ == "__main__":
    main()
