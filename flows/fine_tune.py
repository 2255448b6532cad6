"""The flow `fine-tune`: what a GPU worker runs for `pipeline`, in the shared checkout or in a clone of its own."""

from __future__ import annotations

import hashlib
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

from flows import checkout, fence, git, heartbeat
from flows.dvc_door import Door, Outcome, StageFailed
from flows.faults import Refused, WrongRequest
from flows.gpu import RESULT
from flows.stage_here import run_here

# How long a former run of this clone, still being killed, may hold it; and DVC its files.
PATIENCE = 60.0
# The SHA-256 of the params.yaml that the last hop wrote into this clone: any other edit is somebody's.
WRITTEN = checkout.OURS / "params.sha256"


class SharedCheckout(BaseModel):
    """The sender's checkout: where it is, and the name that must be found there."""

    folder: str
    identity: str


class Hop(BaseModel):
    """All that a clone needs to be where the sender is: its commit, params.yaml, dvc.lock, and the DVC remote.

    `sender` is the identity of the sender's checkout.
    """

    commit: str
    params: str
    lock: str
    remote: str
    sender: str


@flow(name="fine-tune", description="A stage marked `resource: gpu`, run by a worker of the GPU pool.")
def fine_tune(
    stage: str = "fine_tune", force: bool = False, shared_checkout: SharedCheckout | None = None, hop: Hop | None = None
) -> State[Any]:
    """Run one stage for a `pipeline` run, which sends these parameters.

    Args:
        stage: the stage's name in dvc.yaml.
        force: run it even where nothing changed.
        shared_checkout: folder of the sender's checkout, where this machine sees it.
        hop: or what to put into this machine's own clone, the working folder.
    """
    try:
        with heartbeat.beating():
            fence.check()  # a worker that was cut off between its claim and now
            made = _run(stage, force, shared_checkout, hop)
            fence.check()
        # As an artifact, because results of runs do not travel between machines without a shared file system.
        Artifact(key=RESULT, type="json", data=made, description=f"{stage} on {made['host']}").create()
        return Completed(name=made["outcome"], message=f"on {made['host']}, {made['device'] or 'device not recorded'}")
    except StageFailed as failure:
        return Failed(message=str(failure))
    except Refused as refusal:
        return Failed(name=refusal.name, message=f"{stage} failed (exit {refusal.exit_code})\n{refusal}")


def _run(stage: str, force: bool, shared_checkout: SharedCheckout | None, hop: Hop | None) -> dict[str, Any]:
    """Run the stage; returns what the sender takes over, as plain JSON."""
    if hop is not None:
        outcome, root = _in_own_clone(stage, force, hop), Path.cwd()
    else:
        root = Path(shared_checkout.folder) if shared_checkout else Path.cwd()
        # Another clone may lie under the same path of another machine.
        if shared_checkout and not _is_there(root, shared_checkout.identity):
            raise WrongRequest(f"{socket.gethostname()} does not see the checkout {root}; set gpu_remote for its data")
        # The sender holds it, and waits.
        with Door(root, PATIENCE) as door:
            outcome = run_here(door, stage, force)
    with Door(root) as door:
        entry = door.lock_entry(stage)
    made = {"stage": stage, "outcome": outcome, "entry": entry, "host": socket.gethostname(), "device": _device(root)}
    return dict(json.loads(json.dumps(made)))


def _is_there(root: Path, identity: str) -> bool:
    return (root / checkout.OURS / "identity").exists() and checkout.identity(root) == identity


def _in_own_clone(stage: str, force: bool, hop: Hop) -> Outcome:
    """Become the sender's commit, params and lock; pull exactly the inputs; run; push."""
    root, log = Path.cwd(), get_run_logger()
    if _is_there(root, hop.sender):
        raise WrongRequest(
            f"this worker works in the sender's own checkout, {root}; leave gpu_remote out, "
            "or start the worker in a clone"
        )
    with checkout.held(root, PATIENCE, f"flow run {flow_run.name}", log.info):
        edited = set(git.changed_files(root, [])) - {"dvc.lock"}
        if _fingerprint(root / "params.yaml") == _read(root / WRITTEN):
            edited -= {"params.yaml"}
        if edited:
            raise WrongRequest(
                f"{root} on {socket.gethostname()} has uncommitted changes ({', '.join(sorted(edited)[:5])}); "
                "a worker's clone is to be left alone: commit them elsewhere or discard them"
            )
        commit = git.commit_of(root, hop.commit)
        for name in ("params.yaml", "dvc.lock"):
            git.discard(root, name)
        git.switch(root, commit)
        (root / WRITTEN).write_text(hashlib.sha256(hop.params.encode()).hexdigest())
        (root / "params.yaml").write_text(hop.params)
        (root / "dvc.lock").write_text(hop.lock)
        with Door(root, PATIENCE) as door:
            inputs, _ = door.dependencies(stage)
            log.info("%s: pulling %s from %s", stage, ", ".join(inputs), hop.remote)
            door.pull(inputs, hop.remote)
            outcome = run_here(door, stage, force)
            fence.check()
            log.info("%s: pushed %d objects to %s", stage, door.push([stage], hop.remote), hop.remote)
        return outcome


def _fingerprint(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""


def _read(path: Path) -> str | None:
    return path.read_text() if path.exists() else None


def _device(root: Path) -> Any:
    """What fine_tune recorded of the device it trained on; None for a stage that records none."""
    path = root / "data" / "fine_tune" / "training.json"
    return json.loads(path.read_text()).get("device") if path.exists() else None
