"""Runs a stage, or DVC, again and again without its imports: a process that has imported forks for each run.

    python -m benchmarks.warm fine_tune      (or another stage, or dvc)

Reads a request a line (JSON: folder, environment, said, and what shim_arm of write_shim.c takes), runs it in a fork
and answers with the fork's wait status. Where the fork stops at a write it answers STOPPED, and a further line lets the
fork go on. For sweeps, in which imports would be nine tenths of the time.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.shim import Ask

OPENVINO = {"feature_extract", "evaluate"}
TENSORFLOW = {"fine_tune", "export"}
ROOT = Path(__file__).parent.parent
STOPPED = "stopped"


class Warm:
    """A process that is ready to run `what` in any folder."""

    def __init__(self, what: str, library: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.warm", what],
            cwd=ROOT, env={**os.environ, "LD_PRELOAD": str(library), "PYTHONDONTWRITEBYTECODE": "1"},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._answer()

    def run(
        self, folder: Path, environment: dict[str, str], ask: Ask, log: Path, arguments: list[str],
        at_stop: Callable[[], None] = lambda: None,
    ) -> int:  # fmt: skip
        """Run once in `folder`; returns the exit code, negative for a signal. What it prints goes to `<log>.said`.

        `at_stop` is called whenever the run has stopped at a write; after that it goes on.
        """
        log.unlink(missing_ok=True)
        request = {
            "folder": str(folder), "environment": environment, "log": str(log), "at": ask.at, "do": ask.do,
            "calls": ask.calls, "room": ask.room, "sticky": ask.sticky, "memory": ask.memory, "arguments": arguments,
        }  # fmt: skip
        self._tell(json.dumps(request))
        while (answer := self._answer()) == STOPPED:
            at_stop()
            self._tell("go on")
        return os.waitstatus_to_exitcode(int(answer))

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream:
                stream.close()

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the warm process ended: {self._process.wait()}")
        return line.strip()


def serve(what: str) -> None:
    """Import what `what` needs, then answer requests until standard input ends."""
    call = _ready(what)
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    answers.write("ready\n")
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            _run(json.loads(line), call)
        while os.WIFSTOPPED(status := os.waitpid(child, os.WUNTRACED)[1]):
            answers.write(f"{STOPPED}\n")
            sys.stdin.readline()
            os.kill(child, signal.SIGCONT)
        answers.write(f"{status}\n")


def _ready(what: str) -> Any:
    if what == "dvc":
        importlib.import_module("dvc.commands.repro")
        importlib.import_module("dvc.repo.reproduce")
        return importlib.import_module("dvc.cli").main
    if what in OPENVINO:  # as stages.store.engines imports Keras: on OpenVINO, without its telemetry
        os.environ["KERAS_BACKEND"] = "openvino"
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
        _import_keras("openvino")
    if what in TENSORFLOW:
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
        _import_keras("tensorflow")
    if what == "validate":
        importlib.import_module("great_expectations")
    module = importlib.import_module(f"stages.{what}")
    process = importlib.import_module("stages.store.process")
    return lambda _: process.run(what, module.main)


def _import_keras(engine: str) -> None:
    from stages.store import keras_import

    with keras_import.lean():
        importlib.import_module("keras")
    importlib.import_module(engine)


def _run(request: dict[str, Any], call: Any) -> None:
    """The fork's life."""
    code: Any = 70
    try:
        os.chdir(request["folder"])
        os.environ.update(request["environment"])
        said = os.open(f"{request['log']}.said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(said, 1)
        os.dup2(said, 2)
        arm = ctypes.CDLL(None).shim_arm
        arm(
            request["folder"].encode(), ctypes.c_long(request["at"]), request["do"].encode(), request["calls"].encode(),
            b"", request["log"].encode(), ctypes.c_longlong(request["room"]), int(request["sticky"]),
        )  # fmt: skip
        if request["memory"] >= 0:
            mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (mapped + request["memory"] * 2**20,) * 2)
        code = call(request["arguments"])
    except SystemExit as stop:
        code = stop.code
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    serve(sys.argv[1])
