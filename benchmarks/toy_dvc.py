"""A DVC project of two stages that a shell runs in milliseconds, for sweeps of DVC's own writes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.kill_points import Goal
from stages.store.hashes import sha256_of_tree

PROJECT = """stages:
  first:
    cmd: mkdir -p data/first && cp given.txt data/first/a && cp given.txt data/first/b && echo c > data/first/c
    deps: [given.txt]
    outs: [data/first]
  second:
    cmd: mkdir -p data/second && cat data/first/a data/first/c > data/second/all
    deps: [data/first]
    outs: [data/second]
"""
ENVIRONMENT = {
    "DVC_SITE_CACHE_DIR": "{checkout}/.dvc/tmp/site", "DVC_NO_ANALYTICS": "1", "SHELL": "/bin/bash",
    "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(Path(__file__).parent.parent),
}  # fmt: skip


def kept(folder: Path) -> Goal:
    """`made` once, and found again after that."""
    kept = folder / "goal.json"
    if not kept.exists():
        shutil.rmtree(folder, ignore_errors=True)
        goal = made(folder)
        kept.write_text(json.dumps({"made": goal.made, "lock": goal.lock}))
    return Goal(folder / "before", **json.loads(kept.read_text()), environment=ENVIRONMENT)


def made(folder: Path) -> Goal:
    """The project in `folder`/before, and what `dvc repro` makes of it in another folder."""
    before, after = folder / "before", folder / "after"
    for checkout in (before, after):
        checkout.mkdir(parents=True)
        (checkout / "given.txt").write_text("given\n" * 1000)
        (checkout / "dvc.yaml").write_text(PROJECT)
        environment = {
            **os.environ,
            **{name: value.replace("{checkout}", str(checkout)) for name, value in ENVIRONMENT.items()},
        }
        dvc = [sys.executable, "-m", "dvc"]
        subprocess.run([*dvc, "init", "--no-scm", "-q"], cwd=checkout, env=environment, check=True)
    subprocess.run([*dvc, "repro", "-q"], cwd=after, env=environment, check=True)
    outs = {out: sha256_of_tree(after / out) for out in ("data/first", "data/second")}
    return Goal(before, outs, (after / "dvc.lock").read_text(), ENVIRONMENT)
