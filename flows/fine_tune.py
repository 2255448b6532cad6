"""The flow `fine-tune`: what a GPU worker runs for `pipeline`, in the shared checkout or in a clone of its own."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.artifacts import Artifact
from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.states import Completed, Failed
from pydantic import BaseModel

from flows import artifacts, checkout, git, heartbeat
from flows.dvc_door import Door, Outcome, StageFailed
from flows.faults import Refused, WrongRequest
from flows.gpu import RESULT

# How long a former run of this clone, still being killed, may hold it; and DVC its files.
PATIENCE = 60.0


class Hop(BaseModel):
    """All that a clone needs to be where the sender is: its commit, params.yaml, dvc.lock, and the DVC remote."""

    commit: str
    params: str
    lock: str
    remote: str


@flow(name="fine-tune", description="A stage marked `resource: gpu`, run by a worker of the GPU pool.")
def fine_tune(
    stage: str = "fine_tune", force: bool = False, shared_checkout: str | None = None, hop: Hop | None = None
) -> State[Any]:
    """Run one stage for a `pipeline` run, which sends these parameters.

    Args:
        stage: the stage's name in dvc.yaml.
        force: run it even where nothing changed.
        shared_checkout: folder of the sender's checkout, where this machine sees it.
        hop: or what to put into this machine's own clone, the working folder.
    """
    heartbeat.arm()
    try:
        if hop is not None:
            outcome, root = _in_own_clone(stage, force, hop), Path.cwd()
        else:
            root = Path(shared_checkout or Path.cwd())
            outcome = _in_shared_checkout(stage, force, root)
        with Door(root) as door:
            made = {"stage": stage, "outcome": outcome, "entry": door.lock_entry(stage), "host": socket.gethostname()}
        made["device"] = _device(root)
        # As an artifact, because results of runs do not travel between machines without a shared file system.
        plain = json.loads(json.dumps(made))
        Artifact(key=RESULT, type="json", data=plain, description=f"{stage} on {made['host']}").create()
        return Completed(name=outcome, message=f"on {made['host']}, {made['device'] or 'device not recorded'}")
    except StageFailed as failure:
        return Failed(message=str(failure))
    except Refused as refusal:
        return Failed(name=refusal.name, message=f"{stage} failed (exit {refusal.exit_code})\n{refusal}")


def _in_shared_checkout(stage: str, force: bool, root: Path) -> Outcome:
    """The sender holds the checkout and waits; this only runs the stage in it."""
    if not (root / "dvc.yaml").exists():
        raise WrongRequest(f"{socket.gethostname()} does not see {root}; set gpu_remote so that data travels")
    return _reproduce(stage, force, root)


def _in_own_clone(stage: str, force: bool, hop: Hop) -> Outcome:
    """Become the sender's commit, params and lock; pull exactly the inputs; run; push."""
    root, log = Path.cwd(), get_run_logger()
    with checkout.held(root, PATIENCE, f"flow run {flow_run.name}", log.info):
        edited = set(git.changed_files(root, [])) - {"params.yaml", "dvc.lock"}
        if edited:
            raise WrongRequest(
                f"{root} on {socket.gethostname()} has uncommitted changes ({', '.join(sorted(edited)[:5])}); "
                "a worker's clone is to be left alone: commit them elsewhere or discard them"
            )
        commit = git.commit_of(root, hop.commit)
        git.discard(root, ["params.yaml", "dvc.lock"])
        git.switch(root, commit)
        (root / "params.yaml").write_text(hop.params)
        (root / "dvc.lock").write_text(hop.lock)
        with Door(root) as door:
            inputs, _ = door.dependencies(stage)
            log.info("%s: pulling %s from %s", stage, ", ".join(inputs), hop.remote)
            door.pull(inputs, hop.remote)
        outcome = _reproduce(stage, force, root)
        with Door(root) as door:
            log.info("%s: pushed %d objects to %s", stage, door.push([stage], hop.remote), hop.remote)
        return outcome


def _reproduce(stage: str, force: bool, root: Path) -> Outcome:
    log, progress = get_run_logger(), artifacts.Progress(stage)

    def line(text: str) -> None:
        log.info("%s", text)
        progress.line(text)

    with Door(root, PATIENCE) as door:
        outcome = door.reproduce(stage, force, line)
    progress.done()
    return outcome


def _device(root: Path) -> Any:
    """What fine_tune recorded of the device it trained on; None for a stage that records none."""
    path = root / "data" / "fine_tune" / "training.json"
    return json.loads(path.read_text()).get("device") if path.exists() else None
