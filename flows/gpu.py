"""The hop: a stage marked `resource: gpu` runs on a worker of the GPU pool, and its result is taken over here.

This is the sending side, flows/fine_tune.py the receiving one. Nothing waits for ever: the pool is looked
at first and while waiting, and each state a run can hang in has its deadline.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
import uuid
from dataclasses import dataclass
from typing import Any

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterKey,
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.logging import get_run_logger
from prefect.states import Cancelling, Crashed

from flows import checkout, fence, git, heartbeat
from flows.dvc_door import Outcome, StageFailed
from flows.faults import NotIntact, NoWorker, Refused, WrongRequest
from flows.liveness import RunAlive, WorkersAlive
from flows.run import GpuPool, Run, exit_code

DEPLOYMENT = "fine-tune/gpu"
RESULT = "stage-result"
ACTIVE = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]


@dataclass(frozen=True)
class Deadlines:
    """Seconds. `claim` counts while the pool has a free slot, `start` from the claim to the first line of the flow."""

    poll: float = 1.0
    claim: float = 25.0
    start: float = heartbeat.BEGINNING.total_seconds()
    queue: float = 24 * 3600.0
    run: float = 7 * 24 * 3600.0
    unreachable: float = 300.0


DEADLINES = Deadlines()


def belongs_on_a_worker(run: Run, stage: str) -> bool:
    """Whether to send the stage away: it asks for a GPU, a pool was named, and DVC cannot simply restore it."""
    return run.gpu is not None and run.door.resource(stage) == "gpu" and (run.force or not run.door.restorable(stage))


def run_on_worker(run: Run, stage: str) -> tuple[Outcome, str]:
    """Have a worker run the stage; returns how it ended and a sentence on where.

    A worker run for the very same inputs that is still going (its controller died) is joined, not
    doubled; one that completed is taken over. Raises NoWorker, Refused, NotIntact, WrongRequest, StageFailed.
    """
    assert run.gpu is not None
    try:
        with get_client(sync_client=True) as client:
            return _run_on_worker(client, run, run.gpu, stage)
    except httpx.HTTPError as error:
        raise Refused(f"{stage}: Prefect's API failed: {error}; look at the server, then run again") from None
    except ObjectNotFound:
        raise Refused(f"{stage}: its worker run was deleted from Prefect's server; run again") from None


def _run_on_worker(client: SyncPrefectClient, run: Run, pool: GpuPool, stage: str) -> tuple[Outcome, str]:
    log, root = get_run_logger(), run.door.root
    _refuse_early(client, pool, stage)
    parameters: dict[str, Any] = {"stage": stage, "force": run.force}
    if pool.remote is None:
        parameters["shared_checkout"] = {"folder": str(root), "identity": checkout.identity(root)}
        place = checkout.identity(root)
    else:
        place = run.door.remote_address(pool.remote)
        parameters["hop"] = _pack(run, stage, pool.remote)
    # Of the same inputs in another checkout or remote, nothing would arrive here.
    what = hashlib.sha256(f"{run.door.inputs_key(stage)} {pool.name} {place}".encode()).hexdigest()
    key = f"{stage}:{what[:32]}"
    # A forced run is a new one by definition.
    former = None if run.force else _former(client, key)
    given_up = former is not None and fence.GIVEN_UP in former.tags
    takable = pool.remote and not given_up
    if former and former.state and (not former.state.is_final() or (former.state.is_completed() and takable)):
        log.info("%s: joining worker run %s, which has the same inputs", stage, former.name)
        try:
            state = _wait(client, pool, stage, former)
        except NoWorker:
            # It would stand in line for ever; any other waiter is told the same.
            _give_up(client, former)
            raise
        if state.is_completed():
            try:
                outcome, where = _take_over(client, run, stage, pool, former)
                return ("Restored" if former.state.is_completed() else outcome), where
            except NotIntact as failure:
                log.warning("%s: that run's result cannot be had any more: %s", stage, failure)
        elif state.is_failed():
            raise _failure(stage, pool, former, state)
        else:
            log.warning("%s: that run ended %s; starting another", stage, state.name)
    started = run_deployment(
        DEPLOYMENT,
        parameters=parameters,
        timeout=0,
        tags=[key],
        flow_run_name=f"{stage} {uuid.uuid4().hex[:6]}",
        idempotency_key=f"{key}:{uuid.uuid4().hex if run.force else former.id if former else 'first'}",
    )
    assert isinstance(started, FlowRun)
    log.info("%s: sent to work pool %s as flow run %s", stage, pool.name, started.name)
    try:
        state = _wait(client, pool, stage, started)
    except BaseException:
        # Whatever ends the waiting must not leave the worker training for nobody.
        _give_up(client, started)
        raise
    if not state.is_completed():
        raise _failure(stage, pool, started, state)
    return _take_over(client, run, stage, pool, started)


def _give_up(client: SyncPrefectClient, started: FlowRun) -> None:
    """Cancel a worker run that nobody waits for any more; a server that does not answer is for others to report."""
    with contextlib.suppress(httpx.HTTPError, ObjectNotFound):
        _set_state(client, started, Cancelling(message="the pipeline run that waited for it has ended"))


def _failure(stage: str, pool: GpuPool, ended: FlowRun, state: State[Any]) -> StageFailed:
    """The error for a worker run that did not complete: the stage's own exit code where it had one."""
    told = f"on work pool {pool.name}, flow run {ended.name}, {state.name}: {state.message or 'no message'}"
    return StageFailed(stage, exit_code(state) if state.is_failed() else 5, [told])


def _take_over(client: SyncPrefectClient, run: Run, stage: str, pool: GpuPool, ended: FlowRun) -> tuple[Outcome, str]:
    """Bring a completed worker run's outputs here, without running anything."""
    result = _result(client, ended)
    if pool.remote is not None:
        run.door.accept(stage, result["entry"], pool.remote)
    left = run.door.stale(stage)
    if left:
        raise NotIntact(f"{stage} ran on {result['host']}, but is still stale here ({'; '.join(left[:5])}); run again")
    return result["outcome"], f"on {result['host']}, {result['device'] or 'device not recorded'}"


def _refuse_early(client: SyncPrefectClient, pool: GpuPool, stage: str) -> None:
    """Raise before anything is created where the stage could not run: deployment, pool, worker."""
    try:
        deployment = client.read_deployment_by_name(DEPLOYMENT)
    except ObjectNotFound:
        raise NoWorker(
            f"{stage} needs the deployment {DEPLOYMENT}, which does not exist; run `prefect deploy --all`"
        ) from None
    if deployment.work_pool_name != pool.name:
        raise NoWorker(
            f"{stage} was to run on work pool {pool.name!r}, but {DEPLOYMENT} is deployed to "
            f"{deployment.work_pool_name!r}; change gpu_pool, or prefect.yaml and deploy again"
        )
    if deployment.paused:
        raise NoWorker(f"{DEPLOYMENT} is paused; resume it: prefect deployment schedule resume, or in the UI")
    why = _not_ready(client, pool)
    if why:
        raise NoWorker(f"{stage}: {why}")


def _not_ready(client: SyncPrefectClient, pool: GpuPool) -> str | None:
    """Why the pool cannot take a run, or None."""
    try:
        found = client.read_work_pool(pool.name)
    except ObjectNotFound:
        return f"there is no work pool {pool.name!r}; prefect work-pool create {pool.name} --type process"
    if found.is_paused:
        return f"work pool {pool.name!r} is paused; prefect work-pool resume {pool.name}"
    workers = client.read_workers_for_work_pool(pool.name)
    if not any(worker.status == "ONLINE" for worker in workers):
        known = ", ".join(worker.name for worker in workers) or "none"
        return (
            f"work pool {pool.name!r} has no worker online (known: {known}); on the GPU machine: "
            f"GRAFT_CHECKOUT=$PWD prefect worker start --pool {pool.name}, in its clone of the project"
        )
    return None


def _wait(client: SyncPrefectClient, pool: GpuPool, stage: str, started: FlowRun) -> State[Any]:
    """Poll until the run is final. Raises NoWorker or StageFailed where a state outlasts its deadline."""
    log, began = get_run_logger(), time.monotonic()
    workers, pulse = WorkersAlive(pool.name), RunAlive(started.id)
    since, last, reached = began, "", began
    free_since: float | None = None
    while True:
        now = time.monotonic()
        try:
            state = client.read_flow_run(started.id).state
            assert state is not None
            reached = now
            if state.is_final():
                return state
            if str(state.name) != last:
                log.info("%s: flow run %s is %s", stage, started.name, state.name)
                last, since = str(state.name), now
            if state.is_scheduled():
                busy = _active(client, pool) if not _not_ready(client, pool) else 0
                free_since = None if busy else free_since or now
                why = workers.silent(client, now) or _not_ready(client, pool)
                if why and now - (free_since or now) >= min(5.0, DEADLINES.claim):
                    raise NoWorker(f"{stage}: {why}")
                if free_since and now - free_since > DEADLINES.claim:
                    raise NoWorker(
                        f"{stage}: no worker of pool {pool.name!r} took it within {DEADLINES.claim:g} s though the "
                        "pool is free; has it just stopped, or does it listen to another queue?"
                    )
                if now - began > DEADLINES.queue:
                    raise NoWorker(
                        f"{stage}: waited {DEADLINES.queue / 3600:g} h behind other runs of pool {pool.name!r}"
                    )
            elif state.is_pending():
                dead = workers.silent(client, now)
                if dead or now - since > DEADLINES.start:
                    why = dead or f"not started within {DEADLINES.start:g} s"
                    _set_state(client, started, Crashed(message=f"claimed, but never started: {why}"))
            elif state.is_running():
                # The automations do the same; here it does not depend on their being set up. A dead worker alone
                # says nothing: its runs go on.
                if pulse.silent(client, now):
                    _set_state(client, started, Crashed(message="no heartbeat from the run: its machine died"))
                elif now - since > DEADLINES.run:
                    told = f"flow run {started.name} ran for {DEADLINES.run / 3600:g} h; cancelled"
                    raise StageFailed(stage, 5, [told])
        except httpx.HTTPError as error:
            # Nobody could be heard meanwhile: silence counts anew.
            workers, pulse = WorkersAlive(pool.name), RunAlive(started.id)
            if now - reached > DEADLINES.unreachable:
                raise Refused(
                    f"{stage}: Prefect's API has not answered for {DEADLINES.unreachable:g} s: {error}"
                ) from None
        time.sleep(DEADLINES.poll)


def _pack(run: Run, stage: str, remote: str) -> dict[str, str]:
    """What a clone needs to run the stage as it would run here; its inputs are in the remote when this returns."""
    inputs, tracked = run.door.dependencies(stage)
    # The commit must say it all: what is not in it cannot be checked out over there.
    changed = git.changed_files(run.door.root, ["dvc.yaml", ".dvc/config", *tracked])
    if changed:
        raise WrongRequest(
            f"{stage} is to run in another clone, but {', '.join(changed[:5])} differ from the last commit; "
            "commit and push"
        )
    uploaded = run.door.push(inputs, remote)
    get_run_logger().info("%s: inputs are in the remote %s (%d new objects)", stage, remote, uploaded)
    return {
        "commit": git.commit_of(run.door.root, "HEAD"),
        "params": (run.door.root / "params.yaml").read_text(),
        "lock": run.door.lock_text(),
        "remote": remote,
        "sender": checkout.identity(run.root),
    }


def _former(client: SyncPrefectClient, key: str) -> FlowRun | None:
    """The newest worker run for the same inputs, whatever became of it."""
    runs = client.read_flow_runs(
        flow_run_filter=FlowRunFilter(tags=FlowRunFilterTags(all_=[key])),
        sort=FlowRunSort.EXPECTED_START_TIME_DESC,
        limit=1,
    )
    return runs[0] if runs else None


def _active(client: SyncPrefectClient, pool: GpuPool) -> int:
    """How many runs the pool's workers have in hand."""
    return len(
        client.read_flow_runs(
            flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=ACTIVE))),
            work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[pool.name])),
        )
    )


def _result(client: SyncPrefectClient, started: FlowRun) -> dict[str, Any]:
    """What the worker's run left as its artifact. Raises NotIntact where there is none."""
    import json

    found = client.read_artifacts(
        artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[RESULT])),
        flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[started.id])),
    )
    if not found:
        raise NotIntact(f"flow run {started.name} completed without saying what it made")
    data = found[-1].data
    return dict(json.loads(data) if isinstance(data, str) else data or {})


def _set_state(client: SyncPrefectClient, started: FlowRun, state: State[Any]) -> None:
    """Move the worker's run to a state; one that has ended keeps its own."""
    found = client.read_flow_run(started.id)
    now = found.state
    if now is not None and not now.is_final():
        fence.give_up(client, found)
        # A run that nobody has claimed has no process to stop.
        force = now.is_scheduled() or state.is_crashed()
        end = State(type=StateType.CANCELLED, name="Cancelled", message=state.message) if now.is_scheduled() else state
        client.set_flow_run_state(started.id, end, force=force)
