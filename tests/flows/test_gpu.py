"""The hop to the GPU pool, with a real server and real worker processes, in both layouts."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.client.schemas.objects import FlowRun

from flows.dvc_door import Door
from flows.faults import NotIntact
from tests.flows.local_prefect import LocalPrefect
from tests.flows.toy import STAGES, Toy

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


def controller(
    server: LocalPrefect, toy: Toy, *arguments: str, module: str = "flows.pipeline"
) -> subprocess.Popen[str]:
    """`python -m flows.pipeline` on that server."""
    environment = {**server.environment, "TOY_JOURNAL": str(toy.journal), "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=toy.folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def pipeline(server: LocalPrefect, toy: Toy, *arguments: str) -> tuple[int, str, dict[str, str]]:
    """Run the controller to its end; exit code, its log, and the state each task ended in."""
    with controller(server, toy, *arguments) as process:
        said, _ = process.communicate(timeout=600)
    ended = dict(re.findall(r"Task run '(\w+)' - Finished in state (\w+)\(", said))
    return process.returncode, said, ended


def worker_runs(server: LocalPrefect) -> list[FlowRun]:
    """The runs of fine-tune/gpu, newest first."""
    from prefect.client.schemas.filters import FlowFilter, FlowFilterName
    from prefect.client.schemas.sorting import FlowRunSort

    with server.client() as client:
        return client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(any_=["fine-tune"])), sort=FlowRunSort.EXPECTED_START_TIME_DESC
        )


def deploy_worker(server: LocalPrefect, folder: Path, module: str = "flows/fine_tune.py") -> None:
    """fine-tune/gpu, its runs working in `folder`."""
    server.deploy("fine-tune/gpu", directory=folder, entrypoint=f"{ROOT}/{module}:fine_tune")


# One shared checkout


@pytest.fixture
def shared(made: Toy, tmp_path: Path, prefect_server: LocalPrefect) -> Iterator[Toy]:
    """A checkout that both the pipeline and the GPU worker work in; no worker runs yet."""
    toy = made.copy(tmp_path / "toy")
    deploy_worker(prefect_server, toy.folder)
    yield toy
    prefect_server.pause_pool("gpu", paused=False)


@pytest.fixture
def gpu_worker(shared: Toy, prefect_server: LocalPrefect) -> Iterator[None]:
    worker = prefect_server.worker("gpu", "gpu-1", cwd=shared.folder, env={"TOY_JOURNAL": str(shared.journal)})
    yield
    prefect_server.kill_machine(worker)
    prefect_server.forget_workers("gpu")


def wait_until(true: Any, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.1)


@pytest.mark.usefixtures("gpu_worker")
def test_the_marked_stage_runs_on_the_pool_and_nothing_else(shared: Toy, prefect_server: LocalPrefect) -> None:
    before = len(worker_runs(prefect_server))
    shared.set(split={"value": 3}, fine_tune={"epochs": 2})
    code, said, ended = pipeline(prefect_server, shared, "--gpu-pool", "gpu")
    assert code == 0, said
    assert [ended[stage] for stage in STAGES] == ["Unchanged", "Unchanged", *["Completed"] * 5]
    assert shared.ran() == list(STAGES[2:])
    runs = worker_runs(prefect_server)
    assert len(runs) == before + 1, said
    assert (runs[0].work_pool_name, runs[0].state.name) == ("gpu", "Completed")
    assert runs[0].parent_task_run_id is not None
    assert prefect_server.wait_for_log(runs[0].id, "fine_tune: 50 % epoch 1 of 2", 60)
    lock = shared.lock()
    # The very lock that `dvc repro` alone writes.
    assert shared.repro("--force") == list(STAGES)
    assert shared.lock() == lock
    # Nothing changed: no worker run is made.
    code, said, ended = pipeline(prefect_server, shared, "--gpu-pool", "gpu")
    assert (code, set(ended.values())) == (0, {"Unchanged"})
    assert len(worker_runs(prefect_server)) == before + 1


@pytest.mark.usefixtures("gpu_worker")
def test_a_stage_that_fails_there_fails_here_with_its_code_and_lines(shared: Toy, prefect_server: LocalPrefect) -> None:
    shared.set(fine_tune={"exit": 3})
    code, said, ended = pipeline(prefect_server, shared, "--gpu-pool", "gpu")
    assert code == 3, said
    assert "the toy was told to fail" in said
    assert [ended[stage] for stage in STAGES[4:]] == ["Failed", "NotRun", "NotRun"]


def test_unchanged_or_restorable_needs_no_worker(shared: Toy, prefect_server: LocalPrefect) -> None:
    before = len(worker_runs(prefect_server))
    assert prefect_server.online("gpu") == []
    code, said, ended = pipeline(prefect_server, shared, "--gpu-pool", "gpu")
    assert (code, set(ended.values())) == (0, {"Unchanged"}), said
    shared.set(fine_tune={"value": 8})
    shared.repro()
    shared.set(fine_tune={"value": 0})
    code, said, ended = pipeline(prefect_server, shared, "--gpu-pool", "gpu")
    assert (code, ended["fine_tune"]) == (0, "Restored"), said
    assert len(worker_runs(prefect_server)) == before


def test_no_worker_paused_pool_wrong_pool_are_refused_at_once(shared: Toy, prefect_server: LocalPrefect) -> None:
    before = len(worker_runs(prefect_server))
    shared.set(fine_tune={"value": 1})
    began = time.monotonic()
    code, said, ended = pipeline(prefect_server, shared, "--gpu-pool", "gpu")
    assert (code, ended["fine_tune"], ended["evaluate"]) == (5, "NoWorker", "NotRun")
    assert "work pool 'gpu' has no worker online" in said
    prefect_server.pause_pool("gpu")
    code, said, ended = pipeline(prefect_server, shared, "--gpu-pool", "gpu")
    assert (code, ended["fine_tune"]) == (5, "NoWorker")
    assert "work pool 'gpu' is paused; prefect work-pool resume gpu" in said
    code, said, ended = pipeline(prefect_server, shared, "--gpu-pool", "gpus")
    assert (code, ended["fine_tune"]) == (5, "NoWorker")
    assert "'gpus'" in said
    # Three refusals, starting the flow on a busy machine included; the claim's deadline alone is 25 s.
    assert time.monotonic() - began < 180
    assert len(worker_runs(prefect_server)) == before


# A worker with a clone of its own


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """A real S3 API on loopback, with the bucket `data`; its address."""
    import boto3
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    address = f"http://{host}:{port}"
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
    boto3.client("s3", endpoint_url=address, **keys).create_bucket(Bucket="data")
    yield address
    server.stop()


def with_remote(toy: Toy, where: str, tmp_path: Path, s3: str) -> None:
    """Give the checkout the DVC remote `store`, on a folder or on S3, and commit that."""
    if where == "folder":
        toy.run("-m", "dvc", "remote", "add", "-d", "store", str(tmp_path / "store"))
    else:
        toy.run("-m", "dvc", "remote", "add", "-d", "store", f"s3://data/{tmp_path.name}")
        toy.run("-m", "dvc", "remote", "modify", "store", "endpointurl", s3)
        toy.run("-m", "dvc", "remote", "modify", "store", "access_key_id", "test")
        toy.run("-m", "dvc", "remote", "modify", "store", "secret_access_key", "test")
    toy.commit("Add the remote")


class Hop:
    """A controller's checkout, its origin, and a worker's older clone without any data."""

    def __init__(self, server: LocalPrefect, toy: Toy, tmp_path: Path) -> None:
        origin = tmp_path / "origin.git"
        toy.git("init", "-q", "--bare", str(origin))
        toy.git("remote", "add", "origin", str(origin))
        toy.git("push", "-q", "origin", "main")
        toy.git("clone", "-q", str(origin), str(tmp_path / "clone"))
        self.server, self.toy, self.clone = server, toy, tmp_path / "clone"
        self.there = tmp_path / "there.log"
        # The checkout moves on; the clone stays behind until a run tells it otherwise.
        toy.set(feature_extract={"value": 2})
        toy.repro("feature_extract")
        toy.commit("Second")
        toy.git("push", "-q", "origin", "main")
        deploy_worker(server, self.clone)

    def worker(self) -> subprocess.Popen[bytes]:
        return self.server.worker("gpu", "gpu-far", cwd=self.clone, env={"TOY_JOURNAL": str(self.there)})

    def ran_there(self, what: str = "end") -> list[str]:
        """What the worker's machine ran."""
        import json

        lines = self.there.read_text().splitlines() if self.there.exists() else []
        return [entry["stage"] for entry in map(json.loads, lines) if entry["what"] == what]

    def pipeline(self) -> tuple[int, str, dict[str, str]]:
        return pipeline(self.server, self.toy, "--gpu-pool", "gpu", "--gpu-remote", "store")


@pytest.mark.parametrize("where", ["folder", "s3"])
def test_a_worker_with_its_own_clone_trains_and_the_controller_never_does(
    where: str, made: Toy, tmp_path: Path, prefect_server: LocalPrefect, s3: str
) -> None:
    toy = made.copy(tmp_path / "toy")
    with_remote(toy, where, tmp_path, s3)
    hop = Hop(prefect_server, toy, tmp_path)
    toy.forget()
    worker = hop.worker()
    try:
        code, said, ended = hop.pipeline()
        assert code == 0, said
        assert [ended[stage] for stage in STAGES] == [*["Unchanged"] * 4, *["Completed"] * 3]
        assert hop.ran_there() == ["fine_tune"]
        assert toy.ran() == ["evaluate", "export"]
        # The clone is at the controller's commit and holds exactly the inputs.
        assert (hop.clone / "data" / "feature_extract" / "out.txt").read_text() == toy.out("feature_extract")
        assert not (hop.clone / "data" / "download").exists()
        assert "feature_extract 2\nfine_tune 0" in toy.out("export")
        # The same lock as `dvc repro` alone writes, and nothing left to do.
        lock = toy.lock()
        assert toy.repro() == []
        assert toy.repro("--force", "-s", "fine_tune") == ["fine_tune"]
        assert toy.lock() == lock
        # Again with another parameter, uncommitted: params.yaml travels as text; stale inputs over there are replaced.
        toy.set(fine_tune={"value": 5}, feature_extract={"value": 6})
        toy.forget()
        code, said, ended = hop.pipeline()
        assert code == 0, said
        assert toy.ran() == ["feature_extract", "evaluate", "export"]
        assert hop.ran_there() == ["fine_tune", "fine_tune"]
        assert "feature_extract 6\nfine_tune 5" in toy.out("fine_tune")
        if where == "s3":
            return  # what follows does not depend on the kind of remote
        # Code that is not committed cannot be checked out over there.
        (toy.folder / "stage.py").write_text((toy.folder / "stage.py").read_text() + "\n# edited\n")
        code, said, ended = hop.pipeline()
        assert (code, ended["fine_tune"]) == (2, "Refused")
        assert "stage.py differ from the last commit" in said
        assert hop.ran_there() == ["fine_tune", "fine_tune"]
        toy.git("checkout", "-q", "stage.py")
        # A side run takes the same way; asked for again, it needs no worker.
        for _ in range(2):
            code, said, ended = pipeline(
                hop.server, toy, "--gpu-pool", "gpu", "--gpu-remote", "store", "-S", "fine_tune.value=4"
            )
            assert code == 0, said
            assert hop.ran_there() == ["fine_tune"] * 3
        assert ended["fine_tune"] == "Restored"
        # The clone is left alone where somebody works in it, and not stuck where its HEAD has no dvc.lock.
        hop_params = hop.clone / "params.yaml"
        mine = hop_params.read_text() + "# mine\n"
        hop_params.write_text(mine)
        toy.set(fine_tune={"value": 6})
        code, said, ended = hop.pipeline()
        assert (code, ended["fine_tune"]) == (2, "Failed"), said
        assert "params.yaml" in said
        assert hop_params.read_text() == mine
        subprocess.run(["git", "checkout", "-q", "params.yaml"], cwd=hop.clone, check=True)
        code, said, ended = hop.pipeline()
        assert (code, ended["fine_tune"]) == (0, "Completed"), said
    finally:
        prefect_server.kill_machine(worker)
        prefect_server.forget_workers("gpu")


def test_a_remote_that_cannot_be_reached_is_named(made: Toy, tmp_path: Path, prefect_server: LocalPrefect) -> None:
    toy = made.copy(tmp_path / "toy")
    deploy_worker(prefect_server, toy.folder)
    worker = prefect_server.worker("gpu", "gpu-1", cwd=toy.folder)
    try:
        toy.set(fine_tune={"value": 1})
        code, said, ended = pipeline(prefect_server, toy, "--gpu-pool", "gpu", "--gpu-remote", "nowhere")
        assert (code, ended["fine_tune"]) == (2, "Refused")
        assert "remote 'nowhere'" in said
    finally:
        prefect_server.kill_machine(worker)
        prefect_server.forget_workers("gpu")


@pytest.mark.usefixtures("gpu_worker")
def test_a_worker_in_the_senders_own_checkout_refuses_at_once(
    shared: Toy, tmp_path: Path, prefect_server: LocalPrefect
) -> None:
    shared.run("-m", "dvc", "remote", "add", "-d", "store", str(tmp_path / "store"))
    shared.set(fine_tune={"value": 2})
    shared.commit("Add the remote")
    code, said, ended = pipeline(prefect_server, shared, "--gpu-pool", "gpu", "--gpu-remote", "store")
    assert (code, ended["fine_tune"]) == (2, "Failed"), said
    assert "this worker works in the sender's own checkout" in said
    assert shared.ran("start") == []


def test_a_clone_under_the_same_path_is_not_the_shared_checkout(shared: Toy, prefect_server: LocalPrefect) -> None:
    """As on another machine: a dvc.yaml is there, but it is not the sender's checkout."""
    worker = prefect_server.worker("gpu", "gpu-1", cwd=shared.folder)
    with prefect_server.client() as client:
        deployment = client.read_deployment_by_name("fine-tune/gpu")
        asked = {"shared_checkout": {"folder": str(shared.folder), "identity": f"other {shared.folder}"}}
        run = client.create_flow_run_from_deployment(deployment.id, parameters=asked).id
    try:
        ended = prefect_server.wait_for_state(run, {"Refused"}, 180)
    finally:
        prefect_server.kill_machine(worker)
        prefect_server.forget_workers("gpu")
    assert "does not see the checkout" in str(ended.state.message)
    assert shared.ran("start") == []


def test_a_result_made_from_other_inputs_is_not_taken_over(made: Toy, tmp_path: Path) -> None:
    toy = made.copy(tmp_path / "toy")
    toy.run("-m", "dvc", "remote", "add", "-d", "store", str(tmp_path / "store"))
    other = toy.copy(tmp_path / "other")
    other.set(split={"value": 9})
    other.repro()
    toy.set(fine_tune={"value": 1})
    lock = toy.lock()
    with Door(other.folder) as door:
        entry = door.lock_entry("fine_tune")
        door.push(["fine_tune"], "store")
    with Door(toy.folder) as door:
        with pytest.raises(NotIntact, match="made from other inputs"):
            door.accept("fine_tune", entry, "store")
        assert toy.lock() == lock
        # Nor one whose bytes are not in the remote.
        entry = {**door.lock_entry("fine_tune"), "params": {"params.yaml": {"fine_tune": {"value": 1}}}}
        entry["outs"] = [{**entry["outs"][0], "md5": "0" * 32 + ".dir"}]
        with pytest.raises(NotIntact, match="did not arrive whole"):
            door.accept("fine_tune", entry, "store")
    assert toy.lock() == lock
    # Nor one whose bytes were changed in the remote: DVC by itself believes an object's name.
    third = toy.copy(tmp_path / "third")
    third.repro()
    with Door(third.folder) as door:
        door.push(["fine_tune"], "store")
        entry = door.lock_entry("fine_tune")
    for name in (tmp_path / "store").rglob("*"):
        if name.is_file() and b"fine_tune 1" in name.read_bytes():
            name.chmod(0o644)
            name.write_bytes(name.read_bytes().replace(b"fine_tune 1", b"fine_tune 7"))
    with Door(toy.folder) as door, pytest.raises(NotIntact, match="did not arrive whole"):
        door.accept("fine_tune", entry, "store")
    assert toy.lock() == lock
