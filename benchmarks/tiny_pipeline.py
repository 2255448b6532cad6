"""A pipeline of thirty drawn pictures whose stages take a second each beside their imports, for sweeps of faults.

`Tiny(folder)` runs it once without a fault and keeps, for each stage, the checkout as it was before that stage ran and
what it made: what a run that a fault met must come to as well.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from ruamel.yaml import YAML

from benchmarks.kill_points import Goal
from benchmarks.whole_pipeline import copy_checkout
from stages.store.hashes import sha256_of_tree

STAGES = ("download", "validate", "split", "feature_extract", "fine_tune", "evaluate", "export")
LIGHT = ("download", "validate", "split")  # without TensorFlow
OUTS = {
    "download": ("data/download",),
    "validate": ("data/validate", "reports/validate"),
    "split": ("data/split",),
    "feature_extract": ("data/feature_extract",),
    "fine_tune": ("data/fine_tune", "reports/fine_tune"),
    "evaluate": ("reports/evaluate",),
    "export": ("data/export",),
}
PARAMS: dict[str, dict[str, Any]] = {
    "download": {"source": "data/images", "watch": "data/images", "images_per_shard": 10},
    "validate": {"min_side": 8},
    "split": {"val_fraction": 0.2, "test_fraction": 0.2},
    "feature_extract": {"image_size": 32, "views": 2, "rows_per_shard": 16, "pixels": True},
    "fine_tune": {
        "head": {"epochs": 2, "learning_rate": 0.01, "batch_size": 8},
        "tail": {"epochs": 1, "learning_rate": 0.001, "batch_size": 8},
        "from_scratch": False,
    },
    "evaluate": {"resamples": 10},
    "export": {"formats": ["keras", "openvino"]},
}

# DVC's own files lie below the checkout, so that a copy has its own; byte code would count as writes of the stage.
ENVIRONMENT = {
    "DVC_SITE_CACHE_DIR": "{checkout}/.graft/site", "DVC_NO_ANALYTICS": "1", "SHELL": "/bin/bash",
    "PYTHONDONTWRITEBYTECODE": "1", "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
}  # fmt: skip

Tree = dict[str, str]


class Tiny:
    """`before[stage]` is a checkout to copy, `made[stage]` the files of each output with their SHA-256."""

    def __init__(self, folder: Path, stages: Sequence[str] = STAGES) -> None:
        """Make it in `folder`, which is empty, up to the last of `stages`; snapshots are kept of `stages` alone."""
        self.folder = folder
        work = folder / "whole"
        work.mkdir()
        copy_checkout(work)
        for name in ("docs", "deploy", "tests", "benchmarks"):  # no stage reads them, and each attempt is a copy
            shutil.rmtree(work / name, ignore_errors=True)
        _draw(work / "data" / "images", 10)
        yaml = YAML()
        values = yaml.load(work / "params.yaml")
        for block, changes in PARAMS.items():
            values[block].update(changes)
        yaml.dump(values, work / "params.yaml")
        (work / "dvc.lock").unlink(missing_ok=True)
        variables = {name: value.replace("{checkout}", str(work)) for name, value in ENVIRONMENT.items()}
        self.before: dict[str, Path] = {}
        self.made: dict[str, dict[str, Tree]] = {}
        self.lock: dict[str, str] = {}
        for stage in STAGES[: max(map(STAGES.index, stages)) + 1]:
            if stage in stages:
                self.before[stage] = folder / f"before-{stage}"
                shutil.copytree(work, self.before[stage], symlinks=True)
            done = subprocess.run(
                [sys.executable, "-m", "dvc", "repro", "-s", stage],
                cwd=work, env={**os.environ, **variables}, capture_output=True, text=True,
            )  # fmt: skip
            if done.returncode:
                raise RuntimeError(done.stdout + done.stderr)
            self.made[stage] = {out: sha256_of_tree(work / out) for out in OUTS[stage]}
            self.lock[stage] = (work / "dvc.lock").read_text()

    @classmethod
    def of(cls, stage: str, folder: Path) -> Tiny:
        """A kept one in `folder` that has this stage: one of the first three does not need the rest run."""
        light = stage in LIGHT
        return cls.kept(folder / ("light" if light else "whole"), LIGHT if light else STAGES)

    @classmethod
    def kept(cls, folder: Path, stages: Sequence[str]) -> Tiny:
        """As `Tiny(folder, stages)`, made once and found again after that."""
        path = folder / "made.json"
        if not path.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            tiny = cls(folder, stages)
            path.write_text(json.dumps({"made": tiny.made, "lock": tiny.lock}))
            return tiny
        tiny = cls.__new__(cls)
        tiny.folder, tiny.before = folder, {stage: folder / f"before-{stage}" for stage in stages}
        kept = json.loads(path.read_text())
        tiny.made, tiny.lock = kept["made"], kept["lock"]
        return tiny

    def goal(self, stage: str, with_lock: bool = True) -> Goal:
        """What a run of `stage` starts from and must come to; without dvc.lock where DVC takes no part."""
        return Goal(self.before[stage], self.made[stage], self.lock[stage] if with_lock else None, ENVIRONMENT)


def _draw(folder: Path, per_class: int) -> None:
    """Class folders of 40 x 32 pictures: three kinds of stripes, which are easy to tell apart."""
    random = np.random.default_rng(0)
    across, down = np.meshgrid(np.arange(40), np.arange(32))
    for label, lines in {"across": down, "along": across, "slanted": across + down}.items():
        (folder / label).mkdir(parents=True, exist_ok=True)
        for number in range(per_class):
            period, colour = random.integers(5, 12), random.integers(80, 220, 3)
            noise = random.integers(0, 30, (32, 40, 3))
            picture = ((lines // period % 2)[..., None] * colour + noise).astype(np.uint8)
            Image.fromarray(picture).save(folder / label / f"{number:03}.png")
