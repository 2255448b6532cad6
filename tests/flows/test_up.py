"""`make up`: all parts up, all down again, and a clear word when it cannot."""

from __future__ import annotations

import argparse
import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.settings import PREFECT_API_URL, temporary_settings

from commands.checks import prefect_api
from flows import heartbeat, server_settings, up
from tests.flows.local_prefect import MARK, ROOT, free_port, kill, marked

PIPELINE = """
import subprocess, sys
from typing import Any
from prefect import flow

@flow(name="pipeline")
def pipeline(
    targets: list[str] | None = None, force: bool = False, overrides: dict[str, Any] | None = None,
    ref: str | None = None, wait: float = 3600, gpu_pool: str | None = None, gpu_remote: str | None = None,
    promote: str = "off",
):
    # A grandchild in a session of its own is the hardest to end.
    subprocess.run([sys.executable, "-c", "import time; time.sleep(600)", "the-stage"], start_new_session=True)
"""
FINE_TUNE = """
from prefect import flow

@flow(name="fine-tune")
def fine_tune():
    pass
"""


class Up:
    """`python -m flows.up` in a checkout whose flows are toys."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.reports_port = free_port()
        self.mark = f"up-{os.getpid()}-{self.port}"
        (folder / "flows").mkdir(parents=True)
        shutil.copy(ROOT / "prefect.yaml", folder)
        for name in ("__init__", "up", "service", "leash", "register", "heartbeat", "reports", "server_settings"):
            shutil.copy(ROOT / "flows" / f"{name}.py", folder / "flows")
        (folder / "params.yaml").write_text("a: secret")
        (folder / "flows" / "pipeline.py").write_text(PIPELINE)
        (folder / "flows" / "fine_tune.py").write_text(FINE_TUNE)
        self.output = folder / "output.txt"

    def start(self, *options: str) -> None:
        """Start it, as a shell would: leader of a process group."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "GRAFT_"))}
        ports = ["--port", str(self.port), "--reports-port", str(self.reports_port)]
        with self.output.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "flows.up", *ports, *options],
                cwd=self.folder,
                env={**environment, MARK: self.mark},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                process_group=0,
            )

    def wait_ready(self) -> None:
        """Wait for its last line."""
        until(lambda: self.output.read_text().endswith("ready\n") or self.process.poll() is not None, 2 * up.START)
        assert self.process.poll() is None, self.output.read_text()

    def client(self) -> SyncPrefectClient:
        """A client of its server."""
        return SyncPrefectClient(f"http://127.0.0.1:{self.port}/api")

    def ask(
        self, port: int, method: str, path: str, body: str | None = None, **headers: str
    ) -> tuple[int, dict[str, str], str]:
        """Status, headers (their names in small letters) and body of an answer; `path` is sent as it is."""
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read().decode()
        finally:
            connection.close()

    def part(self, words: str) -> psutil.Process:
        """The one process of it with these words in its command."""
        (found,) = (one for one in marked(self.mark) if words in " ".join(one.cmdline()))
        return found


@pytest.fixture
def checkout(tmp_path: Path) -> Iterator[Up]:
    """A checkout; whatever was started in it is killed in the end."""
    made = Up(tmp_path / "checkout")
    try:
        yield made
    finally:
        kill(marked(made.mark))
        if hasattr(made, "process"):
            made.process.wait(10)


def automations(client: SyncPrefectClient) -> list[str]:
    """The names of the server's automations."""
    return sorted(one.name for one in client.read_automations())


def until(condition: Callable[[], object], seconds: float) -> None:
    """Wait for it."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_workers_start_when_the_deployments_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside those that make deployments their first requests once held SQLite's lock for 60 s."""
    happened: list[str] = []

    def start(name: str, *command: str) -> SimpleNamespace:
        happened.append(f"{name} starts")
        one = SimpleNamespace(name=name, ended=lambda: happened.append(f"{name} ended") or 0, log=Path("log"))
        services.append(one)
        return one

    services: list[Any] = []
    register = SimpleNamespace(
        client=lambda: nullcontext(SimpleNamespace(api_healthcheck=lambda: None)),
        end_unfinished=lambda client, why: None,
        pools=lambda client, trainings: happened.append("pools"),
        automations=lambda client: happened.append("automations"),
        online=lambda client, pools, since: {"cpu-1", "gpu-1"},
        DEPLOY=("deploy",),
    )
    monkeypatch.setattr(up.importlib, "import_module", lambda name: register)
    up.bring_up(start, services, up.POOLS, local=True)  # type: ignore[arg-type]
    assert happened == ["pools", "automations", "deploy starts", "deploy ended", "cpu starts", "gpu starts"]


@pytest.mark.slow
def test_up_brings_all_up_and_takes_all_down(checkout: Up) -> None:
    checkout.start()
    checkout.wait_ready()
    said = checkout.output.read_text()
    assert f"http://127.0.0.1:{checkout.port}" in said
    assert f"http://127.0.0.1:{checkout.reports_port}" in said
    assert "deployment run pipeline/on-demand" in said
    other_pages_have_no_say(checkout)
    reports_and_nothing_else_are_served(checkout)

    with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{checkout.port}/api"}):
        found = [*prefect_api.protected(10), *prefect_api.workers(checkout.folder)]
    assert [(one.check, one.level) for one in found] == [
        ("prefect api", "ok"), ("workers cpu", "ok"), ("workers gpu", "ok"),
    ]  # fmt: skip

    with checkout.client() as client:
        pools = {pool.name: (pool.type, pool.concurrency_limit) for pool in client.read_work_pools()}
        assert pools == {"cpu": ("process", None), "gpu": ("process", 1)}
        for pool in pools:
            (worker,) = client.read_workers_for_work_pool(pool)
            assert (worker.name, worker.status) == (f"{pool}-1", "ONLINE")
        deployments = {one.name: one for one in client.read_deployments()}
        assert set(deployments) == {"nightly", "on-demand", "watch", "gpu"}
        (nightly,), (watch,) = deployments["nightly"].schedules, deployments["watch"].schedules
        assert (getattr(nightly.schedule, "cron", None), nightly.active, watch.active) == ("0 3 * * *", True, False)
        assert automations(client) == sorted(one.name for one in heartbeat.automations())
        run = client.create_flow_run_from_deployment(deployments["on-demand"].id).id
        until(lambda: any("the-stage" in one.cmdline() for one in marked(checkout.mark)), 120)

    # As the terminal's Ctrl-C does, to the whole foreground group.
    begin = time.monotonic()
    os.killpg(checkout.process.pid, signal.SIGINT)
    assert checkout.process.wait(20) == 0
    assert time.monotonic() - begin < 15
    assert not marked(checkout.mark)
    # A server under load may have said something of its own in between.
    said = checkout.output.read_text().splitlines()
    assert "stopping" in said
    assert said[-1] == "stopped"
    written = {path.name for path in checkout.folder.iterdir()} - {
        "flows",
        "prefect.yaml",
        "params.yaml",
        "output.txt",
        "reports",
    }
    assert written == {".graft"}

    # Again on the same database: nothing doubled, the stopped run has an end. Then one part dies.
    checkout.start()
    checkout.wait_ready()
    with checkout.client() as client:
        state = client.read_flow_run(run).state
        assert state is not None
        assert (state.name, state.message) == ("Crashed", "`make up` was stopped while this ran")
        assert len(client.read_deployments()) == 4
        assert automations(client) == sorted(one.name for one in heartbeat.automations())
    second = subprocess.run(
        [sys.executable, "-m", "flows.up", "--port", str(free_port()), "--reports-port", str(free_port())],
        cwd=checkout.folder,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (second.returncode, second.stdout) == (6, "")
    checkout.part("--name gpu-1").kill()
    assert checkout.process.wait(20) == 5
    assert "gpu ended by itself (exit code -9). Its last lines" in checkout.output.read_text()
    assert not marked(checkout.mark)


def other_pages_have_no_say(checkout: Up) -> None:
    """What a page of another origin can have a browser ask for is neither done nor shown to it; the UI's own is."""
    allowed = "access-control-allow-origin"

    def preflight(origin: str) -> dict[str, str]:
        wanted = {"Access_Control_Request_Method": "POST", "Access_Control_Request_Headers": "content-type"}
        return checkout.ask(checkout.port, "OPTIONS", "/api/work_pools/filter", Origin=origin, **wanted)[1]

    for evil in ("http://evil.example", "null", f"http://127.0.0.1:{checkout.reports_port}"):
        assert allowed not in preflight(evil), evil
        assert allowed not in checkout.ask(checkout.port, "GET", "/api/csrf-token?client=me", Origin=evil)[1], evil
    for name in ("127.0.0.1", "localhost"):
        origin = f"http://{name}:{checkout.port}"
        assert preflight(origin)[allowed] == origin
    # Sent without a preflight, as any form may.
    form = {"Origin": "http://evil.example", "Content_Type": "text/plain"}
    status, headers, said = checkout.ask(checkout.port, "POST", "/api/work_pools/filter", "{}", **form)
    assert (status, allowed in headers) == (403, False), said


def reports_and_nothing_else_are_served(checkout: Up) -> None:
    """A report, once there is one, as it is now; nothing beside the folder."""
    port = checkout.reports_port
    assert checkout.part("--name cpu-1").environ()["GRAFT_REPORTS_URL"] == f"http://127.0.0.1:{port}"
    assert checkout.ask(port, "GET", "/")[0] == 404
    page = checkout.folder / "reports" / "validate" / "index.html"
    page.parent.mkdir(parents=True)
    page.write_text("the report")
    status, headers, body = checkout.ask(port, "GET", "/validate/index.html")
    assert (status, headers["cache-control"], body) == (200, "no-cache", "the report")
    up_and_out = [
        "/../params.yaml",
        "/%2e%2e/params.yaml",
        "/..%2fparams.yaml",
        "/validate/../../params.yaml",
        "//../params.yaml",
    ]
    for path in [*up_and_out, "/params.yaml", str(checkout.folder / "params.yaml")]:
        assert checkout.ask(port, "GET", path)[0] == 404, path
    for method in ("POST", "PUT", "DELETE"):
        assert checkout.ask(port, method, "/validate/index.html", "gone")[0] == 501
    assert {one.laddr.ip for one in checkout.part("flows.reports").net_connections()} == {"127.0.0.1"}


@pytest.mark.slow
def test_a_killed_up_takes_its_parts_along(checkout: Up) -> None:
    checkout.start()
    until(lambda: len(marked(checkout.mark)) >= 2, 60)
    checkout.part("server start")
    checkout.process.kill()
    checkout.process.wait()
    until(lambda: not marked(checkout.mark), 10)


@pytest.mark.slow
def test_a_server_that_dies_at_once_is_told_and_strays_are_ended(checkout: Up) -> None:
    home = checkout.folder / ".graft"
    (home / "prefect" / "prefect.db").mkdir(parents=True)
    stray = subprocess.Popen(["sleep", "600"], env={"GRAFT_UP": str(home), "PATH": os.defpath, MARK: checkout.mark})
    checkout.start()
    assert checkout.process.wait(120) == 5
    assert stray.wait(10) == -signal.SIGKILL
    said = checkout.output.read_text()
    assert "server ended by itself" in said
    assert "unable to open database file" in said
    assert not marked(checkout.mark)


@pytest.mark.parametrize("which", ["port", "reports_port"])
def test_a_taken_port_is_refused_before_anything_starts(which: str, checkout: Up) -> None:
    port = getattr(checkout, which)
    with socket.create_server(("127.0.0.1", port)):
        checkout.start()
        assert checkout.process.wait(20) == 5
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in checkout.output.read_text()
    assert len(checkout.output.read_text().splitlines()) == 1
    assert not (checkout.folder / ".graft").exists()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
@pytest.mark.parametrize(
    ("server", "client"), [("", ""), ("a:b", ""), ("", "a:b"), ("a:b", "a:c"), ("nocolon", "nocolon")]
)
def test_other_machines_need_a_password(
    host: str, server: str, client: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PREFECT_SERVER_API_AUTH_STRING", server)
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", client)
    assert up.main(["--host", host]) == 2
    assert "PREFECT_SERVER_API_AUTH_STRING=user:password" in capsys.readouterr().err
    monkeypatch.setenv("PREFECT_SERVER_API_AUTH_STRING", "a:b")
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "a:b")
    assert server_settings.unprotected(host) is None


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_loopback_needs_none(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_SERVER_API_AUTH_STRING", raising=False)
    assert server_settings.unprotected(host) is None


def test_the_reports_port_is_the_next_one_and_differs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        taken = listening.getsockname()[1]
        assert up.main(["--port", str(taken - 1), "--home", str(tmp_path / "home")]) == 5
    assert f"cannot listen on 127.0.0.1:{taken}" in capsys.readouterr().err
    port = str(free_port())
    assert up.main(["--port", port, "--reports-port", port, "--home", str(tmp_path / "home")]) == 2
    assert up.main(["--port", "65536", "--home", str(tmp_path / "home")]) == 5
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "::1", "localhost"])
def test_the_ui_alone_may_read_the_answers_on_any_host(host: str, tmp_path: Path) -> None:
    made = server_settings.environment(host, 4200, tmp_path, None)
    assert made["PREFECT_SERVER_API_CSRF_PROTECTION_ENABLED"] == "true"
    origins = made["PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS"].split(",")
    assert {"http://127.0.0.1:4200", "http://localhost:4200"} <= set(origins)
    assert made["PREFECT_API_URL"].removesuffix("/api") in origins
    assert not [one for one in origins if "*" in one or "0.0.0.0" in one or "[::]" in one]
    assert "GRAFT_REPORTS_URL" not in made


def test_reports_are_not_served_where_others_could_ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[argparse.Namespace] = []

    def run(options: argparse.Namespace, home: Path) -> int:
        seen.append(options)
        return 0

    monkeypatch.setattr(up, "run", run)
    monkeypatch.setattr(up, "adopt_orphans", lambda: None)
    monkeypatch.setattr(
        os, "environ", {**os.environ, **{f"PREFECT_{one}API_AUTH_STRING": "a:b" for one in ("", "SERVER_")}}
    )
    arguments = ["--host", "0.0.0.0", "--port", str(free_port()), "--reports-port", "4201"]
    assert up.main([*arguments, "--home", str(tmp_path / "home")]) == 0
    assert seen[0].reports_port is None
    assert "GRAFT_REPORTS_URL" not in os.environ
