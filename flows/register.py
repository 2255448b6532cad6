"""Make a Prefect server ready for graft: its work pools, the deployments of prefect.yaml, the heartbeat automations.

`python -m flows.register` does it on the server PREFECT_API_URL names; again changes nothing but what differs.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    WorkerFilter,
    WorkerFilterStatus,
)
from prefect.client.schemas.objects import StateType, WorkerStatus
from prefect.exceptions import ObjectAlreadyExists
from prefect.states import Crashed
from prefect.workers.process import ProcessWorker

from flows import heartbeat

ROOT = Path(__file__).resolve().parent.parent

# Prefect's own command, so that prefect.yaml means here what its documentation says.
DEPLOY = ("prefect", "--no-prompt", "deploy", "--all")

BEGUN = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]


def client() -> SyncPrefectClient:
    """A client of the server PREFECT_API_URL names."""
    return get_client(sync_client=True)


def pools(client: SyncPrefectClient, trainings: int) -> None:
    """Create the work pools. Of one that exists only the limit is changed, never its type or job template."""
    for name, limit in {"cpu": None, "gpu": trainings}.items():
        template = ProcessWorker.get_default_base_job_template()
        pool = WorkPoolCreate(name=name, type="process", base_job_template=template, concurrency_limit=limit)
        try:
            client.create_work_pool(pool)
        except ObjectAlreadyExists:
            if limit is not None:
                client.update_work_pool(name, WorkPoolUpdate(concurrency_limit=limit))


def automations(client: SyncPrefectClient) -> None:
    """Create the heartbeat automations, or bring them up to date."""
    heartbeat.ensure(client)


def online(client: SyncPrefectClient, pools: Iterable[str], since: datetime) -> set[str]:
    """The names of the pools' workers that are ONLINE and were heard from after `since`: not those that just ended."""
    alive = WorkerFilter(status=WorkerFilterStatus(any_=[WorkerStatus.ONLINE.value]))
    found = [one for pool in pools for one in client.read_workers_for_work_pool(pool, worker_filter=alive)]
    return {one.name for one in found if one.last_heartbeat_time and one.last_heartbeat_time > since}


def end_unfinished(client: SyncPrefectClient, why: str) -> None:
    """Crash every run that has begun and not ended: only for a server whose workers are all known to be gone."""
    begun = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=BEGUN)))
    for run in client.read_flow_runs(flow_run_filter=begun):
        client.set_flow_run_state(run.id, Crashed(message=why))


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m flows.register", description=__doc__)
    parser.add_argument(
        "--trainings", type=int, default=1, help="how many trainings may run at once: the GPU workers (1)"
    )
    parser.add_argument("--wait", type=float, default=0, help="seconds to wait for the server to answer (0)")
    options = parser.parse_args(arguments)
    if not os.environ.get("PREFECT_API_URL"):
        sys.stderr.write("set PREFECT_API_URL to the server's address, like http://127.0.0.1:4200/api\n")
        return 2
    with client() as server:
        deadline = time.monotonic() + options.wait
        while failure := server.api_healthcheck():
            if time.monotonic() > deadline:
                sys.stderr.write(f"no Prefect server answers at {server.api_url}: {failure}\n")
                return 5
            time.sleep(0.5)
        pools(server, options.trainings)
        automations(server)
    if subprocess.run([sys.executable, "-m", *DEPLOY], cwd=ROOT).returncode:
        sys.stderr.write("prefect deploy failed; its message is above\n")
        return 5
    return 0


if __name__ == "__main__":
    sys.exit(main())
