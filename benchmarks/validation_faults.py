"""Does validate find what is wrong with a data set, and leave alone what is not?

    python -m benchmarks.validation_faults 1 2 3

For each seed the 3,000 photographs of ../shared/data/cats_and_dogs_filtered.zip with 18 faults of each kind
of benchmarks/fault_set.py, packed as download would and given to the stage as a process of its own. A fault is
found where its own reason in quarantine.parquet and its own rule in failing.csv name it; of a copy and its
original, which nobody can tell apart, one has to be named. Beside it: the photographs as they came, of which
at most 1 % may fail a critical rule. Prints one table. Exit code 1 where a fault was missed or too many
photographs failed. Says so and ends where the archive is not there. Three seeds: a minute of two cores.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import fault_set
from benchmarks.fault_set import FOUND_BY, KINDS, Fault, Row
from stages.core.schemas import QUARANTINE
from stages.store import params, tables

PER_KIND = 18
FALSE_ALARMS = 0.01  # share of clean photographs that may fail a critical rule
ROOT = Path(__file__).parents[1]
ACCEPTED, REJECTED = 0, 3  # exit codes of the stage


@dataclass(frozen=True)
class Findings:
    """What a run of validate wrote of single images."""

    reasons: dict[str, str]  # name → reason code of quarantine
    rules: dict[str, set[str]]  # rule id → names of the images that fail it
    severities: dict[str, str]  # rule id → severity

    def has(self, fault: Fault) -> bool:
        """Whether everything that must find a fault has."""
        names = {fault.name, fault.original}
        return all(
            self.reasons.get(fault.name) == id if where == "reason" else bool(names & self.rules.get(id, set()))
            for where, id in FOUND_BY[fault.kind]
        )

    def flagged(self, severity: str) -> set[str]:
        """Images that fail a rule of this severity, kept or broken."""
        return {name for rule, names in self.rules.items() if self.severities[rule] == severity for name in names}


def findings(root: Path) -> Findings:
    """Reads what the stage left under `root`."""
    rows = tables.read(root / "data/validate/quarantine.parquet", QUARANTINE).to_pylist()
    rules: dict[str, set[str]] = {}
    severities: dict[str, str] = {}
    with (root / "reports/validate/failing.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            rules.setdefault(row["rule"], set()).add(row["name"])
            severities[row["rule"]] = row["severity"]
    return Findings({row["name"]: row["reason"] for row in rows}, rules, severities)


def prepare(root: Path, rows: Sequence[Row]) -> None:
    """A checkout as download would leave it, with every parameter at its default."""
    fault_set.pack(root, rows)
    blocks: dict[str, dict[str, str]] = {stage: {} for stage in params.STAGES}
    # The one parameter without a default; validate checks the whole file.
    if "download" in blocks:
        blocks["download"] = {"watch": "data/images"}
    (root / "params.yaml").write_text(json.dumps(blocks))


def run_stage(root: Path) -> None:
    """`python -m stages.validate` in `root`. Raises RuntimeError where it neither accepts nor rejects."""
    command = [sys.executable, "-m", "stages.validate"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    if done.returncode not in (ACCEPTED, REJECTED):
        raise RuntimeError(f"validate ended with {done.returncode}\n{done.stderr}")


def validate(rows: Sequence[Row]) -> Findings:
    """The stage on these rows, in a folder that is gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder), rows)
        run_stage(Path(folder))
        return findings(Path(folder))


def say(line: str = "") -> None:
    """A line on standard output, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main(seeds: Sequence[int]) -> int:
    """Measure, print, and return the exit code."""
    if not fault_set.ARCHIVE.exists():
        say(f"{fault_set.ARCHIVE} is not here: nothing measured")
        return 0
    rows = fault_set.photographs()
    injected: Counter[str] = Counter()
    found: Counter[str] = Counter()
    missed: list[str] = []
    for seed in seeds:
        faulty, faults = fault_set.inject(rows, seed, PER_KIND)
        result = validate(faulty)
        for fault in faults:
            injected[fault.kind] += 1
            found[fault.kind] += result.has(fault)
            if not result.has(fault):
                missed.append(f"seed {seed}, {fault.kind}: {fault.name}")
    say(f"{len(rows):,} photographs, seeds {', '.join(map(str, seeds))}")
    say(f"{'fault':24}{'injected':>10}{'found':>8}  by")
    for kind in KINDS:
        by = " and ".join(f"{where} {id}" for where, id in FOUND_BY[kind])
        say(f"{kind:24}{injected[kind]:>10}{found[kind]:>8}  {by}")
    say(f"{'all':24}{injected.total():>10}{found.total():>8}")
    for line in missed:
        say(f"missed: {line}")

    clean = validate(rows)
    say()
    say(f"{'the photographs as they came':32}{'flagged':>8}{'share':>9}  rules")
    for severity in ("critical", "warning", "info"):
        rules = {id: len(names) for id, names in clean.rules.items() if clean.severities[id] == severity}
        which = ", ".join(f"{id} {count}" for id, count in sorted(rules.items()))
        count = len(clean.flagged(severity))
        say(f"{f'by a {severity} rule':32}{count:>8}{count / len(rows):>9.2%}  {which or '-'}")
    alarms = len(clean.flagged("critical")) / len(rows)
    return int(bool(missed) or alarms > FALSE_ALARMS)


if __name__ == "__main__":
    sys.exit(main([int(text) for text in sys.argv[1:]] or [1, 2, 3]))
