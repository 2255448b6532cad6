"""deploy/: its files are valid by their own tools, nothing is open or phones home, and the units' commands run."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from prefect.utilities.templating import apply_values, find_placeholders
from ruamel.yaml import YAML
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine

from flows import heartbeat
from tests.flows.local_prefect import LocalPrefect

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
COMPOSE: dict[str, Any] = YAML(typ="safe").load(DEPLOY / "compose.yaml")
DEPLOYMENTS: dict[str, Any] = YAML(typ="safe").load(ROOT / "prefect.yaml")
TEMPLATE: dict[str, Any] = json.loads((DEPLOY / "kubernetes" / "gpu-job-template.json").read_text())
FILES = [path for path in [*DEPLOY.rglob("*"), ROOT / "prefect.yaml", ROOT / "Makefile"] if path.is_file()]
AUTH = "someone:a secret"


def filled_in(folder: Path, port: int, auth: str = AUTH) -> Path:
    """graft.env.example as someone would fill it in."""
    given = {
        "PREFECT_SERVER_API_AUTH_STRING": auth,
        "PREFECT_API_AUTH_STRING": auth,
        "GRAFT_PORT": str(port),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "POSTGRES_PASSWORD": "another",
        "GRAFT_REPOSITORY": "https://example.org/graft.git",
    }
    text = (DEPLOY / "graft.env.example").read_text()
    for name, value in given.items():
        text, times = re.subn(rf"^{name}=.*$", f"{name}={value}", text, flags=re.M)
        assert times == 1, name
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "graft.env"
    path.write_text(text)
    return path


class Unit:
    """A systemd unit of deploy/, its paths moved to this checkout and a temporary folder, its specifiers resolved."""

    def __init__(self, name: str, folder: Path) -> None:
        file, instance = (
            (f"{name.split('@')[0]}@.service", name.split("@")[1]) if "@" in name else (f"{name}.service", "")
        )
        text = moved((DEPLOY / "systemd" / file).read_text(), folder)
        text = text.replace("%i", instance).replace("%H", socket.gethostname())
        pairs = [line.split("=", 1) for line in text.splitlines() if "=" in line and line[0] not in "#;["]
        self.name = name
        self.settings = {key: [value for one, value in pairs if one == key] for key, _ in pairs}
        self.environment = {"PATH": os.defpath, "HOME": str(folder)}
        for line in self.settings["Environment"]:
            self.environment |= dict(word.split("=", 1) for word in shlex.split(line))
        for path in self.settings["EnvironmentFile"]:
            if not path.startswith("-") or Path(path[1:]).exists():
                lines = Path(path.lstrip("-")).read_text().splitlines()
                self.environment |= dict(line.split("=", 1) for line in lines if "=" in line and line[0] != "#")

    def command(self, key: str = "ExecStart") -> list[str]:
        """Its words, with systemd's two ways of filling in a variable: ${X} is one word, $X as many as it has."""
        words: list[str] = []
        for word in shlex.split(self.settings[key][0]):
            if word.startswith("$") and not word.startswith("${"):
                words += self.environment.get(word[1:], "").split()
            else:
                words.append(re.sub(r"\$\{(\w+)\}", lambda found: self.environment[found[1]], word))
        return words


def moved(text: str, folder: Path) -> str:
    """A unit's text with the paths of the machine it is meant for replaced."""
    text = text.replace("/srv/graft/.venv/bin/python", sys.executable).replace("/srv/graft", str(ROOT))
    return text.replace("/etc/graft/", f"{folder}/").replace("/var/lib/", f"{folder}/")


def test_no_address_is_open_without_a_password() -> None:
    open_addresses = re.compile(r"0\.0\.0\.0|\[?::\]?(?=[\s\"',:]|$)")
    for path in FILES:
        lines = [line for line in path.read_text().splitlines() if open_addresses.search(line.split("#")[0])]
        if path.name == "compose.yaml":
            # Inside a container of its own; what leads there is under ports.
            (line,) = lines
            assert "prefect, server, start, --host, 0.0.0.0" in line
        else:
            assert not lines, path
    server = COMPOSE["services"]["server"]
    assert server["ports"] == ["${GRAFT_BIND:-127.0.0.1}:${GRAFT_PORT:-4200}:4200"]
    assert server["environment"]["PREFECT_SERVER_API_AUTH_STRING"].startswith("${PREFECT_SERVER_API_AUTH_STRING:?")
    assert server["environment"]["PREFECT_SERVER_API_CSRF_PROTECTION_ENABLED"] == "true"
    origin = "PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS"
    assert server["environment"][origin] == f"${{{origin}:-http://127.0.0.1:4200}}"
    assert [name for name, one in COMPOSE["services"].items() if "ports" in one] == ["server"]
    example = (DEPLOY / "graft.env.example").read_text()
    assert re.search(r"^GRAFT_BIND=127\.0\.0\.1$", example, re.M)
    assert re.search(r"^PREFECT_SERVER_API_AUTH_STRING=$", example, re.M)
    assert re.search(rf"^{origin}=http://127\.0\.0\.1:4200$", example, re.M)
    assert f"Environment={origin}=http://127.0.0.1:4200\n" in (DEPLOY / "systemd" / "graft-server.service").read_text()
    assert "--with-healthcheck" not in "".join(unit.read_text() for unit in UNITS)
    for name in ("worker-cpu", "worker-gpu"):
        assert COMPOSE["services"][name]["environment"]["PREFECT_WORKER_WEBSERVER_HOST"] == "127.0.0.1"


def test_nothing_phones_home() -> None:
    quiet = {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}
    for name, service in COMPOSE["services"].items():
        if name != "postgres":
            assert quiet.items() <= service["environment"].items(), name
    for unit in UNITS:
        assert all(f"{name}={value}" in unit.read_text() for name, value in quiet.items()), unit
    assert quiet.items() <= TEMPLATE["variables"]["properties"]["env"]["default"].items()
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    assert all(f"{name}={value}" in dockerfile for name, value in quiet.items())


@pytest.mark.parametrize("filled", [True, False])
def test_docker_compose_accepts_its_file(filled: bool, tmp_path: Path) -> None:
    plugin = (
        shutil.which("docker") and not subprocess.run(["docker", "compose", "version"], capture_output=True).returncode
    )
    command = ["docker", "compose"] if plugin else ["docker-compose"]
    if not shutil.which(command[0]):
        pytest.skip("needs docker compose")
    environment = filled_in(tmp_path, 4200) if filled else DEPLOY / "graft.env.example"
    command += ["-f", str(DEPLOY / "compose.yaml"), "--env-file", str(environment), "config", "-q"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode == 0) == filled, done.stderr
    assert filled or "set it in deploy/graft.env" in done.stderr


def test_the_image_gets_the_pinned_dependencies(tmp_path: Path) -> None:
    """Its one clever line, run as the build runs it."""
    dockerfile = (DEPLOY / "Dockerfile").read_text().replace("\\\n", "")
    (install,) = re.findall(r"^RUN (python -c .*?) && pip install", dockerfile, re.M)
    for name in ("pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    environment = {"PATH": f"{Path(sys.executable).parent}:{os.defpath}", "CUDA": "1"}
    subprocess.run(["sh", "-euc", install], cwd=tmp_path, env=environment, check=True)
    wanted = (tmp_path / "wanted.txt").read_text().splitlines()
    (tensorflow,) = (line for line in wanted if line.startswith("tensorflow"))
    assert tensorflow.startswith("tensorflow[and-cuda]>=")
    assert len(wanted) > 15
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text()
    for line in re.findall(r"^COPY (?:--\S+ )?(.*) \S+$", dockerfile, re.M):
        assert all(f"!{path}\n" in ignored for path in line.split()), line


def test_the_clone_is_in_a_folder_of_the_volume() -> None:
    """Image, compose and Kubernetes agree; the volume's own top folder is root's and may hold lost+found."""
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    environment = dict(re.findall(r"^(?:ENV|   ) (\w+)=(\S+)", dockerfile, re.M))
    volume = str(Path(environment["GRAFT_CHECKOUT"]).parent)
    (owned,) = re.findall(r"install -d -o graft -g graft (.*)", dockerfile)
    assert {volume, environment["PREFECT_HOME"]} <= set(owned.split())
    assert environment["GRAFT_CHECKOUT"] not in owned.split()
    for name in ("cpu", "gpu"):
        assert COMPOSE["services"][f"worker-{name}"]["volumes"] == [f"checkout-{name}:{volume}"]
    pod = TEMPLATE["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["volumeMounts"] == [{"name": "checkout", "mountPath": volume}]
    assert "command" not in container  # the image's own, enter.sh, makes the clone
    given = TEMPLATE["variables"]["properties"]["env"]["default"]
    assert {name: environment[name] for name in given} == given
    readme = (DEPLOY / "README.md").read_text()
    assert f"git -C {environment['GRAFT_CHECKOUT']} pull --ff-only" in readme


class Container:
    """enter.sh in a volume of its own, with git and DVC and without Docker."""

    def __init__(self, folder: Path) -> None:
        work, self.origin, self.volume = folder / "work", folder / "origin.git", folder / "volume"
        (work / ".dvc").mkdir(parents=True)
        (work / ".dvc" / "config").touch()
        (work / ".dvc" / ".gitignore").write_text("/config.local\n/tmp\n")
        identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        for command in (["init", "--quiet"], ["add", "."], [*identity, "commit", "--quiet", "-m", "one"]):
            subprocess.run(["git", "-C", str(work), *command], check=True)
        subprocess.run(["git", "clone", "--quiet", "--bare", str(work), str(self.origin)], check=True)
        # As on a volume with a file system of its own.
        (self.volume / "lost+found").mkdir(parents=True)
        self.checkout = self.volume / "checkout"
        self.instead = folder / "bin"
        self.instead.mkdir()
        self.environment = {
            **os.environ,
            "PATH": os.pathsep.join([str(self.instead), str(Path(sys.executable).parent), os.environ["PATH"]]),
            "GRAFT_CHECKOUT": str(self.checkout),
            "GRAFT_REPOSITORY": str(self.origin),
            "DVC_NO_ANALYTICS": "1",
        }

    def enter(self, **environment: str) -> subprocess.Popen[str]:
        """Start it, with a command that shows where it was started, and what it finds."""
        return subprocess.Popen(
            ["sh", str(DEPLOY / "enter.sh"), "sh", "-c", 'pwd; git -C "$GRAFT_CHECKOUT" log --format=%s'],
            env={**self.environment, **environment},
            cwd=self.volume.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,
        )

    def entered(self, **environment: str) -> tuple[int, str, str]:
        """Its exit code, output and errors."""
        process = self.enter(**environment)
        output, errors = process.communicate(timeout=180)
        return process.returncode, output, errors

    def remotes(self) -> str:
        """DVC's remotes in the clone, and what git sees as changed."""
        listed = [["dvc", "remote", "list"], ["git", "status", "--porcelain"]]
        return "".join(
            subprocess.run(
                one, cwd=self.checkout, env=self.environment, capture_output=True, text=True, check=True
            ).stdout
            for one in listed
        )


@pytest.mark.slow
def test_an_entered_container_has_its_clone_and_remote_whatever_stopped_it_before(tmp_path: Path) -> None:
    container = Container(tmp_path)
    good = (0, f"{tmp_path}\none\n", "")

    # Killed within the clone, which is left as only a kill leaves it.
    git = container.instead / "git"
    git.write_text(f'#!/bin/sh\n{shutil.which("git")} "$@"\n: >"{tmp_path}/cloned"\nsleep 600\n')
    git.chmod(0o755)
    process = container.enter(GRAFT_REMOTE_URL=str(tmp_path / "remote"))
    deadline = time.monotonic() + 120
    while not (tmp_path / "cloned").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    git.unlink()
    (container.volume / "checkout.partial" / ".git" / "HEAD").unlink()
    assert not container.checkout.exists()

    # DVC fails once, after the clone.
    dvc = container.instead / "dvc"
    dvc.write_text("#!/bin/sh\nexit 9\n")
    dvc.chmod(0o755)
    assert container.entered(GRAFT_REMOTE_URL=str(tmp_path / "remote"))[:2] == (9, "")
    dvc.unlink()
    assert (container.checkout / ".git").exists()

    assert container.entered(GRAFT_REMOTE_URL=str(tmp_path / "remote")) == good
    assert container.remotes().split() == ["store", str(tmp_path / "remote")]
    assert sorted(path.name for path in container.volume.iterdir()) == ["checkout", "lost+found"]

    # Another address the next time, and what is in the clone stays.
    (container.checkout / "kept").touch()
    there = {"GRAFT_REMOTE": "mine", "GRAFT_REMOTE_URL": "s3://b/k", "GRAFT_REMOTE_ENDPOINT": "http://127.0.0.1:9"}
    assert container.entered(**there) == good
    settings = (container.checkout / ".dvc" / "config.local").read_text()
    assert "url = s3://b/k" in settings
    assert "endpointurl = http://127.0.0.1:9" in settings
    assert "verify = true" in settings
    assert (container.checkout / "kept").exists()


def test_a_folder_in_the_clones_way_is_not_touched(tmp_path: Path) -> None:
    container = Container(tmp_path)
    container.checkout.mkdir()
    (container.checkout / "someone's").touch()
    code, output, errors = container.entered()
    assert (code != 0, output) == (True, "")
    assert str(container.checkout) in errors
    (container.checkout / "someone's").unlink()
    assert container.entered() == (0, f"{tmp_path}\none\n", "")


def test_any_password_reaches_the_database(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compose's address with compose's variable, up to the password a database would get."""
    environment = COMPOSE["services"]["server"]["environment"]
    assert environment["PGPASSWORD"] == "${POSTGRES_PASSWORD}"
    password = "a@b/c:d%20?e#f"
    received = b""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def database() -> None:
            nonlocal received
            connection, _ = listening.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"R" + struct.pack("!ii", 8, 3))  # send me your password, as it is
                received = connection.recv(4096)

        thread = threading.Thread(target=database, daemon=True)
        thread.start()
        monkeypatch.setenv("PGPASSWORD", password)
        monkeypatch.setenv("PGSSLMODE", "disable")
        port = listening.getsockname()[1]
        url = environment["PREFECT_SERVER_DATABASE_CONNECTION_URL"].replace("postgres:5432", f"127.0.0.1:{port}")

        async def connect() -> None:
            engine = create_async_engine(url)
            try:
                async with engine.connect():
                    raise AssertionError("there is no database")
            finally:
                await engine.dispose()

        with pytest.raises((OSError, DBAPIError, asyncpg.PostgresError)):
            asyncio.run(connect())
        thread.join(10)
    assert received[5:] == password.encode() + b"\0"


def test_the_gpu_worker_asks_for_the_nvidia_devices() -> None:
    (device,) = COMPOSE["services"]["worker-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}


def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    if not shutil.which("systemd-analyze"):
        pytest.skip("needs systemd-analyze")
    filled_in(tmp_path, 4200)
    names = []
    for unit in UNITS:
        (tmp_path / unit.name).write_text(moved(unit.read_text(), tmp_path))
        names.append(str(tmp_path / unit.name.replace("@.", "@gpu.")))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", *names], capture_output=True, text=True)
    # It also reports on the machine's own units, by their names.
    ours = [line for line in done.stderr.splitlines() if "graft" in line]
    assert (done.returncode, ours) == (0, []), done.stderr
    for name in names:
        rating = ["systemd-analyze", "security", "--offline=true", "--threshold=55", name]
        done = subprocess.run(rating, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-300:] + done.stderr


def test_a_server_unit_without_a_password_does_not_start(tmp_path: Path) -> None:
    filled_in(tmp_path, 4200, auth="")
    unit = Unit("graft-server", tmp_path)
    done = subprocess.run(unit.command("ExecStartPre"), env=unit.environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert "set PREFECT_SERVER_API_AUTH_STRING" in done.stderr
    assert unit.settings["RestartPreventExitStatus"] == ["2"]


WORK = """
import os, subprocess, sys
from pathlib import Path
from prefect import flow
from prefect.logging import get_run_logger
from flows import child

# What a stage starts may leave its session.
SLEEP = [sys.executable, "-c", "import time; time.sleep(600)", "the-grandchild"]
STAGE = f"import subprocess; subprocess.run({SLEEP}, start_new_session=True)"

@flow
def work(stage: bool = False):
    get_run_logger().info("in %s", os.getcwd())
    if stage:
        child.run([sys.executable, "-c", STAGE], Path.cwd(), print)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalPrefect]:
    """A running server, without pools."""
    with LocalPrefect(tmp_path_factory.mktemp("prefect")) as running:
        yield running


@pytest.mark.slow
def test_a_worker_without_its_clones_address_says_so_in_the_run(server: LocalPrefect, tmp_path: Path) -> None:
    (tmp_path / "work.py").write_text(WORK)
    server.create_pool("cpu")
    server.deploy("work/anywhere", entrypoint="work.py:work", pool="cpu")
    start = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "cpu", "--type", "process"]
    worker = server.process([*start, "--name", "lost"], cwd=tmp_path, log="lost")
    assert "GRAFT_CHECKOUT" not in server.environment
    state = server.wait_for_state(server.run("work/anywhere"), {"CRASHED"}, seconds=60).state
    assert state is not None
    assert state.message == "set GRAFT_CHECKOUT to the clone on this machine before starting the worker"
    server.kill_worker(worker)
    worker = server.worker("cpu", "found", cwd=tmp_path)
    run = server.run("work/anywhere")
    server.wait_for_state(run, {"COMPLETED"}, seconds=60)
    server.wait_for_log(run, f"in {tmp_path}", seconds=10)
    server.kill_worker(worker)


@pytest.mark.slow
def test_a_stopped_worker_unit_ends_its_run_and_leaves_the_rest_to_systemd(
    server: LocalPrefect, tmp_path: Path
) -> None:
    """KillMode=mixed, with systemd's part left out: SIGINT to the worker alone, and only once that has ended SIGKILL
    to all that is still in the unit. What needs that is what left the run's session, and nothing else."""
    (tmp_path / "work.py").write_text(WORK)
    filled_in(tmp_path, server.port)
    shutil.copy(DEPLOY / "systemd" / "worker-gpu.env", tmp_path)
    unit = Unit("graft-worker@gpu", tmp_path)
    assert unit.settings["KillMode"] == ["mixed"]
    server.create_pool("gpu")
    server.deploy("work/stopped", directory=tmp_path, entrypoint="work.py:work", pool="gpu")
    others = {one.pid for one in server.processes()}

    def of_the_unit() -> list[str]:
        return [" ".join(one.cmdline()) for one in server.processes() if one.pid not in others]

    worker = server.process(unit.command(), cwd=ROOT, log="stopped", environment=unit.environment)
    server.run("work/stopped", stage=True)
    deadline = time.monotonic() + 240
    while not any("the-grandchild" in one.split() for one in of_the_unit()):
        assert time.monotonic() < deadline, server.log("stopped")
        time.sleep(0.2)
    assert len(of_the_unit()) >= 4  # worker, run, stage, what the stage started

    worker.send_signal(getattr(signal, unit.settings["KillSignal"][0]))
    begun = time.monotonic()
    seconds = int(unit.settings["TimeoutStopSec"][0])
    worker.wait(seconds)
    while [one for one in of_the_unit() if "the-grandchild" not in one.split()]:
        assert time.monotonic() - begun < seconds, of_the_unit()
        time.sleep(0.1)


def test_the_kubernetes_template_asks_for_one_gpu() -> None:
    defaults = {name: one["default"] for name, one in TEMPLATE["variables"]["properties"].items() if "default" in one}
    # Prefect fills these in for each run.
    given = {"name": "fine-tune", "labels": {"run": "1"}, "command": ["prefect", "flow-run", "execute"]}
    manifest = TEMPLATE["job_configuration"]["job_manifest"]
    known = set(TEMPLATE["variables"]["properties"])
    assert {one.name for one in find_placeholders(manifest)} <= known
    job = apply_values(manifest, {**defaults, **given, "env": [{"name": "A", "value": "b"}]})
    assert (job["apiVersion"], job["kind"], job["spec"]["backoffLimit"]) == ("batch/v1", "Job", 0)
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["resources"]["limits"] == {"nvidia.com/gpu": 1}
    assert container["name"] == "prefect-job"  # the name prefect-kubernetes insists on
    assert (pod["restartPolicy"], pod["securityContext"]["runAsNonRoot"]) == ("Never", True)
    # The worker gives up first, and says why: after BEGINNING the run is ended from outside.
    assert defaults["pod_watch_timeout_seconds"] < heartbeat.BEGINNING.total_seconds()
    kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="needs kubernetes-validate for the schema")
    kubernetes_validate.validate(job, "1.32", strict=True)


@pytest.mark.slow
def test_the_units_commands_run(tmp_path: Path) -> None:
    server = LocalPrefect(tmp_path / "logs", auth=AUTH)
    filled_in(tmp_path, server.port)
    shutil.copy(DEPLOY / "systemd" / "worker-gpu.env", tmp_path)
    server.environment = {}
    try:
        units = {name: Unit(f"graft-{name}", tmp_path) for name in ("server", "setup", "worker@cpu", "worker@gpu")}
        assert units["worker@gpu"].command()[-2:] == ["--limit", "1"]
        assert units["worker@cpu"].command()[-2:] == ["--type", "process"]

        def start(name: str) -> subprocess.Popen[bytes]:
            unit = units[name]
            (directory,) = unit.settings["WorkingDirectory"]
            return server.process(unit.command(), cwd=Path(directory), log=name, environment=unit.environment)

        check = subprocess.run(units["server"].command("ExecStartPre"), env=units["server"].environment, timeout=60)
        assert check.returncode == 0
        begun = start("server")
        # Whoever deploys has a checkout of their own, which is no business of the workers'.
        units["setup"].environment["GRAFT_CHECKOUT"] = "/of/who/deploys"
        assert start("setup").wait(90) == 0, server.log("setup") + server.log("server")
        workers = [start("worker@cpu"), start("worker@gpu")]
        while not (server.online("cpu") and server.online("gpu")):
            assert not [one for one in workers if one.poll() is not None], server.log("worker@cpu")
        assert server.online("gpu") == [f"{socket.gethostname()}-gpu"]

        # The password, and the token against forged requests, are really asked for.
        assert server.http_status("/health") == 200
        assert server.http_status("/work_pools/gpu") == 401
        assert server.http_status("/work_pools/gpu", auth="someone:else") == 401
        assert server.http_status("/work_pools/gpu", auth=AUTH) == 200
        preflight = urllib.request.Request(f"{server.api_url}/work_pools/filter", method="OPTIONS")
        preflight.add_header("Origin", "http://evil.example")
        preflight.add_header("Access-Control-Request-Method", "POST")
        with pytest.raises(urllib.error.HTTPError, match="400") as refused:
            urllib.request.urlopen(preflight, timeout=30)
        assert "Access-Control-Allow-Origin" not in refused.value.headers
        refused.value.close()
        forged = urllib.request.Request(f"{server.api_url}/work_pools/filter", data=b"{}", method="POST")
        forged.add_header("Authorization", f"Basic {b64encode(AUTH.encode()).decode()}")
        with pytest.raises(urllib.error.HTTPError, match="403") as refused:
            urllib.request.urlopen(forged, timeout=30)
        refused.value.close()

        with server.client() as client:
            deployments = client.read_deployments()
            assert {one.name for one in deployments} == {"nightly", "on-demand", "watch", "gpu"}
            for one in deployments:
                # Prefect takes a parameter of a wrong name without a word.
                assert set(one.parameters) <= set((one.parameter_openapi_schema or {})["properties"]), one.name
                assert one.pull_steps == DEPLOYMENTS["pull"]
            assert client.read_work_pool("gpu").concurrency_limit == 1
            assert {one.name for one in client.read_automations()} == {one.name for one in heartbeat.automations()}
            settings = client.request("GET", "/admin/settings").json()
            assert settings["server"]["analytics_enabled"] is False
            assert settings["server"]["ui"]["show_promotional_content"] is False

        # The clients' own way through password and token, with the pool for a cluster.
        server.environment = units["worker@cpu"].environment
        template = str(DEPLOY / "kubernetes" / "gpu-job-template.json")
        server.cli("work-pool", "create", "cluster", "--type", "kubernetes", "--base-job-template", template)
        with server.client() as client:
            assert client.read_work_pool("cluster").base_job_template == TEMPLATE

        for one in [*workers, begun]:
            one.send_signal(getattr(signal, units["server"].settings["KillSignal"][0]))
            assert one.wait(20) in (0, -signal.SIGINT)
    finally:
        server.close()
    assert not server.processes()
