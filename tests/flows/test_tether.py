"""A run that is killed takes along what it started, also what left its process group."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]
START = """
import subprocess, sys, time
from flows.tether import tether
tether()
sleeper = subprocess.Popen(['sleep', '300'], start_new_session=True)
print(sleeper.pid, flush=True)
"""
COMMAND = """
import subprocess, sys, time
from flows import command_line
def flow(**asked):
    print(subprocess.Popen(['sleep', '300'], start_new_session=True).pid, flush=True)
    time.sleep(300)
sys.argv[1:] = []
command_line.main(flow)
"""
# Prefect's temporary server, which SubprocessASGIServer starts: the Makefile tests this file beside no other.
PREFECT = """
import time
from flows.tether import tether
tether()
from prefect.client.orchestration import get_client
from prefect.server.api.server import SubprocessASGIServer
with get_client(sync_client=True) as client:
    assert client.api_healthcheck() is None
print(SubprocessASGIServer().server_process.pid, flush=True)
"""


def started(program: str, then: str, **environment: str) -> subprocess.Popen[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return subprocess.Popen(
        [sys.executable, "-c", f"{program}\n{then}"],
        cwd=ROOT, env={**inherited, **environment}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def line(process: subprocess.Popen[str]) -> psutil.Process:
    assert process.stdout is not None
    return psutil.Process(int(process.stdout.readline()))


def gone(process: psutil.Process, seconds: float = 20) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize(("program", "then"), [(START, "time.sleep(300)"), (COMMAND, "")], ids=["itself", "command"])
def test_what_a_killed_run_started_is_killed(program: str, then: str) -> None:
    with started(program, then) as run:
        sleeper = line(run)
        run.kill()
    try:
        assert gone(sleeper)
    finally:
        sleeper.kill()


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
    settings = {"PREFECT_HOME": str(tmp_path), "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "90"}
    with started(PREFECT, "time.sleep(300)", **settings) as run:
        try:
            server = line(run)
            said = " ".join(server.cmdline())
        finally:
            run.kill()
    assert "uvicorn" in said
    assert gone(server)
