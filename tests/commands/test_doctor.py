"""graft doctor: each thing that can be wrong, made wrong for real; and that a check that fails stops no other."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pytest
from dvc.repo import Repo
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

from commands import doctor
from commands.checks import (
    checkout,
    disk,
    dvc_settings,
    gpus,
    installed,
    memo,
    outputs,
    prefect_api,
    remotes,
    secrets,
    telemetry,
    vulnerabilities,
    weights,
)
from commands.checks.finding import Finding
from flows import remote_objects, verified
from stages.store.memo import Memo
from stages.store.tensor_memo import TensorMemo
from tests.test_layers import HEAVY, ROOT

WEIGHTS = "pretraining/mobilenet_v2_0.35_96_letters.weights.h5"
# Runs the command, then says which of the libraries that take seconds to import it loaded.
RUN = f"""
import sys
from commands.__main__ import main
sys.argv = ["graft", "doctor", *sys.argv[1:]]
try:
    main()
finally:
    sys.stderr.write(str([name for name in {HEAVY!r} if name in sys.modules]))
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose one stage has run, committed, with everything as it should be."""
    root = tmp_path_factory.mktemp("doctor") / "project"
    (root / "pretraining").mkdir(parents=True)
    shutil.copy(ROOT / "params.yaml", root)
    shutil.copy(ROOT / WEIGHTS, root / "pretraining")
    (root / "dvc.yaml").write_text(
        "stages:\n  download:\n    cmd: mkdir -p data/download && echo one > data/download/1 && echo two > "
        "data/download/2\n    outs: [data/download]\n"
    )
    (root / ".gitignore").write_text("/data/\n/.graft/\n")
    run(root, "git", "init", "-q", "-b", "main")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        with Repo.init(str(root)) as repo, repo.config.edit("repo") as settings:
            settings["core"] = {"analytics": False, "check_update": False}
        with Repo(str(root)) as repo:
            repo.reproduce()
    commit(root)
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it to spoil, which is the working folder."""
    shutil.copytree(made, tmp_path / "project", symlinks=True)
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


def run(root: Path, *command: str) -> None:
    subprocess.run(command, cwd=root, check=True, capture_output=True)


def commit(root: Path) -> None:
    run(root, "git", "add", "-A")
    run(root, "git", "-c", "user.name=T", "-c", "user.email=t@example.com", "commit", "-q", "-m", "x")


def remote(root: Path, **settings: Any) -> Path:
    """A default remote in a folder, where everything is."""
    store = root.parent / "store"
    with Repo(str(root)) as repo, repo.config.edit("repo") as file:
        file["remote"] = {"store": {"url": str(store), **settings}}
        file["core"]["remote"] = "store"
    with Repo(str(root)) as repo:
        repo.push()
    return store


def flip(path: Path) -> None:
    """Other bytes of the same length, time and mode."""
    found = path.stat()
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    path.chmod(found.st_mode)


def recorded(root: Path, path: str) -> Path:
    """The cache's object of an output."""
    with verified.project(root) as repo:
        (md5,) = {one.md5 for one in remote_objects.recorded(repo) if one.path == path}
        return remote_objects.cached(repo, md5)


def only(found: Iterator[Finding]) -> Finding:
    (one,) = found
    return one


def graft_doctor(root: Path, *options: str, **environment: str) -> tuple[int, dict[str, Any], str]:
    """(exit code, JSON, stderr) of the command in a process of its own."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "DVC_"))}
    done = subprocess.run(
        [sys.executable, "-c", RUN, "--json", *options], cwd=root, capture_output=True, text=True, timeout=120,
        env={**inherited, "PYTHONPATH": str(ROOT), **environment},
    )  # fmt: skip
    return done.returncode, json.loads(done.stdout), done.stderr


def test_a_sound_project_has_nothing_wrong_and_nothing_heavy_is_imported(root: Path) -> None:
    remote(root, verify=True)
    commit(root)
    code, answer, errors = graft_doctor(root, "--deep", PREFECT_SERVER_ANALYTICS_ENABLED="false")
    assert (code, answer["exit_code"], errors) == (0, 0, "[]")
    levels = {one["check"]: one["level"] for one in answer["findings"]}
    assert "problem" not in levels.values()
    assert [one for one, level in levels.items() if level == "warning" and one != "packages"] == []
    assert set(levels) == {
        "python", "packages", "disk", "gpus", "git", "secrets", "weights", "dvc settings", "locks", "outputs",
        "dvc remote store", "memo", "telemetry", "prefect api",
    }  # fmt: skip


def test_everything_wrong_is_told_at_once_and_the_gravest_gives_the_code(root: Path, tmp_path: Path) -> None:
    store = remote(root)
    (root / "prefect.yaml").write_text("password: hunter2\n")
    (store / "files/md5" / recorded(root, "data/download/1").relative_to(root / ".dvc/cache/files/md5")).unlink()
    flip(recorded(root, "data/download/2"))
    (root / ".dvc/tmp/rwlock").write_text('{"data')
    (root / WEIGHTS).unlink()
    fake = tmp_path / "site/fastapi-0.165.0.dist-info"
    fake.mkdir(parents=True)
    (fake / "METADATA").write_text("Metadata-Version: 2.1\nName: fastapi\nVersion: 0.165.0\n")
    path = os.pathsep.join([str(tmp_path / "site"), str(ROOT)])
    address = "http://user:secret@127.0.0.1:9/api"
    code, answer, _ = graft_doctor(root, "--deep", PYTHONPATH=path, PREFECT_API_URL=address)
    problems = {(one["check"], one["code"]) for one in answer["findings"] if one["level"] == "problem"}
    assert problems == {
        ("packages", 5), ("secrets", 2), ("weights", 2), ("locks", 5), ("outputs", 4), ("dvc remote", 2),
        ("dvc remote store", 5), ("prefect api", 5),
    }  # fmt: skip
    assert code == answer["exit_code"] == 4
    assert all(one["advice"] for one in answer["findings"] if one["level"] != "ok")
    assert not any(secret in json.dumps(answer) for secret in ("hunter2", "user:secret"))
    assert graft_doctor(root, PREFECT_API_URL=address)[0] == 2  # without --deep nobody reads the flipped bytes


def test_a_check_that_raises_or_hangs_stops_no_other() -> None:
    def raises() -> Iterator[Finding]:
        yield Finding("broken", "ok", "before")
        raise KeyError("no such thing")

    def hangs() -> Iterator[Finding]:
        time.sleep(600)
        yield Finding("late", "ok", "never")

    (before, after), ended = doctor._answer("broken", raises, 5)
    assert (before.found, after.level, after.code, ended) == ("before", "problem", 5, True)
    assert "KeyError: 'no such thing'" in after.found
    (late,), ended = doctor._answer("late", hangs, 0.2)
    assert (late.found, late.code, ended) == ("no answer within 0.2 s", 5, False)


def test_the_command_ends_though_a_check_never_does(root: Path) -> None:
    (root / ".dvc/tmp/rwlock").unlink(missing_ok=True)
    os.mkfifo(root / ".dvc/tmp/rwlock")  # whoever opens it waits for a writer
    code, answer, _ = graft_doctor(root, "--patience", "3")
    (locks,) = (one for one in answer["findings"] if one["check"] == "locks")
    assert (code, locks["found"]) == (5, "no answer within 3 s")
    assert answer["findings"][-1]["check"] == "prefect api"


def test_outside_a_project_it_says_where_to_start(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "commands", "doctor"], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert (done.returncode, "run graft from the project's root" in done.stderr) == (2, True)


def test_python_and_packages_are_held_against_what_graft_asks_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nrequires-python = ">=3.99"\ndependencies = ["fastapi<0.151", "sqlalchemy<2.1", "no-such-package"]\n'
    )
    (tmp_path / "constraints.txt").write_text("typer==0.0.1\npywin32==1 ; sys_platform == 'win32'\nnot-here==2\n")
    assert only(installed.python(tmp_path)).code == 5
    assert only(installed.python(ROOT)).level == "ok"
    for name, version in (("fastapi", "0.151.0"), ("SQLAlchemy", "2.1.0")):
        folder = tmp_path / f"site/{name}-{version}.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    monkeypatch.syspath_prepend(tmp_path / "site")
    *broken, other = installed.packages(tmp_path)
    assert [one.code for one in broken] == [5, 5, 5]
    assert ["server breaks at run time" in one.found for one in broken] == [True, True, False]
    assert "no-such-package is not installed" in broken[2].found
    assert (other.level, other.found.startswith("1 not as pinned: typer ")) == ("warning", True)


def test_disk_is_held_against_what_dvc_lock_says_was_written(root: Path) -> None:
    assert only(disk.free(root)).level == "ok"
    lock = (root / "dvc.lock").read_text()
    free = shutil.disk_usage(root).free
    (root / "dvc.lock").write_text(lock.replace("size: 8", f"size: {free}"))
    assert (only(disk.free(root)).code, disk.written(root)) == (5, {"download": free})
    (root / "dvc.lock").write_text(lock.replace("size: 8", f"size: {(free - 10**9) // 2 + 10**8}"))
    assert only(disk.free(root)).level == "warning"


def test_gpus_are_those_the_driver_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert only(gpus.seen(5)).level == "ok"
    driver = tmp_path / "nvidia-smi"
    for script, level, said in (
        ("echo 'NVIDIA H100, 81559 MiB, 550.54'", ("ok", "warning"), "NVIDIA H100, 81559 MiB"),
        ("echo 'Driver/library version mismatch'; exit 18", ("problem",), "version mismatch"),
        ("exec /bin/sleep 60", ("problem",), "has not answered for 0.5 s"),
    ):
        driver.write_text(f"#!/bin/sh\n{script}\n")
        driver.chmod(0o755)
        one = only(gpus.seen(0.5 if "sleep" in script else 30))
        assert one.level in level
        assert said in one.found
        assert one.code == (5 if one.level == "problem" else 0)


def test_git_tells_of_merges_edits_and_an_untracked_lock(root: Path, tmp_path: Path) -> None:
    assert only(checkout.state(root)).level == "ok"
    run(root, "git", "rm", "-q", "--cached", "dvc.lock")
    run(root, "git", "-c", "user.name=T", "-c", "user.email=t@example.com", "commit", "-q", "-m", "y")
    assert "dvc.lock is not tracked" in only(checkout.state(root)).found
    with (root / "params.yaml").open("a") as file:
        file.write("<<<<<<< HEAD\n")
    conflict, edited = checkout.state(root)
    assert (conflict.code, conflict.found) == (2, "conflict marks in params.yaml")
    assert (edited.level, "params.yaml" in edited.found) == ("warning", True)
    (tmp_path / "bare").mkdir()
    assert only(checkout.state(tmp_path / "bare")).level == "warning"


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("params.yaml", "  source: https://user:hunter2@example.com/a.zip"),
        ("prefect.yaml", "password: hunter2"),
        (".dvc/config", "    secret_access_key = hunter2"),
        (".dvc/config", "    url = ssh://me:hunter2@example.com/store"),
        ("recipes/mine.yaml", "  api_key: hunter2"),
    ],
)
def test_secrets_in_files_of_git_are_named_and_not_shown(root: Path, path: str, line: str) -> None:
    (root / "recipes").mkdir()
    assert only(secrets.in_git(root)).level == "ok"
    with (root / path).open("a") as file:
        file.write(f"# password: an example\n{line}\n")
    one = only(secrets.in_git(root))
    assert (one.code, one.found.startswith(f"{path}, line ")) == (2, True)
    assert "hunter2" not in one.found + one.advice


def test_weights_are_the_file_that_was_pinned(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert only(weights.named(root)).level == "ok"
    flip(root / WEIGHTS)
    assert only(weights.named(root)).code == 4
    (root / WEIGHTS).unlink()
    assert only(weights.named(root)).code == 2
    text = (ROOT / "recipes/your_images.yaml").read_text()
    (root / "params.yaml").write_text(text)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    one = only(weights.named(root))
    assert (one.level, str(tmp_path / "keras/models") in one.found) == ("warning", True)
    (tmp_path / "keras/models").mkdir(parents=True)
    (tmp_path / "keras/models/mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_160_no_top.h5").touch()
    assert only(weights.named(root)).level == "ok"
    (root / "params.yaml").write_text(text.replace("backbone: MobileNetV2", "backbone: MobileNetV9"))
    (one,), _ = doctor._answer("weights", lambda: weights.named(root), 30)
    assert (one.code, "feature_extract.backbone" in one.found) == (2, True)


def test_locks_name_who_holds_what_and_what_a_kill_left(root: Path) -> None:
    assert only(dvc_settings.locks(root, False)).level == "ok"
    record = root / ".dvc/tmp/rwlock"
    ended = subprocess.Popen(["true"])
    ended.wait()
    place = str(root / "data/download")
    record.write_text(json.dumps({"write": {}, "read": {place: [{"pid": ended.pid, "cmd": "dvc repro"}]}}))
    assert "a killed process left its mark on data/download" in only(dvc_settings.locks(root, False)).found
    record.write_text(json.dumps({"write": {place: {"pid": os.getpid(), "cmd": "dvc"}}, "read": {}}))
    used = only(dvc_settings.locks(root, False))
    assert (used.code, f"data/download is in use by pid {os.getpid()}" in used.found) == (6, True)
    record.write_text('{"data/down')
    assert only(dvc_settings.locks(root, False)).code == 5
    assert record.exists()
    assert [one.level for one in dvc_settings.locks(root, True)] == ["ok", "ok"]
    assert only(dvc_settings.locks(root, False)).level == "ok"
    (root / ".graft").mkdir()
    with (root / ".graft/checkout.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write("flow run brave-otter (pid 7 on vm)")
        file.flush()
        one = only(dvc_settings.locks(root, False))
    assert (one.code, "flow run brave-otter" in one.found) == (6, True)


def test_dvc_settings_that_break_or_report(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DVC_NO_ANALYTICS", raising=False)
    monkeypatch.chdir(ROOT)  # whose pyproject.toml tells Prefect's server
    assert only(dvc_settings.settings(root)).level == only(telemetry.off(root)).level == "ok"
    with Repo(str(root)) as repo, repo.config.edit("local") as settings:
        settings["core"] = {"hardlink_lock": True, "analytics": True, "check_update": True}
    assert only(dvc_settings.settings(root)).code == 2
    assert ["usage reports" in one.found for one in telemetry.off(root)] == [True, False]


def test_flipped_bytes_are_found_deep_and_the_advice_mends_them(root: Path) -> None:
    quick, deep = outputs.recorded(root, False), outputs.recorded(root, True)
    assert only(quick).level == only(deep).level == "ok"
    object_of_1 = recorded(root, "data/download/1")
    flip(object_of_1)
    assert only(outputs.recorded(root, False)).level == "ok"
    one = only(outputs.recorded(root, True))
    assert (one.code, str(object_of_1.relative_to(root)) in one.found) == (4, True)
    object_of_1.unlink()
    one = only(outputs.recorded(root, True))
    assert (one.level, one.found) == ("warning", "1 of 3 recorded objects are not in DVC's cache: data/download/1")
    with Repo(str(root)) as repo:
        repo.commit(force=True)
    assert only(outputs.recorded(root, True)).level == "ok"
    # An output that DVC takes for unchanged, and one whose change it sees.
    flip(root / "data/download/2")
    one = only(outputs.recorded(root, True))
    assert (one.code, "data/download/2" in one.found) == (4, True)
    (root / "data/download/2").write_text("edited by hand")
    one = only(outputs.recorded(root, True))
    assert (one.level, "DVC sees that" in one.found) == ("warning", True)


def test_remotes_are_set_verified_and_named_as_prefect_yaml_says(root: Path) -> None:
    assert only(remotes.settings(root)).level == "ok"
    (root / "prefect.yaml").write_text("deployments: [{name: a, parameters: {gpu_remote: store}}]")
    found = list(remotes.settings(root))
    assert [(one.level, one.code) for one in found] == [("problem", 2), ("ok", 0)]
    remote(root)
    one = only(remotes.settings(root))
    assert (one.code, "verify is off" in one.found) == (2, True)
    remote(root, verify=True)
    assert list(remotes.settings(root)) == []


def test_what_a_remote_lost_is_listed_and_repaired(root: Path) -> None:
    store = remote(root, verify=True)
    object_of_1 = recorded(root, "data/download/1")
    there = store / object_of_1.relative_to(root / ".dvc/cache")
    assert only(remotes.contents(root, True, False)).level == "ok"
    there.unlink()
    one = only(remotes.contents(root, False, False))
    assert (one.code, "data/download/1" in one.found, "--repair" in one.advice) == (5, True, True)
    with Repo(str(root)) as repo:
        assert repo.push() == 0  # DVC believes it to be there
    assert not there.exists()
    done, now = remotes.contents(root, False, True)
    assert (done.found, now.level) == ("uploaded 1 objects: data/download/1", "ok")
    assert there.read_bytes() == object_of_1.read_bytes()
    # Of the same name with other bytes: seen deep alone, and replaced.
    flip(there)
    assert only(remotes.contents(root, False, False)).level == "ok"
    assert only(remotes.contents(root, True, False)).code == 4
    assert [one.level for one in remotes.contents(root, True, True)] == ["ok", "ok"]
    assert there.read_bytes() == object_of_1.read_bytes()
    # What is damaged here, too, is not sent.
    there.unlink()
    flip(object_of_1)
    damaged, lost = remotes.contents(root, False, True)
    assert (damaged.code, lost.code, there.exists()) == (4, 5, False)
    shutil.rmtree(store)
    assert "answers, and holds nothing" in only(remotes.contents(root, False, False)).found


def test_a_remote_that_refuses_or_never_answers_is_told_in_time(root: Path) -> None:
    with Repo(str(root)) as repo, repo.config.edit("repo") as file:
        file["remote"] = {"cloud": {"url": "http://127.0.0.1:9/store"}}
    one = only(remotes.contents(root, False, False))
    assert (one.code, one.check, "cannot be reached" in one.found) == (5, "dvc remote cloud", True)


def test_damage_in_the_memo_is_a_warning(root: Path) -> None:
    assert only(memo.kept(root, False)).level == "ok"
    schema = pa.schema([("key", pa.string()), ("value", pa.int64())])
    Memo(root / ".graft/memo/measurements/f", schema).add(pa.table({"key": ["0" * 64], "value": [1]}, schema=schema))
    with TensorMemo(root / ".graft/memo/features/f", (3,), np.float16) as rows:
        rows.add([bytes([n]) * 32 for n in range(5)], np.arange(15, dtype=np.float16).reshape(5, 3))
    assert only(memo.kept(root, False)).found.endswith("2 read, all whole")
    for path in (root / ".graft/memo").rglob("*.*"):
        whole = path.read_bytes()
        flip(path)
        one = only(memo.kept(root, False))
        assert (one.level, path.name in one.found) == ("warning", True)
        path.write_bytes(whole)
    assert only(memo.kept(root, True)).level == "ok"


Answers = Callable[[str, Any], tuple[int, dict[str, str], str]]


@pytest.fixture
def serve() -> Iterator[Callable[[Answers], str]]:
    """Starts an HTTP server on loopback that answers a path and headers with (status, headers, body)."""
    servers: list[ThreadingHTTPServer] = []

    def start(answers: Answers) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, headers, body = answers(self.path, self.headers)
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                with suppress(BrokenPipeError):  # who asked has stopped waiting
                    self.end_headers()
                    self.wfile.write(body.encode())

            def log_message(self, *_: object) -> None:
                pass

        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"127.0.0.1:{servers[-1].server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def prefect(password: str = "", csrf: bool = True, origins: str | None = None) -> Answers:
    """What a Prefect server answers to the questions of the check."""

    def answers(path: str, headers: Any) -> tuple[int, dict[str, str], str]:
        cors = {"Access-Control-Allow-Origin": origins} if origins else {}
        if path.startswith("/api/health"):
            return 200, cors, "true"
        if password and headers["Authorization"] != f"Basic {password}":
            return 401, cors, '{"exception_message":"Unauthorized"}'
        if path.startswith("/api/csrf-token"):
            return (200, cors, "{}") if csrf else (422, cors, '{"detail":"CSRF protection is disabled."}')
        return 200, cors, '"3.8.8"'

    return answers


def asked(address: str, mine: str = "") -> list[Finding]:
    settings = {PREFECT_API_URL: f"http://{address}/api", **({PREFECT_API_AUTH_STRING: mine} if mine else {})}
    with temporary_settings(settings):
        return list(prefect_api.protected(5))


def test_a_prefect_server_must_not_be_open_to_others_or_to_browsers(
    serve: Callable[[Answers], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        assert only(prefect_api.protected(5)).level == "ok"
    assert [one.level for one in asked(serve(prefect()))] == ["ok"]
    found = asked(serve(prefect(csrf=False, origins="*")))
    assert [(one.level, one.code) for one in found] == [("ok", 0), ("problem", 2), ("problem", 2)]
    assert ["CORS" in one.found or "CSRF" in one.found for one in found] == [False, True, True]
    # By a name that is not loopback's; then, by loopback, on a port that other addresses listen on, too.
    open_to_all = serve(prefect())
    one = only(iter(asked(open_to_all.replace("127.0.0.1", "127.1"))))
    assert (one.code, "no password" in one.found) == (2, True)
    port = int(open_to_all.rpartition(":")[2])
    listening = [SimpleNamespace(status=psutil.CONN_LISTEN, laddr=SimpleNamespace(ip="0.0.0.0", port=port))]
    monkeypatch.setattr(psutil, "net_connections", lambda kind: listening)
    assert "reached on 0.0.0.0" in only(iter(asked(open_to_all))).found
    monkeypatch.undo()
    locked = serve(prefect(password="dXNlcjpwYXNz"))
    assert [one.level for one in asked(locked.replace("127.0.0.1", "127.1"), "user:pass")] == ["ok"]
    assert "refuses this environment's password" in asked(locked, "user:wrong")[0].found
    assert asked(locked)[0].code == 2


def test_a_prefect_server_that_does_not_answer_is_the_environments_fault(serve: Callable[[Answers], str]) -> None:
    one = only(iter(asked("user:hunter2@127.0.0.1:9")))
    assert (one.code, "does not answer" in one.found, "hunter2" in one.found) == (5, True, False)
    assert "/health answers 404" in only(iter(asked(serve(lambda path, headers: (404, {}, ""))))).found

    def slow(path: str, headers: Any) -> tuple[int, dict[str, str], str]:
        time.sleep(1.5)
        return 200, {}, ""

    with temporary_settings({PREFECT_API_URL: f"http://{serve(slow)}/api"}):
        assert "ReadTimeout" in only(prefect_api.protected(0.2)).found


def test_known_vulnerabilities_are_named_with_what_mends_them(serve: Callable[[Answers], str], tmp_path: Path) -> None:
    (tmp_path / "constraints.txt").write_text("good==1.0\nbad==2.0\nunheard-of==3.0\n")
    advisories = [
        {"id": "PYSEC-1", "aliases": ["CVE-1"], "summary": "reads beyond its end", "fixed_in": ["2.1"]},
        {"id": "PYSEC-2", "aliases": [], "summary": "was none", "fixed_in": [], "withdrawn": "2026-01-01"},
    ]
    pages = {"/pypi/good/1.0/json": [], "/pypi/bad/2.0/json": advisories}
    seen = []

    def index(path: str, headers: Any) -> tuple[int, dict[str, str], str]:
        seen.append(path)
        return (200, {}, json.dumps({"vulnerabilities": pages[path]})) if path in pages else (404, {}, "")

    bad, unknown, good = vulnerabilities.known(tmp_path, f"http://{serve(index)}/pypi", 5)
    assert (bad.level, bad.found) == ("warning", "bad 2.0: PYSEC-1 CVE-1: reads beyond its end")
    assert bad.advice == "fixed in 2.1"
    assert "does not know 1 of 3" in unknown.found
    assert good.found.startswith("1 of 3 pinned packages")
    assert len(seen) == 3
    one = only(vulnerabilities.known(tmp_path, "http://127.0.0.1:9/index", 1))
    assert (one.level, one.found.startswith("not checked: ")) == ("warning", True)
