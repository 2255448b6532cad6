"""A few points of benchmarks/kill_sweep.py: whatever was killed where, the same command then makes the same bytes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from benchmarks.kill_points import MADE, Bench, Forks, Goal, Processes, spread
from benchmarks.shim import Ask, read
from benchmarks.tiny_pipeline import Tiny
from benchmarks.warm import Warm

pytestmark = pytest.mark.slow
WRITES: dict[str, int] = {}  # counted once for all examples


@pytest.fixture
def toy(toy_goal: Goal, warm_dvc: Warm, tmp_path: Path) -> Bench:
    return Bench(toy_goal, Forks(warm_dvc, ["repro"]), tmp_path)


@pytest.mark.parametrize("stage", ["download", "split"])
def test_a_stage_killed_at_its_writes(stage: str, tiny: Tiny, warm_stages: dict[str, Warm], tmp_path: Path) -> None:
    bench = Bench(tiny.goal(stage, with_lock=False), Forks(warm_stages[stage]), tmp_path)
    writes = bench.writes()
    assert writes >= 10
    for number in spread(writes, 5, seed=1):
        tried = bench.broken(Ask(at=number))
        assert (tried.hit, tried.code, tried.why) == (True, -9, []), number


def test_a_whole_output_is_told_from_a_torn_one(tiny: Tiny, warm_stages: dict[str, Warm], tmp_path: Path) -> None:
    """What the sweep looks for can be found: a stage that wrote in place would fail it."""
    goal = tiny.goal("split", with_lock=False)
    torn = Goal(goal.before, {"data/split": {**goal.made["data/split"], "more": "0" * 64}}, None, goal.environment)
    tried = Bench(torn, Forks(warm_stages["split"]), tmp_path).broken(Ask(at=10**6))
    assert not tried.hit
    assert tried.why == [
        "after the fault data/split is neither absent nor whole",
        "data/split differs from that of a run without a fault",
    ]


def test_dvc_killed_at_the_stages_writes_takes_the_stage_along(tiny: Tiny, library: Path, tmp_path: Path) -> None:
    """Real processes: DVC, a shell, the stage. No process of the killed run may meet the next one."""
    dvc = [sys.executable, "-m", "dvc", "repro", "split"]
    again = ["bash", "-c", MADE.format(python=sys.executable, stage="split")]
    bench = Bench(tiny.goal("split"), Processes(dvc, library, "-m stages.split", again), tmp_path)
    for number in (1, 12):
        tried = bench.broken(Ask(at=number, victim="-m dvc repro"))
        assert (tried.hit, tried.code, tried.why) == (True, -9, []), number


def writes_to(toy: Bench, name: str) -> list[int]:
    """At which writes of DVC a file is written to."""
    toy.writes()
    return [number for number, call in enumerate(read(toy.folder / "writes.log"), 1)
            if call.name == "write" and f"{name}|" in f"{call.path}|".replace("/runs/", "/runs/|")]  # fmt: skip


@pytest.mark.parametrize("name", ["dvc.lock", ".dvc/tmp/rwlock", "/runs/"])
def test_dvc_killed_in_the_middle_of_a_file(name: str, toy: Bench) -> None:
    """The half of a file of its own that a kill leaves stops DVC, until it is mended."""
    at = writes_to(toy, name)[-1]
    # Before an entry of the run cache is written, its folder is there and empty, which stops DVC as well.
    for number in (at, at - 1) if name == "/runs/" else (at,):
        tried = toy.broken(Ask(at=number))
        assert (tried.hit, tried.why, tried.mended) == (True, [], True), number


@settings(max_examples=3, deadline=None, database=None, derandomize=True, phases=[Phase.generate],
          suppress_health_check=list(HealthCheck))  # fmt: skip
@given(kills=st.lists(st.floats(0, 1), min_size=1, max_size=3))
def test_any_schedule_of_kills_of_dvc_equals_one_clean_run(
    kills: list[float], toy_goal: Goal, warm_dvc: Warm, tmp_path_factory: pytest.TempPathFactory
) -> None:
    bench = Bench(toy_goal, Forks(warm_dvc, ["repro"]), tmp_path_factory.mktemp("schedule"))
    if not WRITES:
        WRITES["dvc"] = bench.writes()
    count = WRITES["dvc"]
    tried = bench.broken_often([Ask(at=1 + int(kill * (count - 1))) for kill in kills])
    assert tried.why == []


@settings(max_examples=5, deadline=None, database=None, derandomize=True, phases=[Phase.generate],
          suppress_health_check=list(HealthCheck))  # fmt: skip
@given(kills=st.lists(st.integers(1, 40), min_size=1, max_size=4))
def test_any_schedule_of_kills_of_a_stage_equals_one_clean_run(
    kills: list[int], tiny: Tiny, warm_stages: dict[str, Warm], tmp_path_factory: pytest.TempPathFactory
) -> None:
    goal = tiny.goal("download", with_lock=False)
    bench = Bench(goal, Forks(warm_stages["download"]), tmp_path_factory.mktemp("schedule"))
    assert bench.broken_often([Ask(at=kill) for kill in kills]).why == []
