"""A run that is killed takes along what it started, also what left its process group."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]
START = "sleeper = subprocess.Popen(['sleep', '300'], start_new_session=True); print(sleeper.pid, flush=True)"
PREFECT = """
from prefect.client.orchestration import get_client
from prefect.server.api.server import SubprocessASGIServer
with get_client(sync_client=True) as client:
    assert client.api_healthcheck() is None
print(SubprocessASGIServer().server_process.pid, flush=True)
"""


def started(program: str, then: str, **environment: str) -> subprocess.Popen[str]:
    program = f"import subprocess, sys, time\nfrom flows.tether import tether\ntether()\n{program}\n{then}"
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, env={**inherited, **environment}, stdout=subprocess.PIPE, text=True
    )


def line(process: subprocess.Popen[str]) -> psutil.Process:
    assert process.stdout is not None
    return psutil.Process(int(process.stdout.readline()))


def gone(process: psutil.Process, seconds: float = 20) -> bool:
    end = time.monotonic() + seconds
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE and time.monotonic() < end:
        time.sleep(0.05)
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_what_a_killed_run_started_is_killed(tmp_path: Path) -> None:
    with started(START, "time.sleep(300)") as run:
        sleeper = line(run)
        run.kill()
    assert gone(sleeper)


@pytest.mark.parametrize("end", ["", "raise ValueError", "sys.exit(3)"])
def test_what_a_run_leaves_that_ended_by_itself_is_left(end: str) -> None:
    with started(START, end) as run:
        sleeper = line(run)
        run.wait(30)
    try:
        time.sleep(0.5)  # the guard has had its answer before the run ended
        assert sleeper.is_running()
    finally:
        sleeper.kill()


def test_prefects_temporary_server_ends_with_a_killed_run(tmp_path: Path) -> None:
    with started(PREFECT, "time.sleep(300)", PREFECT_HOME=str(tmp_path), PREFECT_LOGGING_LEVEL="ERROR") as run:
        server = line(run)
        assert "uvicorn" in " ".join(server.cmdline())
        run.send_signal(signal.SIGKILL)
    assert gone(server)
