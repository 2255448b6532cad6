"""What do graft's seven stages cost beside the tutorial's script, and what the training part alone?

    python -m benchmarks.whole_pipeline                     # seeds 1, 2, 3, both in full: most of an hour on two cores
    python -m benchmarks.whole_pipeline --extrapolate       # the script with one epoch a fit, scaled to ten
    python -m benchmarks.whole_pipeline --quick             # the same with one seed

Two ratios on one machine, the sides in turn, each seed's first side the other seed's second; medians.

Whole     `dvc repro` of recipes/cats_and_dogs.yaml in a copy of the working tree without data, memo, dvc.lock or
          DVC cache, reports and exports included, over benchmarks/tutorial_script.py as a process. Fails where
          the mean accuracy is lower, in validation or in test.
Training  feature_extract and fine_tune over the script's two calls of `fit`. A stage's seconds last until DVC
          starts the next one: its process, its imports and DVC's caching of its outputs count against graft.

Needs ../shared (or --archive, and KERAS_HOME with the weights); says so and measures nothing without.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from benchmarks.progress import tell
from benchmarks.tutorial_script import ARCHIVE, EPOCHS

ROOT = Path(__file__).parent.parent
WEIGHTS = Path("../shared/keras_home")
RECIPE = Path("recipes/cats_and_dogs.yaml")
ROUNDS = 3
WHOLE_BOUND = 1 / 6
TRAINING_BOUND = 1 / 10
RUNNING = re.compile(r"^Running stage '(\w+)'")
LAST_LINES = 30


def measure(
    quick: bool, rounds: int | None = None, extrapolate: bool = False, archive: Path = ARCHIVE
) -> list[dict[str, Any]] | dict[str, Any]:
    """Both figures. `rounds` is how many seeds, 1 and up; `extrapolate` trains the script for one epoch a fit."""
    archive = archive if archive.is_absolute() else ROOT / archive
    if not archive.exists():
        return {"skipped": f"{archive} is not here"}
    environment = dict(os.environ)
    if "KERAS_HOME" not in environment:
        if not (ROOT / WEIGHTS).is_dir():
            return {"skipped": f"no KERAS_HOME, and {ROOT / WEIGHTS} is not here"}
        environment["KERAS_HOME"] = str((ROOT / WEIGHTS).resolve())
    extrapolate = extrapolate or quick
    found = []
    for seed in range(1, (rounds or (1 if quick else ROUNDS)) + 1):
        sides = {
            "pipeline": lambda seed=seed: pipeline(archive.resolve(), seed, environment),
            "tutorial": lambda seed=seed: tutorial(archive.resolve(), seed, environment, extrapolate),
        }
        taken: dict[str, Any] = {"seed": seed}
        # Another one goes first each time: what the machine does besides hits neither side always.
        for side in sorted(sides, reverse=seed % 2 == 0):
            load = round(os.getloadavg()[0], 2)
            taken[side] = sides[side]() | {"load before": load}
            tell(f"seed {seed}, {side}: {taken[side]['seconds']['total']:.0f} s")
        found.append(taken)
    return figures(found, extrapolate)


def figures(rounds: Sequence[Mapping[str, Any]], extrapolate: bool) -> list[dict[str, Any]]:
    """The two figures of rounds {seed, pipeline, tutorial}, each side with its `seconds` and accuracies."""
    whole = statistics.median(
        one["pipeline"]["seconds"]["total"] / one["tutorial"]["seconds"]["total"] for one in rounds
    )
    training = statistics.median(
        (one["pipeline"]["seconds"]["feature_extract"] + one["pipeline"]["seconds"]["fine_tune"])
        / (one["tutorial"]["seconds"]["first fit"] + one["tutorial"]["seconds"]["second fit"])
        for one in rounds
    )
    details: dict[str, Any] = {"rounds": len(rounds)}
    accurate = True
    if extrapolate:
        details["extrapolated"] = (
            f"the script trained one epoch a fit; its seconds are what came once (imports, data, evaluation, start-up "
            f"of each fit) + {EPOCHS} x the rest of each fit. Its accuracy is therefore not compared"
        )
    else:
        accuracy = {
            split: {side: statistics.mean(one[side][split] for one in rounds) for side in ("pipeline", "tutorial")}
            for split in ("val", "test")
        }
        details["mean accuracy"] = accuracy
        accurate = all(both["pipeline"] >= both["tutorial"] for both in accuracy.values())
    return [
        {
            "figure": "Whole pipeline on cats and dogs, reports and exports included ÷ the tutorial's script",
            "bound": "<= 1/6, aim 1/10" + ("" if extrapolate else "; accuracy not lower"),
            "value": whole,
            "passed": whole <= WHOLE_BOUND and accurate,
            "details": {**details, "runs": list(rounds)},
        },
        {
            "figure": "Training part alone, extract and fine_tune ÷ the script's two fit calls",
            "bound": "<= 1/10, aim 1/20",
            "value": training,
            "passed": training <= TRAINING_BOUND,
            "details": details,
        },
    ]


def copy_checkout(target: Path) -> None:
    """The working tree as a git repository of its own: tracked and new files, nothing that git ignores.

    Uncommitted changes come along. dvc.lock does not: nothing has ever run in the copy.
    """
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    for name in sorted(set(listed.split("\0")) - {"", "dvc.lock"}):
        if (ROOT / name).is_file():  # a file deleted but not yet committed is still listed
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    who = ["-c", "user.name=Benchmark", "-c", "user.email=benchmark@example.com"]
    for command in (["init", "-q"], ["add", "-A"], [*who, "commit", "-q", "--no-verify", "-m", "Copy"]):
        subprocess.run(["git", *command], cwd=target, check=True)


def environment_for(folder: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """`environment` for a copy in `folder`: this Python first, DVC's machine-wide cache empty, output unbuffered."""
    return {
        **environment,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', '')}",
        "DVC_SITE_CACHE_DIR": str(folder / "dvc-site-cache"),
        "PYTHONUNBUFFERED": "1",
    }


def pipeline(archive: Path, seed: int, environment: Mapping[str, str]) -> dict[str, Any]:
    """`dvc repro` of the recipe in a fresh copy: seconds of each stage and in all, accuracies 0-1."""
    with tempfile.TemporaryDirectory(prefix="graft-bench-") as name:
        folder = Path(name)
        checkout = folder / "checkout"
        checkout.mkdir()
        copy_checkout(checkout)
        yaml = YAML()
        params = yaml.load(checkout / RECIPE)
        params["download"]["source"] = str(archive)
        params["feature_extract"]["seed"] = params["fine_tune"]["seed"] = seed
        yaml.dump(params, checkout / "params.yaml")
        seconds = _stage_seconds(checkout, environment_for(folder, environment))
        metrics = json.loads((checkout / "reports/evaluate/metrics.json").read_text())
    return {"seconds": seconds, **{split: metrics[split]["accuracy"] for split in ("val", "test")}}


def _stage_seconds(checkout: Path, environment: dict[str, str]) -> dict[str, float]:
    """Seconds from a stage's line in DVC's output to the next one's, the last until DVC ends; and `total`."""
    command = [sys.executable, "-m", "dvc", "repro"]
    lines: list[str] = []
    start = time.perf_counter()
    marks: list[tuple[str, float]] = []
    with subprocess.Popen(
        command, cwd=checkout, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if running := RUNNING.match(line):
                marks.append((running[1], time.perf_counter()))
                tell(f"  {running[1]}")
    end = time.perf_counter()
    if process.returncode:
        raise RuntimeError(f"dvc repro ended with {process.returncode}:\n{''.join(lines[-LAST_LINES:])}")
    return {**between(marks, end), "total": round(end - start, 3)}


def between(marks: Sequence[tuple[str, float]], end: float) -> dict[str, float]:
    """Seconds from each mark to the next, the last to `end`."""
    ends = [*(when for _, when in marks[1:]), end]
    return {name: round(after - when, 3) for (name, when), after in zip(marks, ends, strict=True)}


def tutorial(archive: Path, seed: int, environment: Mapping[str, str], extrapolate: bool) -> dict[str, Any]:
    """The script as a process: seconds of its parts and in all, its start and end included; accuracies 0-1."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.tutorial_script"]
    command += ["--archive", str(archive), "--seed", str(seed)]
    if extrapolate:
        command += ["--epochs", "1", "--split-start-up"]
    quiet = {**environment, "TF_CPP_MIN_LOG_LEVEL": "3"}
    start = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, env=quiet, check=True, stdout=subprocess.PIPE, text=True)
    took = time.perf_counter() - start
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    found["seconds"]["total"] = round(took, 3)
    if extrapolate:
        found["measured seconds"] = found["seconds"]
        found["seconds"] = in_full(found["seconds"], EPOCHS)
    return found


def in_full(seconds: Mapping[str, float], epochs: int) -> dict[str, float]:
    """Seconds of a script that trains `epochs` a fit, from one that trained one epoch a fit."""
    scaled = dict(seconds)
    for fit in ("first fit", "second fit"):
        once = seconds[f"{fit}, start-up"]
        scaled[fit] = round(once + epochs * (seconds[fit] - once), 3)
        scaled["total"] += scaled[fit] - seconds[fit]
    scaled["total"] = round(scaled["total"], 3)
    return scaled


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print one JSON line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.whole_pipeline")
    parser.add_argument("--quick", action="store_true", help="one seed, extrapolated")
    parser.add_argument("--rounds", type=int, help=f"seeds 1 to this; {ROUNDS} without --quick")
    parser.add_argument("--extrapolate", action="store_true", help="the script trains one epoch a fit, scaled to ten")
    parser.add_argument("--archive", type=Path, default=ARCHIVE, help="a zip with train/ and validation/ in one folder")
    given = parser.parse_args(arguments)
    if given.rounds is not None and given.rounds < 1:
        parser.error("--rounds must be 1 or more")
    sys.stdout.write(json.dumps(measure(given.quick, given.rounds, given.extrapolate, given.archive)) + "\n")


if __name__ == "__main__":
    main()
