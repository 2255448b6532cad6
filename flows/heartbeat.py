"""Heartbeats of our runs, and the automations that end a run whose machine died: without them it stays Running, or
Pending, and keeps its slot.

Prefect has heartbeats of its own, every 180 s or as a worker is told to; ours do not depend on how a worker
was started, and runs of other projects on the same server are not judged by them.

`python -m flows.heartbeat` creates the automations, or brings them up to date, on the server PREFECT_API_URL names.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import StateType
from prefect.events import emit_event
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.runtime import flow_run

# A run sends one every INTERVAL; four may be missed.
INTERVAL = timedelta(seconds=15)
SILENCE = timedelta(seconds=75)

# From a worker's claim to the run's first own word. A node of a cluster may have to pull a large image first.
BEGINNING = timedelta(minutes=15)

HEARTBEAT = "graft.flow-run.heartbeat"
CLAIMED = tuple(f"prefect.flow-run.{name}" for name in ("Pending", "Submitting", "InfrastructurePending"))
BEGUN = "prefect.flow-run.Running"
# A run that ends under a name of its own needs no entry: the server refuses to crash what has ended.
ENDS = tuple(f"prefect.flow-run.{name}" for name in ("Completed", "Failed", "Crashed", "Cancelled"))


def automations() -> list[AutomationCore]:
    """One for runs that fell silent, one for runs that were claimed and never began."""
    return [
        _crash(
            "graft: a run whose heartbeat stopped has crashed",
            f"no heartbeat for {_words(SILENCE)}: the worker's machine died or was cut off",
            after=(HEARTBEAT,),
            expect=(HEARTBEAT, *ENDS),
            within=SILENCE,
        ),
        _crash(
            "graft: a run that was claimed and never began has crashed",
            f"not begun {_words(BEGINNING)} after a worker claimed it: the worker's machine died or was cut off",
            after=CLAIMED,
            expect=(BEGUN, *ENDS),
            within=BEGINNING,
        ),
    ]


def _crash(name: str, why: str, after: tuple[str, ...], expect: tuple[str, ...], within: timedelta) -> AutomationCore:
    """Once a run has shown one of `after`, it is Crashed unless one of `expect` follows `within` the time."""
    return AutomationCore(
        name=name,
        description="Without it the run of a dead machine keeps its work pool's slot.",
        trigger=EventTrigger(
            posture=Posture.Proactive,
            after=set(after),
            expect=set(expect),
            match={"prefect.resource.id": "prefect.flow-run.*"},
            for_each={"prefect.resource.id"},
            threshold=1,
            within=within,
        ),
        actions=[ChangeFlowRunState(state=StateType.CRASHED, name="Crashed", message=why)],
    )


def _words(time: timedelta) -> str:
    seconds = int(time.total_seconds())
    return f"{seconds} s" if seconds < 300 else f"{seconds // 60} min"


@contextmanager
def beating() -> Iterator[None]:
    """Send the current run's heartbeats, the first at once, until the block ends."""
    resource = {"prefect.resource.id": f"prefect.flow-run.{flow_run.id}", "prefect.resource.name": str(flow_run.name)}
    ended = threading.Event()

    def beat() -> None:
        emit_event(event=HEARTBEAT, resource=resource)
        while not ended.wait(INTERVAL.total_seconds()):
            emit_event(event=HEARTBEAT, resource=resource)

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def ensure(client: SyncPrefectClient) -> list[str]:
    """Create each automation, or update the one of its name; their names."""
    wanted = automations()
    for one in wanted:
        found = client.read_automations_by_name(one.name)
        if not found:
            client.create_automation(one)
            continue
        client.update_automation(found[0].id, one)
        for double in found[1:]:
            client.delete_automation(double.id)
    return [one.name for one in wanted]


def main() -> int:
    """The command."""
    with get_client(sync_client=True) as client:
        for name in ensure(client):
            sys.stdout.write(f"on {client.api_url}: {name}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
