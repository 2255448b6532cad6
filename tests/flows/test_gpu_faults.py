"""What can happen to a worker, its machine, the server or the controller while a stage is away: each ends in a
named state, frees its slot, and the next run goes on from the last epoch."""

from __future__ import annotations

import itertools
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from prefect.client.schemas.objects import FlowRun

from flows import heartbeat
from tests.flows.local_prefect import LocalPrefect
from tests.flows.test_gpu import ROOT, Hop, controller, deploy_worker, pipeline, wait_until, worker_runs
from tests.flows.toy import STAGES, Toy, trained_to

pytestmark = pytest.mark.slow
EPOCHS = 8
# Seconds for a run to reach its first epochs: starting two flow runs took a minute on a slow machine. No claim of ours.
UNDER_WAY = 180
# Where a silence is waited for it is this one, not the 75 s of flows/heartbeat.py.
QUICK_BEATS = "tests/flows/quick_beats.py"
QUICK_SILENCE = timedelta(seconds=40)


class Bench:
    """A shared checkout with a stale fine_tune of EPOCHS half-second epochs, and workers to torment."""

    def __init__(self, server: LocalPrefect, toy: Toy, value: int) -> None:
        self.server, self.toy = server, toy
        toy.set(fine_tune={"value": value, "epochs": EPOCHS, "sleep": EPOCHS / 2})
        deploy_worker(server, toy.folder)
        self.known = {run.id for run in worker_runs(server)}
        self.workers: list[subprocess.Popen[bytes]] = []

    def worker(self, **environment: str) -> subprocess.Popen[bytes]:
        name = f"gpu-{len(self.workers)}"
        journal = {"TOY_JOURNAL": str(self.toy.journal)}
        self.workers.append(self.server.worker("gpu", name, cwd=self.toy.folder, env={**journal, **environment}))
        return self.workers[-1]

    def runs(self) -> list[FlowRun]:
        """This bench's runs of fine-tune, newest first."""
        return [run for run in worker_runs(self.server) if run.id not in self.known]

    def epochs(self) -> list[int]:
        return [entry["epoch"] for entry in self.toy.entries() if entry["what"] == "epoch"]

    def controller(self, module: str = "flows.pipeline") -> subprocess.Popen[str]:
        return controller(self.server, self.toy, "--gpu-pool", "gpu", module=module)

    def finishes_from_where_it_was(self, *, repeated: int = 0) -> None:
        """A fresh worker and the same command: done, and no epoch was trained twice beyond `repeated`."""
        self.worker()
        code, said, ended = pipeline(self.server, self.toy, "--gpu-pool", "gpu")
        assert code == 0, said
        assert ended["fine_tune"] in ("Completed", "Restored", "Unchanged")
        assert sorted(set(self.epochs())) == list(range(1, EPOCHS + 1))
        assert len(self.epochs()) <= EPOCHS + repeated
        # The model is that of a training nobody interrupted.
        assert f"trained to {trained_to(EPOCHS)}" in self.toy.out("fine_tune")
        assert self.toy.repro() == []

    def close(self) -> None:
        for worker in self.workers:
            self.server.kill_machine(worker)
        self.server.forget_workers("gpu")


@pytest.fixture
def bench(made: Toy, tmp_path: Path, prefect_server: LocalPrefect, request: pytest.FixtureRequest) -> Iterator[Bench]:
    # A value of its own: runs for the same inputs would be joined across tests.
    bench = Bench(prefect_server, made.copy(tmp_path / "toy"), value=abs(hash(request.node.name)) % 10**6)
    yield bench
    bench.close()


def ended(process: subprocess.Popen[str], seconds: float) -> tuple[int, str]:
    said, _ = process.communicate(timeout=seconds)
    return process.returncode, said


def test_killed_before_the_claim(bench: Bench) -> None:
    # Heartbeats far apart: the server goes on calling the dead worker ONLINE.
    worker = bench.worker(PREFECT_WORKER_HEARTBEAT_SECONDS="30")
    bench.server.kill_worker(worker)
    began = time.monotonic()
    with bench.controller() as process:
        code, said = ended(process, UNDER_WAY)
    assert code == 5, said
    assert time.monotonic() - began < 90  # 25 s for the claim, the rest is starting the flow on a busy machine
    assert "NoWorker" in said
    assert "took it within 25 s" in said
    assert [run.state.name for run in bench.runs()] == ["Cancelled"]
    assert bench.epochs() == []


def test_killed_after_the_claim(bench: Bench) -> None:
    # Two of its heartbeats are waited for.
    worker = bench.worker(PREFECT_WORKER_HEARTBEAT_SECONDS="4")
    with bench.controller() as process:
        wait_until(lambda: bench.runs() and bench.runs()[0].state.is_pending(), UNDER_WAY)
        bench.server.kill_machine(worker)
        code, said = ended(process, UNDER_WAY)
    assert code == 5, said
    assert "claimed, but never started" in said
    assert [run.state.name for run in bench.runs()] == ["Crashed"]
    bench.finishes_from_where_it_was()


def test_the_runs_process_is_killed_mid_epoch(bench: Bench) -> None:
    bench.worker()
    with bench.controller() as process:
        wait_until(lambda: len(bench.epochs()) >= 3, UNDER_WAY)
        stage = next(entry["pid"] for entry in bench.toy.entries() if entry["stage"] == "fine_tune")
        family = psutil.Process(stage).parents()
        flow = next(one for one in family if "prefect" in " ".join(one.cmdline()))
        assert "worker" not in flow.cmdline()
        flow.kill()
        wait_until(lambda: not psutil.pid_exists(stage), 30)
        code, said = ended(process, UNDER_WAY)
    assert code == 5, said
    assert [run.state.name for run in bench.runs()] == ["Crashed"]
    assert "Crashed" in said
    assert len(bench.epochs()) < EPOCHS
    bench.finishes_from_where_it_was(repeated=1)


def test_the_machine_dies_mid_epoch(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "SILENCE", QUICK_SILENCE)
    deploy_worker(bench.server, bench.toy.folder, QUICK_BEATS)
    with bench.server.client() as client:
        names = heartbeat.ensure(client)
    worker = bench.worker()
    # The automation looks after the controller's own run, too.
    with bench.controller("tests.flows.quick_beats") as process:
        wait_until(lambda: len(bench.epochs()) >= 3, UNDER_WAY)
        # The controller goes with it: nobody but the automation is left to end the run.
        process.kill()
        bench.server.kill_machine(worker)
        process.communicate()
    trained = len(bench.epochs())
    wait_until(lambda: bench.runs()[0].state.is_final(), UNDER_WAY)
    (zombie,) = bench.runs()
    assert zombie.state.name == "Crashed"
    assert "no heartbeat for 40 s" in zombie.state.message
    assert len(bench.epochs()) == trained < EPOCHS
    # Its slot is free: the pool takes one run at a time.
    bench.finishes_from_where_it_was(repeated=1)
    with bench.server.client() as client:
        for one in [one for name in names for one in client.read_automations_by_name(name)]:
            client.delete_automation(one.id)


def test_killed_after_the_upload_before_saying_so(made: Toy, tmp_path: Path, prefect_server: LocalPrefect) -> None:
    toy = made.copy(tmp_path / "toy")
    toy.run("-m", "dvc", "remote", "add", "-d", "store", str(tmp_path / "store"))
    toy.set(fine_tune={"value": 55, "epochs": EPOCHS})
    toy.commit("Add the remote")
    hop = Hop(prefect_server, toy, tmp_path)
    (tmp_path / "dies.py").write_text(
        "import os, signal\nfrom flows import fine_tune as module\n"
        "module.Artifact = lambda **_: os.kill(os.getpid(), signal.SIGKILL)\nfine_tune = module.fine_tune\n"
    )
    prefect_server.deploy("fine-tune/gpu", directory=hop.clone, entrypoint=f"{tmp_path}/dies.py:fine_tune")
    worker = hop.worker()
    try:
        code, said, ended = hop.pipeline()
        assert (code, ended["fine_tune"]) == (5, "Failed"), said
        assert worker_runs(prefect_server)[0].state.name == "Crashed"
        assert hop.ran_there() == ["fine_tune"]
        lock = toy.lock()
        deploy_worker(prefect_server, hop.clone)
        code, said, ended = hop.pipeline()
        assert (code, ended["fine_tune"]) == (0, "Restored"), said
        # Trained once, taken over once.
        assert hop.ran_there() == ["fine_tune"]
        assert "fine_tune" not in toy.ran("start")
        assert toy.lock() != lock
        assert f"trained to {trained_to(EPOCHS)}" in toy.out("fine_tune")
        assert toy.repro() == []
    finally:
        prefect_server.kill_machine(worker)
        prefect_server.forget_workers("gpu")


def test_a_far_machine_dies_mid_epoch_and_goes_on_where_it_was(
    made: Toy, tmp_path: Path, prefect_server: LocalPrefect
) -> None:
    toy = made.copy(tmp_path / "toy")
    toy.run("-m", "dvc", "remote", "add", "-d", "store", str(tmp_path / "store"))
    toy.set(fine_tune={"value": 56, "epochs": EPOCHS, "sleep": EPOCHS / 2})
    toy.commit("Add the remote")
    hop = Hop(prefect_server, toy, tmp_path)
    deploy_worker(prefect_server, hop.clone, QUICK_BEATS)
    worker = hop.worker()
    away = ("--gpu-pool", "gpu", "--gpu-remote", "store")
    with controller(prefect_server, toy, *away, module="tests.flows.quick_beats") as process:
        wait_until(lambda: len(hop.ran_there("epoch")) >= 3, UNDER_WAY)
        prefect_server.kill_machine(worker)
        # No automation is needed: the controller itself hears that the run has fallen silent.
        code, said = ended(process, UNDER_WAY)
    assert code == 5, said
    assert "no heartbeat from the run" in said
    assert worker_runs(prefect_server)[0].state.name == "Crashed"
    assert len(hop.ran_there("epoch")) < EPOCHS
    worker = hop.worker()
    try:
        code, said, states = hop.pipeline()
        assert (code, states["fine_tune"]) == (0, "Completed"), said
        assert len(hop.ran_there("epoch")) <= EPOCHS + 1
        assert f"trained to {trained_to(EPOCHS)}" in toy.out("fine_tune")
        assert toy.repro() == []
    finally:
        prefect_server.kill_machine(worker)
        prefect_server.forget_workers("gpu")


def test_the_controller_is_killed_and_its_successor_joins(bench: Bench) -> None:
    bench.worker()
    with bench.controller() as process:
        wait_until(lambda: len(bench.epochs()) >= 2, UNDER_WAY)
        process.kill()
        process.communicate()
    code, said, states = pipeline(bench.server, bench.toy, "--gpu-pool", "gpu")
    assert code == 0, said
    assert states["fine_tune"] in ("Completed", "Unchanged")
    assert len(bench.runs()) == 1
    assert bench.epochs() == list(range(1, EPOCHS + 1))


@contextmanager
def locked(database: Path) -> Iterator[None]:
    """SQLite's write lock, held as a backup or somebody's shell may hold it."""
    with closing(sqlite3.connect(database, timeout=30, isolation_level=None)) as held:
        held.execute("BEGIN IMMEDIATE")
        yield
        held.execute("ROLLBACK")


def test_the_server_is_killed_and_comes_back_and_its_database_is_locked(made: Toy, tmp_path: Path) -> None:
    toy = made.copy(tmp_path / "toy")
    with LocalPrefect(tmp_path / "prefect") as server:
        server.create_pool("gpu", limit=1)
        bench = Bench(server, toy, value=77)
        bench.worker()
        with bench.controller() as process:
            wait_until(lambda: len(bench.epochs()) >= 2, UNDER_WAY)
            server.kill()
            time.sleep(2)
            server.start()
            with locked(tmp_path / "prefect/prefect.db"):
                time.sleep(15)  # longer than the server waits for its database
                assert not bench.runs()[0].state.is_final()
            assert "database is locked" in server.log("server")
            code, said = ended(process, UNDER_WAY)
        assert code == 0, said
        wait_until(lambda: bench.runs()[0].state.is_completed(), UNDER_WAY)
        assert bench.epochs() == list(range(1, EPOCHS + 1))
        assert toy.repro() == []


@pytest.fixture
def cpu_worker(bench: Bench, prefect_server: LocalPrefect) -> Iterator[Any]:
    """The pipeline as a deployment as well: two pools, two workers."""
    prefect_server.deploy(
        "pipeline/on-demand", directory=bench.toy.folder, entrypoint=f"{ROOT}/flows/pipeline.py:pipeline"
    )
    journal = {"TOY_JOURNAL": str(bench.toy.journal)}
    worker = prefect_server.worker("cpu", "cpu-1", cwd=bench.toy.folder, env=journal)
    yield worker
    prefect_server.kill_machine(worker)
    prefect_server.forget_workers("cpu")


@pytest.mark.usefixtures("cpu_worker")
def test_cancelling_the_pipeline_ends_the_training_too(bench: Bench) -> None:
    bench.worker()
    run = bench.server.run("pipeline/on-demand")
    wait_until(lambda: len(bench.epochs()) >= 2, UNDER_WAY)
    stage = next(entry["pid"] for entry in bench.toy.entries() if entry["stage"] == "fine_tune")
    bench.server.cancel(run)
    began = time.monotonic()
    wait_until(lambda: not psutil.pid_exists(stage), 30)
    wait_until(lambda: bench.server.read(run).state.name == "Cancelled", 30)
    wait_until(lambda: bench.runs()[0].state.name == "Cancelled", 30)
    assert time.monotonic() - began < 30
    assert bench.runs()[0].parent_task_run_id is not None
    # Through both pools, to the end.
    run = bench.server.run("pipeline/on-demand")
    bench.server.wait_for_state(run, {"Completed"}, UNDER_WAY)
    assert len(bench.epochs()) <= EPOCHS + 1
    assert bench.toy.repro() == []


def test_twenty_triggers_at_once_on_one_checkout(made: Toy, tmp_path: Path, prefect_server: LocalPrefect) -> None:
    toy = made.copy(tmp_path / "toy")
    toy.set(split={"value": 4, "sleep": 0.3})
    toy.commit("Make it stale")
    # No limit on the deployment: four run at once, and only the checkout's own lock is between them.
    # (All twenty at once on two cores are too much for Prefect's SQLite database, which begins to refuse writes.)
    prefect_server.deploy("pipeline/at-once", directory=toy.folder, pool="cpu",
                          entrypoint=f"{ROOT}/flows/pipeline.py:pipeline")  # fmt: skip
    # All twenty wait when the worker comes: the server opens a transaction that creates a run by reading, and SQLite
    # refuses the write after it if anybody has written in between, however long it may wait for a lock.
    plain = [prefect_server.run("pipeline/at-once") for _ in range(10)]
    aside = [prefect_server.run("pipeline/at-once", overrides={"export.value": 1 + number % 5}) for number in range(10)]
    # It polls as often as with `make up`: a poll is a write, too.
    journal = {"TOY_JOURNAL": str(toy.journal)}
    worker = prefect_server.worker("cpu", "cpu-20", cwd=toy.folder, limit=4, env=journal, query_seconds=2)
    names = [prefect_server.wait_for_state(run, {"Completed", "Unchanged"}, 900).state.name for run in plain + aside]
    assert names[:10].count("Completed") == 1
    assert names[:10].count("Unchanged") == 9
    # No update was lost: the five side results are five commits, each whole; the checkout is as one run left it.
    assert len(toy.git("branch", "--list", "graft/*").split()) == 5
    assert toy.repro() == []
    ran = [(entry["stage"], entry["value"]) for entry in toy.entries() if entry["what"] == "end"]
    assert sorted(ran) == sorted(
        [("split", 4), *((stage, 0) for stage in STAGES[3:]), *(("export", number) for number in range(1, 6))]
    )
    # One writer at a time: no two stages overlap.
    spans: dict[int, list[float]] = {}
    for entry in toy.entries():
        spans.setdefault(entry["pid"], []).append(entry["at"])
    ordered = sorted((min(times), max(times)) for times in spans.values())
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(ordered))
    prefect_server.kill_machine(worker)
    prefect_server.forget_workers("cpu")
