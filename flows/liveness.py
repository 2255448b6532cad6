"""Is anybody there: heartbeats of workers and of runs, judged by this machine's clock alone.

Prefect calls a dead worker ONLINE until it has missed three heartbeats, and a run whose machine died
Running for ever; clocks of other machines may be wrong. So what counts is when we last saw a new heartbeat.
"""

from __future__ import annotations

from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.events.filters import EventFilter, EventNameFilter, EventResourceFilter

from flows.heartbeat import HEARTBEAT, SILENCE


class WorkersAlive:
    """The workers of one pool."""

    def __init__(self, pool: str) -> None:
        self._pool = pool
        self._seen: dict[str, tuple[object, float]] = {}

    def silent(self, client: SyncPrefectClient, now: float) -> str | None:
        """A sentence when every worker has missed two heartbeats since we began to watch. `now` is monotonic."""
        alive = False
        workers = client.read_workers_for_work_pool(self._pool)
        for worker in workers:
            beat, since = self._seen.get(worker.name, (None, now))
            if worker.last_heartbeat_time != beat:
                beat, since = worker.last_heartbeat_time, now
            self._seen[worker.name] = (beat, since)
            patience = 2.2 * (worker.heartbeat_interval_seconds or 30)
            alive = alive or (worker.status == "ONLINE" and now - since <= patience)
        if alive or not workers:
            return None
        return f"the workers of pool {self._pool!r} have stopped sending heartbeats"


class RunAlive:
    """One flow run, which sends heartbeats as events while its process lives."""

    def __init__(self, run: UUID) -> None:
        self._newest = EventFilter(
            event=EventNameFilter(name=[HEARTBEAT]), resource=EventResourceFilter(id=[f"prefect.flow-run.{run}"])
        )
        self._seen: tuple[object, float] | None = None

    def silent(self, client: SyncPrefectClient, now: float) -> bool:
        """Whether no new heartbeat came since the first call for as long as the automations allow."""
        events = client.read_events(self._newest, limit=1).events
        beat = events[0].id if events else None
        if self._seen is None or self._seen[0] != beat:
            self._seen = (beat, now)
        return now - self._seen[1] > SILENCE.total_seconds()
