"""The tests' own server keeps its promises: it runs deployments, and leaves no process behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.flows.local_prefect import LocalPrefect

pytestmark = pytest.mark.slow

UNDER_WAY = 180  # seconds that a busy machine may take to start a worker and a flow

FLOW = """
import os, subprocess, sys
from prefect import flow
from prefect.logging import get_run_logger
from prefect.states import Completed

@flow
def work(seconds: float = 0):
    get_run_logger().info("in %s", os.getcwd())
    subprocess.run([sys.executable, "-c", f"import time; time.sleep({seconds})"], start_new_session=True)
    return Completed(name="Unchanged")
"""


def test_it_runs_restarts_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "work.py").write_text(FLOW)
    with LocalPrefect(tmp_path / "prefect") as server:
        server.create_pool("cpu")
        server.deploy("work/now", entrypoint="work.py:work", pool="cpu")
        worker = server.worker("cpu", "cpu-1", cwd=tmp_path)
        run = server.run("work/now")
        server.wait_for_state(run, {"Unchanged"}, seconds=UNDER_WAY)
        server.wait_for_log(run, f"in {tmp_path}", seconds=UNDER_WAY)
        server.kill()
        server.start()
        assert server.read(run).state_name == "Unchanged"
        lost = server.run("work/now", seconds=600)
        server.wait_for_state(lost, {"Running"}, seconds=UNDER_WAY)
        with pytest.raises(AssertionError, match="wanted"):
            server.wait_for_state(lost, {"Completed"}, seconds=1)
        assert len(server.processes()) >= 3
        server.kill_worker(worker)
    assert not server.processes()
