"""One task = one stage: unchanged, restored, run here or on a GPU worker, or failed, each a state people can read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger
from prefect.states import Cancelled, Completed, Failed

from flows import artifacts, gpu, listing
from flows.dvc_door import StageFailed
from flows.faults import Refused
from flows.run import Run
from flows.stage_here import run_here


def stage_task(stage: str) -> Callable[[Run], None]:
    """The Prefect task of a stage. Call it in the flow's own thread: only there do signals reach it.

    It ends as one of
        Unchanged   nothing it depends on changed (Completed)
        Restored    its outputs for these inputs were in DVC's cache (Completed)
        Completed   it ran
        Failed      with the stage's last lines; or Busy, NoWorker, NotIntact, Refused
        Skipped     not asked for (Completed)
        NotRun      a stage before it failed (Cancelled)
    Prefect's caching is off: whether to run is DVC's decision alone.
    """

    @task(name=stage, task_run_name=stage, cache_policy=NO_CACHE, retries=0)
    def body(run: Run) -> State[Any]:
        return _run(run, stage)

    def call(run: Run) -> None:
        run.ended[stage] = body(run, return_state=True)

    return call


def _run(run: Run, stage: str) -> State[Any]:
    if stage not in run.wanted:
        return Completed(name="Skipped", message="not a target, and no target needs it")
    failed = run.failed()
    if failed:
        # DVC would run it all the same, on whatever the failed stage left behind.
        return Cancelled(name="NotRun", message=f"{failed} did not succeed")
    log = get_run_logger()
    try:
        reasons = run.stale(stage)
        if stage == listing.STAGE and run.added is not None and not reasons and not run.force:
            return Completed(message=run.added)
        if not reasons and not run.force:
            return Completed(name="Unchanged", message="nothing it depends on changed")
        log.info("%s: %s", stage, "; ".join(reasons[:10]) or "forced")
        if gpu.belongs_on_a_worker(run, stage):
            how, message = gpu.run_on_worker(run, stage)
        else:
            how, message = run_here(run.door, stage, run.force), "; ".join(reasons[:10]) or "forced"
        return Completed(name=how, message=message)
    except StageFailed as failure:
        name = "Busy" if failure.exit_code == 6 else "Failed"
        return Failed(name=name, message=str(failure))
    except Refused as refusal:
        return Failed(name=refusal.name, message=f"{stage} failed (exit {refusal.exit_code})\n{refusal}")
    finally:
        # Also after a failure: a rejected data set's report is what people need to see.
        artifacts.show_after(stage, run.door)
