"""READ FIRST. The flow `pipeline`: seven stages in order, each re-run only where DVC finds it stale.

Run here       make flow, or python -m flows.pipeline --help   (no server needed)
Run deployed   prefect deployment run pipeline/on-demand       (see prefect.yaml, docs/operations.md)
Without any of this, `dvc repro` does the same work and writes the same dvc.lock.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.states import Failed
from pydantic import Field

from flows import artifacts, checkout, heartbeat, listing, promotion
from flows.dvc_door import Door
from flows.faults import Refused
from flows.redact import redact
from flows.run import STAGES, GpuPool, Run
from flows.stage_task import stage_task

Stage = Literal["download", "validate", "split", "feature_extract", "fine_tune", "evaluate", "export"]

download = stage_task("download")
validate = stage_task("validate")
split = stage_task("split")
feature_extract = stage_task("feature_extract")
fine_tune = stage_task("fine_tune")
evaluate = stage_task("evaluate")
export = stage_task("export")


@flow(name="pipeline", description="From labelled images to an exported classifier; only changed stages run.")
def pipeline(
    targets: list[Stage] | None = None,
    force: bool = False,
    overrides: dict[str, Any] | None = None,
    ref: str | None = None,
    wait: Annotated[float, Field(ge=0)] = 3600.0,
    gpu_pool: str | None = None,
    gpu_remote: str | None = None,
    promote: promotion.Mode = "off",
    verify: bool = False,
) -> State[Any]:
    """Run the pipeline on this checkout.

    Args:
        targets: stages to reach, with all they need; none means all seven.
        force: run them even where nothing changed.
        overrides: dotted keys of params.yaml and their values for this run, as
            {"fine_tune.tail.epochs": 12}. Such a run works beside the checkout and ends as a git
            branch graft/<name> that holds its params.yaml and dvc.lock.
        ref: branch, tag or commit to run instead of the checkout as it stands; also ends as a branch.
        wait: seconds to wait while another run holds the checkout; 0 refuses at once.
        gpu_pool: work pool for stages marked `resource: gpu` in dvc.yaml; none runs them here.
        gpu_remote: DVC remote that carries data to GPU workers with a clone of their own; none means
            that they share this checkout.
        promote: after export, "decide" shows whether the model should replace the champion, "promote" tags
            it, too, where it is committed (`graft promote`), as each run with `overrides` or `ref` is; neither
            fails the run.
        verify: hash every recorded output first, where DVC goes by inode, mtime and size; damage is replaced
            by a good copy or made again.
    """
    pool = GpuPool(gpu_pool, gpu_remote) if gpu_pool else None
    try:
        with (
            heartbeat.beating(),
            _opened(targets or STAGES, force, overrides or {}, ref, wait, pool, verify) as (run, tree),
        ):
            download(run)
            validate(run)
            split(run)
            feature_extract(run)
            fine_tune(run)
            evaluate(run)
            export(run)
            _keep(run, tree, overrides or {})
            promotion.after_export(run, promote, get_run_logger().info)
            return run.outcome()
    except Refused as refusal:
        return Failed(name=refusal.name, message=f"not run (exit {refusal.exit_code})\n{refusal}")


@contextmanager
def _opened(
    targets: Sequence[str],
    force: bool,
    overrides: dict[str, Any],
    ref: str | None,
    wait: float,
    pool: GpuPool | None,
    verify: bool,
) -> Iterator[tuple[Run, checkout.Tree]]:
    """Hold the checkout, choose the files to work on, show the plan; afterwards clear away what a side run needed."""
    root, log = Path.cwd(), get_run_logger()
    with (
        checkout.held(root, wait, f"flow run {flow_run.name}", log.info),
        checkout.tree_for(root, ref, overrides) as tree,
    ):
        if tree.branch:
            log.info("working in %s: commit %s with %s", tree.root, tree.commit[:12], _named(overrides))
        with Door(tree.root, wait) as door:
            # A tree of another commit is to show what that commit's own listing names.
            added = None if tree.branch else listing.take_in(door, log.info)
            for line in door.inspect().lines if verify else ():
                log.warning("%s", line)
            artifacts.show_plan(door, targets, force)
            run = Run(root, door, door.with_upstream(targets), force, pool, added)
            yield run, tree
        if tree.branch and not run.failed():
            checkout.clear(root, tree)


def _keep(run: Run, tree: checkout.Tree, overrides: dict[str, Any]) -> None:
    """Commit what a run beside the checkout made, on a branch of its own. The checkout's commits are its user's."""
    if tree.branch and not run.failed():
        branch, commit = checkout.keep(tree, f"Pipeline run {flow_run.name}: {_named(overrides)}")
        get_run_logger().info("kept as branch %s (%s): git switch %s && dvc checkout", branch, commit[:12], branch)


def _named(overrides: dict[str, Any]) -> str:
    return redact(f"{overrides or 'no overrides'}")


if __name__ == "__main__":
    from flows.command_line import main

    main(pipeline)
