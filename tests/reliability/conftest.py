"""What the tests of faults break: a shim that counts writes, a toy DVC project, and the first real stages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import shim, toy_dvc
from benchmarks.kill_points import Goal
from benchmarks.tiny_pipeline import Tiny
from benchmarks.warm import Warm


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shim of writes, built; skips where it cannot be."""
    why = shim.missing()
    if why:
        pytest.skip(why)
    return shim.build(tmp_path_factory.mktemp("shim"))


@pytest.fixture(scope="session")
def toy_goal(tmp_path_factory: pytest.TempPathFactory) -> Goal:
    """Two stages that a shell runs, before and after `dvc repro`."""
    return toy_dvc.made(tmp_path_factory.mktemp("toy_dvc"))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """The real pipeline on thirty drawn pictures, as far as split."""
    return Tiny(tmp_path_factory.mktemp("tiny"), ["download", "split"])


@pytest.fixture(scope="session")
def warm_dvc(library: Path) -> Iterator[Warm]:
    warm = Warm("dvc", library)
    yield warm
    warm.close()


@pytest.fixture(scope="session")
def warm_stages(library: Path) -> Iterator[dict[str, Warm]]:
    """The stages that need no TensorFlow, ready to run in forks."""
    warm = {stage: Warm(stage, library) for stage in ("download", "split")}
    yield warm
    for one in warm.values():
        one.close()
