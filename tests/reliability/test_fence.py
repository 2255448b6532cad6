"""Row 55: a worker that was cut off and taken for dead comes back, and publishes nothing.

The server's answers are given here; what is pushed, by what, from a clone of its own, is real.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.exceptions import ObjectNotFound

from flows import fence, fine_tune
from flows.dvc_door import Door
from flows.faults import Refused
from tests.flows.conftest import made  # noqa: F401
from tests.flows.toy import Toy

RUN = uuid4()


class Server:
    """Answers with `run`, after `failures` tries without an answer."""

    def __init__(self, state: StateType | None, tags: list[str], failures: int = 0) -> None:
        kept = State(type=state, name=state.value.title()) if state else None
        self.run = FlowRun(id=RUN, flow_id=uuid4(), state=kept, tags=tags)
        self.failures, self.asked, self.tagged = failures, 0, set[str]()

    def read_flow_run(self, run: UUID) -> FlowRun:
        assert run == RUN
        self.asked += 1
        if self.asked <= self.failures:
            raise httpx.ConnectError("nobody there")
        if self.run.state is None:
            raise ObjectNotFound(Exception("gone"))
        return self.run

    def update_flow_run(self, run: UUID, tags: set[str]) -> None:
        self.tagged = tags


def ask(monkeypatch: pytest.MonkeyPatch, server: Server) -> None:
    @contextmanager
    def client(**_: Any) -> Any:
        yield server

    monkeypatch.setattr(fence, "get_client", client)
    monkeypatch.setattr(fence, "flow_run", type("runtime", (), {"id": str(RUN), "name": "it"}))
    monkeypatch.setattr(fence.time, "sleep", lambda _: None)


@pytest.mark.parametrize("state", [StateType.CRASHED, StateType.CANCELLED, StateType.FAILED, StateType.COMPLETED])
def test_a_run_that_was_ended_is_refused(monkeypatch: pytest.MonkeyPatch, state: StateType) -> None:
    ask(monkeypatch, Server(state, []))
    with pytest.raises(Refused, match=f"given up meanwhile \\(it is {state.value.title()}\\)") as caught:
        fence.check()
    assert caught.value.exit_code == 5


def test_a_mark_outlasts_the_state_and_a_deleted_run_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prefect lets a run leave Crashed for Running or Completed."""
    ask(monkeypatch, Server(StateType.RUNNING, ["fine_tune:key", fence.GIVEN_UP]))
    with pytest.raises(Refused, match="it is Running"):
        fence.check()
    ask(monkeypatch, Server(None, []))
    with pytest.raises(Refused, match="was deleted"):
        fence.check()
    server = Server(StateType.RUNNING, ["fine_tune:key"])
    fence.give_up(server, server.run)  # type: ignore[arg-type]
    assert server.tagged == {"fine_tune:key", fence.GIVEN_UP}


def test_a_wanted_run_goes_on_also_after_a_restart_of_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    ask(monkeypatch, server := Server(StateType.RUNNING, ["fine_tune:key"], failures=3))
    fence.check()
    assert server.asked == 4
    monkeypatch.setattr(fence, "PATIENCE", 0.0)
    ask(monkeypatch, Server(StateType.RUNNING, [], failures=9))
    with pytest.raises(Refused, match="cannot be known, so its result is not published"):
        fence.check()


@pytest.mark.slow
@pytest.mark.parametrize("given_up", [False, True])
def test_the_late_writer_pushes_nothing(
    made: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given_up: bool  # noqa: F811
) -> None:
    toy, store = made.copy(tmp_path / "toy"), tmp_path / "store"
    toy.run("-m", "dvc", "remote", "add", "-d", "store", str(store))
    toy.commit("Add the remote")
    toy.git("clone", "-q", str(toy.folder), str(tmp_path / "clone"))
    toy.set(fine_tune={"value": 7})
    with Door(toy.folder) as door:
        door.push(["feature_extract"], "store")
        before = {path for path in store.rglob("*") if path.is_file()}
        hop = fine_tune.Hop(
            commit=toy.git("rev-parse", "HEAD").strip(), params=(toy.folder / "params.yaml").read_text(),
            lock=door.lock_text(), remote="store", sender="somebody",
        )  # fmt: skip
    ask(monkeypatch, server := Server(StateType.RUNNING, ["key"]))
    monkeypatch.setattr(fine_tune, "get_run_logger", lambda: logging.getLogger("test"))
    monkeypatch.setenv("TOY_JOURNAL", str(tmp_path / "journal"))
    monkeypatch.chdir(tmp_path / "clone")

    def trained(door: Door, stage: str, force: bool) -> Any:
        outcome = door.reproduce(stage, force, lambda _: None)
        if given_up:  # while it trained
            server.run = FlowRun(id=RUN, flow_id=uuid4(), state=server.run.state, tags=["key", fence.GIVEN_UP])
        return outcome

    monkeypatch.setattr(fine_tune, "run_here", trained)
    if given_up:
        with pytest.raises(Refused, match="its result is not published"):
            fine_tune._in_own_clone("fine_tune", False, hop)
    else:
        assert fine_tune._in_own_clone("fine_tune", False, hop) == "Completed"
    assert (tmp_path / "clone/data/fine_tune/out.txt").read_text().endswith("fine_tune 7\n")
    after = {path for path in store.rglob("*") if path.is_file()}
    assert (after == before) is given_up
