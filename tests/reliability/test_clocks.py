"""The first real stages by another clock of the day, whoever reads it: datetime.now, time.time, DVC, C libraries.

A day behind; and in a time zone where summer time ends while the run is under way, so that local time goes back an
hour. Pictures have times in the future. The bytes and dvc.lock are those of a run without any of it.
"""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from benchmarks import shim
from benchmarks.tiny_pipeline import ENVIRONMENT, Tiny
from stages.store.hashes import sha256_of_tree

pytestmark = pytest.mark.slow
STAGES = ("download", "validate")
DAY = 86400
WINTER_TIME = datetime(2026, 10, 25, 1, tzinfo=UTC).timestamp()  # Europe/Berlin goes from UTC+2 to UTC+1
# Put where Python imports it first: what each process sees when it starts.
SEEN = """
import datetime, os, time
with open(os.environ["CLOCK_SEEN"], "a") as file:
    file.write(f"{datetime.datetime.now().timestamp():.0f} {time.time():.0f} {time.localtime().tm_gmtoff}\\n")
"""


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that sets another clock, built; skips where it cannot be."""
    why = shim.missing()
    if why:
        pytest.skip(why)
    folder = tmp_path_factory.mktemp("clock")
    source, library = Path(__file__).with_name("other_clock.c"), folder / "other_clock.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-o", library, source, "-ldl"], check=True)
    (folder / "sitecustomize.py").write_text(SEEN)
    return library


def repro(checkout: Path, **changes: str) -> str:
    variables = {name: value.replace("{checkout}", str(checkout)) for name, value in ENVIRONMENT.items()}
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "repro", STAGES[-1]], cwd=checkout, env={**os.environ, **variables, **changes},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_another_clock_and_files_of_the_future_change_no_byte(tiny: Tiny, clock: Path, tmp_path: Path) -> None:
    def run(name: str) -> list[list[int]]:
        here, seen = tmp_path / name, tmp_path / f"{name}.seen"
        shutil.copytree(tiny.before["download"], here, symlinks=True)
        for number, picture in enumerate(sorted((here / "data/images").rglob("*.png"))):
            os.utime(picture, (0, time.time() + DAY * (1 + number % 2 * 10_000)))
        # Two to three seconds before local time goes back: the first process starts before that, the last one after.
        offset = -DAY if name == "behind" else math.floor(WINTER_TIME - time.time()) - 2
        out = repro(
            here, TZ="Europe/Berlin", CLOCK_OFFSET=str(offset), CLOCK_SEEN=str(seen), LD_PRELOAD=str(clock),
            PYTHONPATH=str(clock.parent),
        )  # fmt: skip
        assert [stage for stage in tiny.made if f"Running stage '{stage}'" in out] == list(STAGES)
        if name == "into_winter":  # nor does the right clock, weeks later, make anything stale
            assert "Running stage" not in repro(here)
        assert (here / "dvc.lock").read_text() == tiny.lock[STAGES[-1]]
        for stage in STAGES:
            assert {out: sha256_of_tree(here / out) for out in tiny.made[stage]} == tiny.made[stage]
        return [[int(word) for word in line.split()] for line in seen.read_text().splitlines()]

    began = time.time()
    with ThreadPoolExecutor(2) as pool:
        behind, into_winter = pool.map(run, ("behind", "into_winter"))
    # Every process saw the other clock, and summer time ended between the first and the last.
    assert max(max(now, same) for now, same, _ in behind) < time.time() - DAY + 5
    assert min(min(now, same) for now, same, _ in behind) > began - DAY - 5
    assert [offset for _, _, offset in (into_winter[0], into_winter[-1])] == [7200, 3600]
    assert all(abs(now - WINTER_TIME) < time.time() - began + 5 for _, now, _ in into_winter)
