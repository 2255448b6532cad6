"""A real Prefect server, and workers, on loopback with a home of their own, for tests; nothing of it outlives a test.

with LocalPrefect(tmp_path / "prefect") as server:
    server.create_pool("cpu")
    server.deploy("pipeline/on-demand", directory=checkout)
    worker = server.worker("cpu", "cpu-1", cwd=checkout)
    run = server.run("pipeline/on-demand", targets=["train"])
    server.wait_for_state(run, {"Completed", "Unchanged"}, seconds=60)
"""

from __future__ import annotations

import base64
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Collection, Mapping
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar
from uuid import UUID

import psutil
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterParentFlowRunId,
    LogFilter,
    LogFilterFlowRunId,
    WorkerFilter,
    WorkerFilterStatus,
)
from prefect.client.schemas.objects import ConcurrencyOptions, FlowRun
from prefect.client.schemas.sorting import LogSort
from prefect.exceptions import ObjectAlreadyExists
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent

# In the environment of everything a server's test starts, so that it is found however far it has strayed.
MARK = "GRAFT_TEST_PREFECT"

# The server's loops, which a test would otherwise wait for. Workers' heartbeats are as far apart as with
# `make up`: the server calls a worker OFFLINE that missed three, and on a busy machine 6 s are no silence.
# No run is called Late, as with `make up`. Why an answer was 503 is in the server's log.
QUICK = {
    "PREFECT_SERVER_LOG_RETRYABLE_ERRORS": "true",
    "PREFECT_SERVER_SERVICES_LATE_RUNS_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_FOREMAN_LOOP_SECONDS": "2",
    "PREFECT_SERVER_SERVICES_CANCELLATION_CLEANUP_LOOP_SECONDS": "3",
    "PREFECT_SERVER_EVENTS_PROACTIVE_GRANULARITY": "PT2S",
    "PREFECT_WORKER_HEARTBEAT_SECONDS": "10",
}


class LocalPrefect:
    """A server with its SQLite database, logs and its clients' settings in `home`."""

    # The database of this process's first server, before anything was put into it: Prefect takes 10 s to make one.
    _empty: ClassVar[bytes | None] = None

    def __init__(self, home: Path, environment: Mapping[str, str] | None = None, auth: str | None = None) -> None:
        self.home = home
        self.port = free_port()
        self.api_url = f"http://127.0.0.1:{self.port}/api"
        self.mark = uuid.uuid4().hex
        self._auth = auth
        self._server: subprocess.Popen[bytes] | None = None
        self._children: list[subprocess.Popen[bytes]] = []
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "GRAFT_"))}
        self.environment: dict[str, str] = {
            **inherited,
            "PATH": os.pathsep.join([str(BIN), os.environ.get("PATH", os.defpath)]),
            "PREFECT_HOME": str(home),
            "PREFECT_PROFILES_PATH": str(home / "profiles.toml"),
            "PREFECT_API_URL": self.api_url,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
            "NO_COLOR": "1",
            **QUICK,
            **({"PREFECT_SERVER_API_AUTH_STRING": auth, "PREFECT_API_AUTH_STRING": auth} if auth else {}),
            **(environment or {}),
            MARK: self.mark,
        }

    def __enter__(self) -> LocalPrefect:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    # The server

    def start(self, seconds: float = 120) -> None:
        """Start the server and wait until it answers."""
        command = ["-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(self.port)]
        database = self.home / "prefect.db"
        new = not database.exists()
        if new and LocalPrefect._empty:
            self.home.mkdir(parents=True, exist_ok=True)
            database.write_bytes(LocalPrefect._empty)
        self._server = self.process([sys.executable, *command], cwd=self.home, log="server")
        deadline = time.monotonic() + seconds
        while self.http_status("/health") != 200:
            if self._server.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"the server did not come up:\n{self.log('server')}")
            time.sleep(0.2)
        if new and LocalPrefect._empty is None:
            with closing(sqlite3.connect(database)) as made:
                LocalPrefect._empty = made.serialize()

    def stop(self) -> None:
        """Stop the server in an orderly way."""
        assert self._server is not None
        end(self._server, signal.SIGINT)

    def kill(self) -> None:
        """Kill the server, as a power cut would."""
        assert self._server is not None
        end(self._server, signal.SIGKILL)

    def restart(self, seconds: float = 120) -> None:
        """Stop it if it runs, and start it on the same database and port."""
        self.stop()
        self.start(seconds)

    def close(self) -> None:
        """End all that was started, and all that those started."""
        for child in reversed(self._children):
            end(child, signal.SIGKILL)
        deadline = time.monotonic() + 10
        while (strays := self.processes()) and time.monotonic() < deadline:
            kill(strays)

    def processes(self) -> list[psutil.Process]:
        """Every living process of this server's, its workers', or of the runs they started."""
        return marked(self.mark)

    def process(
        self, command: list[str], cwd: Path, log: str, environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a command in a process group of its own, its output in `<home>/<log>.log`."""
        self.home.mkdir(parents=True, exist_ok=True)
        with (self.home / f"{log}.log").open("ab") as output:
            child = subprocess.Popen(
                command,
                cwd=cwd,
                env={**self.environment, **(environment or {}), MARK: self.mark},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                process_group=0,
                restore_signals=True,
            )
        self._children.append(child)
        return child

    def log(self, name: str) -> str:
        """What the server ("server") or a worker (its name) has written so far."""
        return (self.home / f"{name}.log").read_text(errors="replace")

    # What clients do

    def client(self) -> SyncPrefectClient:
        """A client, to be used as a context manager. It has the server's address and password, no profile."""
        return SyncPrefectClient(self.api_url, auth_string=self._auth)

    def http_status(self, path: str, auth: str | None = None) -> int:
        """The HTTP status of GET <api><path>, with `auth` (user:password) or without; 0 where nothing answers."""
        request = urllib.request.Request(f"{self.api_url}{path}")
        if auth:
            request.add_header("Authorization", f"Basic {base64.b64encode(auth.encode()).decode()}")
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            error.close()
            return error.code
        except OSError:
            return 0

    def cli(self, *arguments: str, cwd: Path = ROOT) -> str:
        """The output of a `prefect` command; raises if it fails."""
        done = subprocess.run(
            [sys.executable, "-m", "prefect", "--no-prompt", *arguments],
            cwd=cwd,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=180,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def create_pool(self, name: str, limit: int | None = None) -> None:
        """Create a process work pool, or set the limit of the one there is."""
        from prefect.workers.process import ProcessWorker

        template = ProcessWorker.get_default_base_job_template()
        with self.client() as client:
            try:
                client.create_work_pool(
                    WorkPoolCreate(name=name, type="process", base_job_template=template, concurrency_limit=limit)
                )
            except ObjectAlreadyExists:
                client.update_work_pool(name, WorkPoolUpdate(concurrency_limit=limit))

    def pause_pool(self, name: str, paused: bool = True) -> None:
        """Pause a pool, or let it go on."""
        with self.client() as client:
            client.update_work_pool(name, WorkPoolUpdate(is_paused=paused))

    def deploy(
        self,
        name: str,
        directory: Path | None = None,
        entrypoint: str | None = None,
        pool: str | None = None,
        parameters: Mapping[str, Any] | None = None,
    ) -> UUID:
        """Create the deployment `flow/name` without importing the flow, and so in milliseconds.

        What is not given comes from its entry in prefect.yaml. `directory` is where its runs work; none: where
        prefect.yaml says, in each worker's GRAFT_CHECKOUT, which `worker` sets to its `cwd`.
        """
        file: dict[str, Any] = YAML(typ="safe").load(ROOT / "prefect.yaml")
        flow, short = name.split("/")
        entry: dict[str, Any] = next((one for one in file["deployments"] if one["name"] == short), {})
        overlap = entry.get("concurrency_limit") or {}
        step = "prefect.deployments.steps.set_working_directory"
        with self.client() as client:
            return client.create_deployment(
                flow_id=client.create_flow_from_name(flow),
                name=short,
                entrypoint=entrypoint or entry["entrypoint"],
                work_pool_name=pool or entry["work_pool"]["name"],
                parameters={**entry.get("parameters", {}), **(parameters or {})},
                pull_steps=[{step: {"directory": str(directory)}}] if directory else file["pull"],
                concurrency_limit=overlap.get("limit"),
                concurrency_options=ConcurrencyOptions(collision_strategy=overlap["collision_strategy"])
                if overlap
                else None,
                enforce_parameter_schema=False,
            )

    def register(self, checkout: Path = ROOT) -> None:
        """All that `make up` registers: pools, prefect.yaml's deployments, the heartbeat automation. Takes seconds."""
        done = subprocess.run(
            [sys.executable, "-m", "flows.register"],
            cwd=checkout,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def run(self, deployment: str, **parameters: Any) -> UUID:
        """Start a run of a deployment with these parameters over its own; returns at once."""
        with self.client() as client:
            found = client.read_deployment_by_name(deployment)
            return client.create_flow_run_from_deployment(found.id, parameters=parameters).id

    def cancel(self, run: UUID) -> None:
        """Ask for a run's end, as the UI's button does."""
        from prefect.states import Cancelling

        with self.client() as client:
            client.set_flow_run_state(run, Cancelling())

    def read(self, run: UUID) -> FlowRun:
        """A run as it stands."""
        with self.client() as client:
            return client.read_flow_run(run)

    def children(self, run: UUID) -> list[FlowRun]:
        """The runs a run has started, as `pipeline` does on the GPU pool."""
        parent = FlowRunFilterParentFlowRunId(any_=[run])
        with self.client() as client:
            return client.read_flow_runs(flow_run_filter=FlowRunFilter(parent_flow_run_id=parent))

    def wait_for_state(self, run: UUID, wanted: Collection[str], seconds: float) -> FlowRun:
        """Wait until the run's state has one of these names or types ("Unchanged", "CRASHED" …).

        Raises AssertionError with the run's log after `seconds`, or as soon as the run has ended otherwise.
        """
        deadline = time.monotonic() + seconds
        with self.client() as client:
            while True:
                seen = client.read_flow_run(run)
                state = seen.state
                if state is not None and {state.name, state.type.value} & set(wanted):
                    return seen
                if (state is not None and state.is_final()) or time.monotonic() > deadline:
                    lines = "\n".join(self.logs(run))
                    raise AssertionError(f"wanted {sorted(wanted)}, saw {state!r}\n{lines}")
                time.sleep(0.3)

    def logs(self, run: UUID) -> list[str]:
        """The run's log lines as the server has them, oldest first."""
        lines: list[str] = []
        chosen = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run]))
        with self.client() as client:
            while page := client.read_logs(chosen, limit=200, offset=len(lines), sort=LogSort.TIMESTAMP_ASC):
                lines += [one.message for one in page]
        return lines

    def wait_for_log(self, run: UUID, text: str, seconds: float) -> str:
        """The first log line with `text`. Lines come in batches, the last ones after the run's final state."""
        deadline = time.monotonic() + seconds
        while True:
            lines = self.logs(run)
            for line in lines:
                if text in line:
                    return line
            if time.monotonic() > deadline:
                raise AssertionError(f"no line with {text!r} among:\n" + "\n".join(lines))
            time.sleep(0.3)

    # Workers

    def worker(
        self,
        pool: str,
        name: str,
        cwd: Path,
        env: Mapping[str, str] | None = None,
        query_seconds: float = 1,
        limit: int | None = None,
        online: float = 120,
    ) -> subprocess.Popen[bytes]:
        """Start a process worker of the checkout `cwd` and wait up to `online` seconds until the server counts it.

        It leads a process group; the runs it starts lead their own, as Prefect arranges it: `kill_machine`
        ends both. Its log is `log(name)`.
        """
        command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool, "--name", name]
        command += ["--type", "process", *(("--limit", str(limit)) if limit else ())]
        own = {"GRAFT_CHECKOUT": str(cwd), "PREFECT_WORKER_QUERY_SECONDS": str(query_seconds), **(env or {})}
        worker = self.process(command, cwd=cwd, log=name, environment=own)
        deadline = time.monotonic() + online
        while online and name not in self.online(pool):
            if worker.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"worker {name} did not come online:\n{self.log(name)}")
            time.sleep(0.2)
        return worker

    def online(self, pool: str) -> list[str]:
        """The names of a pool's live workers."""
        alive = WorkerFilter(status=WorkerFilterStatus(any_=["ONLINE"]))
        with self.client() as client:
            return [one.name for one in client.read_workers_for_work_pool(pool, worker_filter=alive)]

    def forget_workers(self, pool: str) -> None:
        """Remove a pool's workers. Dead ones would count as alive until their heartbeats are overdue."""
        auth = {"Authorization": f"Basic {base64.b64encode(self._auth.encode()).decode()}"} if self._auth else {}
        for name in self.online(pool):
            address = f"{self.api_url}/work_pools/{pool}/workers/{name}"
            urllib.request.urlopen(urllib.request.Request(address, headers=auth, method="DELETE"), timeout=60).close()
        assert not self.online(pool)

    def stop_worker(self, worker: subprocess.Popen[bytes]) -> None:
        """Stop a worker as Ctrl-C does; it ends its runs without telling the server."""
        end(worker, signal.SIGINT)

    def kill_worker(self, worker: subprocess.Popen[bytes]) -> None:
        """SIGKILL the worker alone; its runs go on."""
        end(worker, signal.SIGKILL)

    def kill_machine(self, worker: subprocess.Popen[bytes]) -> None:
        """SIGKILL the worker with its runs and all their processes, as the death of its machine would."""
        try:
            family = psutil.Process(worker.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            family = []
        end(worker, signal.SIGKILL)
        kill(family)


def marked(mark: str) -> list[psutil.Process]:
    """Every living process with this mark in its environment, which children inherit."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def free_port() -> int:
    """A port nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def end(child: subprocess.Popen[bytes], with_signal: int, seconds: float = 15) -> None:
    """Signal a child and wait for it; kill it if it does not go."""
    if child.poll() is None:
        child.send_signal(with_signal)
    try:
        child.wait(seconds)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def kill(processes: Collection[psutil.Process]) -> None:
    """SIGKILL, and wait until they are gone."""
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(processes, timeout=5)
