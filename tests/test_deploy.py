"""deploy/: its files are valid by their own tools, nothing is open or phones home, and the units' commands run."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest
from prefect.utilities.templating import apply_values, find_placeholders
from ruamel.yaml import YAML

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
    assert [name for name, one in COMPOSE["services"].items() if "ports" in one] == ["server"]
    example = (DEPLOY / "graft.env.example").read_text()
    assert re.search(r"^GRAFT_BIND=127\.0\.0\.1$", example, re.M)
    assert re.search(r"^PREFECT_SERVER_API_AUTH_STRING=$", example, re.M)
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


def test_workers_send_the_heartbeats_the_automation_counts_on() -> None:
    assert heartbeat.SILENCE.seconds == 90
    frequency = ("PREFECT_FLOWS_HEARTBEAT_FREQUENCY", "30")
    for name in ("worker-cpu", "worker-gpu"):
        assert frequency in COMPOSE["services"][name]["environment"].items()
    assert "=".join(frequency) in (DEPLOY / "systemd" / "graft-worker@.service").read_text()
    assert frequency in TEMPLATE["variables"]["properties"]["env"]["default"].items()


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


def test_an_entered_container_has_its_clone_once(tmp_path: Path) -> None:
    """The containers' entry script, with git and without Docker."""
    subprocess.run(["git", "init", "--quiet", str(tmp_path / "origin")], check=True)
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    commit = ["git", "-C", str(tmp_path / "origin"), *identity, "commit", "--quiet", "--allow-empty", "-m", "one"]
    subprocess.run(commit, check=True)
    (tmp_path / "checkout").mkdir()
    environment = {
        **os.environ,
        "GRAFT_CHECKOUT": str(tmp_path / "checkout"),
        "GRAFT_REPOSITORY": str(tmp_path / "origin"),
    }
    enter = [str(DEPLOY / "enter.sh"), "git", "-C", str(tmp_path / "checkout"), "log", "--format=%s"]
    for _ in range(2):
        done = subprocess.run(enter, env=environment, capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (0, "one\n"), done.stderr


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


def test_a_stopped_worker_unit_leaves_nothing_running(tmp_path: Path) -> None:
    """mixed: SIGINT to the worker, then SIGKILL to all that is left in the unit, whichever session it is in."""
    filled_in(tmp_path, 4200)
    worker = Unit("graft-worker@gpu", tmp_path).settings
    assert (worker["KillMode"], worker["KillSignal"]) == (["mixed"], ["SIGINT"])
    assert int(worker["TimeoutStopSec"][0]) > 30  # what Prefect gives a run to end


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

        check = subprocess.run(units["server"].command("ExecStartPre"), env=units["server"].environment, timeout=10)
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
        forged = urllib.request.Request(f"{server.api_url}/work_pools/filter", data=b"{}", method="POST")
        forged.add_header("Authorization", f"Basic {b64encode(AUTH.encode()).decode()}")
        with pytest.raises(urllib.error.HTTPError, match="403") as refused:
            urllib.request.urlopen(forged, timeout=5)
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
