"""A stage and its workers that are stopped longer than their deadlines, as when a laptop sleeps, and go on."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from benchmarks.tiny_pipeline import Tiny
from stages.store.hashes import sha256_of_tree
from tests.waiting import wait_for

pytestmark = pytest.mark.slow
SECONDS = 3  # that a worker may take to start, and to answer
VALIDATE = f"""
from stages import validate
from stages.store import isolation, process
isolation.START_SECONDS, isolation.WALL_FACTOR, isolation.WALL_SECONDS = {SECONDS}, 0, {SECONDS}
process.run("validate", validate.main)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="its clocks go on for a stopped process")
def test_validate_goes_on_after_a_sleep_and_makes_the_same_bytes(tiny: Tiny, tmp_path: Path) -> None:
    here = tmp_path / "checkout"
    shutil.copytree(tiny.before["split"], here, symlinks=True)
    # What was measured is not to be found again.
    for kept in (".graft", *tiny.made["validate"]):
        shutil.rmtree(here / kept, ignore_errors=True)
    stage = subprocess.Popen(
        [sys.executable, "-c", VALIDATE], cwd=here, env={**os.environ, "PYTHONPATH": str(here)},
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        assert wait_for(lambda: bool(psutil.Process(stage.pid).children()), 60)
        os.killpg(stage.pid, signal.SIGSTOP)
        time.sleep(SECONDS + 1)
        os.killpg(stage.pid, signal.SIGCONT)
        errors = stage.communicate(timeout=120)[1]
    finally:
        stage.kill()
        stage.wait()
    assert stage.returncode == 0, errors
    assert {out: sha256_of_tree(here / out) for out in tiny.made["validate"]} == tiny.made["validate"]
