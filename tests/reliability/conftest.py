"""What the tests of faults break: a shim that counts writes, a toy DVC project, the first real stages, and export."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks import shim, toy_dvc
from benchmarks.kill_points import Goal
from benchmarks.tiny_pipeline import Tiny
from benchmarks.warm import Warm
from stages.store import conversion, exported, saved_model
from tests import exportable
from tests.reliability import scripted_converters


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


@pytest.fixture(scope="session")
def exportable_project(tmp_path_factory: pytest.TempPathFactory, tensorflow: object) -> Path:
    """What export reads, in a folder of its own."""
    root = tmp_path_factory.mktemp("exportable")
    before = os.getcwd()
    os.chdir(root)
    try:
        exportable.make(root, {})
    finally:
        os.chdir(before)
    return root


@pytest.fixture
def project(exportable_project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: what export reads, by links, and a model of before."""
    (tmp_path / "data/export").mkdir(parents=True)
    (tmp_path / "data/export/model.keras").write_bytes(b"the model before")
    (tmp_path / "reports").symlink_to(exportable_project / "reports")
    for path in (exportable_project / "data").iterdir():
        (tmp_path / "data" / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def scripted(project: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Call it to have formats that are a file each and answer as the evaluated model did, but for those given.

    `write[format]` is Python code (see scripted_converters) to run half way through writing, in the process that does;
    `ask[format]` is raised or answered.
    """

    def prepare(write: dict[str, str] | None = None, ask: dict[str, Any] | None = None) -> None:
        def answered(format_: str, path: Path, asked: Path) -> Any:
            right, seconds = scripted_converters.answered()
            given = (ask or {}).get(format_, right)
            if isinstance(given, BaseException):
                raise given
            return (given(right) if callable(given) else given), seconds

        monkeypatch.setenv(scripted_converters.DOES, json.dumps(write or {}))
        monkeypatch.setattr(exported, "_write", scripted_converters.written)
        monkeypatch.setattr(exported, "answers", answered)
        monkeypatch.setattr(saved_model, "smoke", lambda *_: 0.0)
        monkeypatch.setattr(conversion, "CHILD", scripted_converters.CHILD)

    return prepare
