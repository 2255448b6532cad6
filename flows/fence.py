"""Whether a worker's run is still wanted, asked right before it publishes.

A machine that was cut off from the server is taken for dead: its run is ended, and another may be at work in its place.
When it is back, Prefect would let it turn Crashed into Completed. So it asks first, and publishes nothing then.
"""

from __future__ import annotations

import contextlib
import time
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ObjectNotFound
from prefect.runtime import flow_run

from flows.faults import Refused

GIVEN_UP = "given up"  # a tag: it stays where a run changes its own state
PATIENCE = 120.0  # seconds that the server may be away, as for a restart


def give_up(client: SyncPrefectClient, run: FlowRun) -> None:
    """Mark a run whose result nobody will take over. Before its state is set, lest it publish in between."""
    with contextlib.suppress(httpx.HTTPError, ObjectNotFound):
        client.update_flow_run(run.id, tags={*run.tags, GIVEN_UP})


def check() -> None:
    """Raise Refused where the current run was given up, or where for PATIENCE no server could be asked.

    A run that knows no server by its id (a flow called as a function) has nobody to ask and goes on.
    """
    own = flow_run.id
    if not own:
        return
    until = time.monotonic() + PATIENCE
    while True:
        try:
            with get_client(sync_client=True) as client:
                found = client.read_flow_run(UUID(str(own)))
            break
        except ObjectNotFound:
            raise Refused("this run was deleted from Prefect's server; its result is not published") from None
        except httpx.HTTPError as error:
            if time.monotonic() >= until:
                raise Refused(
                    f"Prefect's server has not answered for {PATIENCE:g} s ({error}): whether this run is still wanted "
                    "cannot be known, so its result is not published; run again"
                ) from None
        time.sleep(2.0)
    if GIVEN_UP in found.tags or (found.state is not None and found.state.is_final()):
        name = found.state.name if found.state else "without a state"
        raise Refused(
            f"this run was given up meanwhile (it is {name}): taken for dead, or cancelled. Another may be at work in "
            "its place, so its result is not published"
        )
