"""The automations that end a run whose machine died: without them it stays Running, or Pending, and keeps its slot.

`python -m flows.heartbeat` creates them, or brings them up to date, on the server PREFECT_API_URL names.
"""

from __future__ import annotations

import sys
from datetime import timedelta

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import StateType
from prefect.events import emit_event
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.runtime import flow_run

# Workers send a run's heartbeat every 30 s (PREFECT_FLOWS_HEARTBEAT_FREQUENCY, 30 at least): three may be missed.
SILENCE = timedelta(seconds=90)

# From a worker's claim to the run's first own word. A node of a cluster may have to pull a large image first.
BEGINNING = timedelta(minutes=15)

HEARTBEAT = "heartbeat"
CLAIMED = ("Pending", "Submitting", "InfrastructurePending")
# A run that ends under a name of its own needs no entry: the server refuses to crash what has ended.
ENDS = ("Completed", "Failed", "Crashed", "Cancelled")


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
            expect=("Running", HEARTBEAT, *ENDS),
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
            after={f"prefect.flow-run.{event}" for event in after},
            expect={f"prefect.flow-run.{event}" for event in expect},
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


def arm() -> None:
    """Send the first heartbeat of the current run now: the automation watches a run from its first one on."""
    emit_event(event=HEARTBEAT, resource={"prefect.resource.id": f"prefect.flow-run.{flow_run.id}"})


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
