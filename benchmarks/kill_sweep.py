"""Kills a run at one write after another, and sees whether the same command then makes the same bytes.

    python -m benchmarks.kill_sweep [job ...] [--points 20] [--seconds 280] [--folder FOLDER]

A job is `actor:stage`; without one, all:

    stage:S     the stage, at its own writes; half of a write is done first. In a fork after its imports.
    dvc:toy     DVC, at its own writes, on two stages that a shell runs. In a fork after its imports.
    dvc:S       DVC, killed at a write of the stage; the stage has to end with it. Real processes.
    flow:S      `python -m flows.pipeline`, killed at a write of the stage. Real processes.
    worker:S    a process that the stage started (a decoder, an exported model), at a random moment.

`--points` are spread over all writes of a job, 0 means every write. What was tried is kept in the folder, so the
command goes on where `--seconds` ended it; results go to benchmarks/reliability.json. Needs gcc.
With `--server` flows use one Prefect server that stays up, as beside `make up`; without it each starts its own.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import psutil

from benchmarks import reliability, shim, toy_dvc
from benchmarks.kill_points import MADE, Attempt, Bench, Forks, Processes, Runner, spread
from benchmarks.shim import Ask
from benchmarks.tiny_pipeline import STAGES, Tiny
from benchmarks.warm import Warm
from flows import server_settings, up
from flows.service import Service

WORKERS = {"validate": "isolation._serve", "export": " -I -c "}
JOBS = [
    "dvc:toy",
    *(f"{actor}:{stage}" for actor in ("stage", "dvc", "flow") for stage in STAGES),
    *(f"worker:{stage}" for stage in WORKERS),
]


class Job:
    """One actor on one stage: its points, and what became of those that were tried."""

    def __init__(self, name: str, folder: Path, library: Path) -> None:
        self.name = name
        self._folder, self._library = folder, library
        self._actor, self._stage = name.split(":")
        self._path = folder / f"{name.replace(':', '-')}.json"
        self.state: dict[str, Any] = {"writes": 0, "seconds": 0.0, "tried": {}}
        if self._path.exists():
            self.state = json.loads(self._path.read_text())
        self._warm: Warm | None = None
        self._bench: Bench | None = None

    def left(self, points: int) -> list[int]:
        """What is still to try."""
        if self._actor == "worker":
            wanted = list(range(1, (points or 20) + 1))
        else:
            if not self.state["writes"]:
                self.state["writes"] = self.bench.writes()
            wanted = spread(self.state["writes"], points or self.state["writes"], seed=0)
        return [point for point in wanted if str(point) not in self.state["tried"]]

    def attempt(self, point: int) -> Attempt:
        """Try one point and remember the outcome."""
        started = time.monotonic()
        if self._actor == "worker":
            delay = random.Random(point).random() * (0.5 if self._stage == "validate" else 3)
            tried = self.bench.killed(_below(WORKERS[self._stage]), delay)
        else:
            victim = {"dvc": "-m dvc repro", "flow": "flows.pipeline"}.get(self._actor, "")
            tried = self.bench.broken(Ask(at=point, victim="" if self._stage == "toy" else victim))
        self.state["seconds"] += time.monotonic() - started
        self.state["tried"][point] = {"hit": tried.hit, "why": tried.why, "mended": tried.mended}
        if self._actor == "flow":
            self.state["tried"][point]["server"] = "PREFECT_API_URL" in os.environ
        self._path.write_text(json.dumps(self.state))
        return tried

    def result(self) -> dict[str, Any]:
        """The entry of benchmarks/reliability.json."""
        hit = [one for one in self.state["tried"].values() if one["hit"]]
        what = f"{len(hit)} of {self.state['writes']} writes" if self.state["writes"] else "at random moments"
        mended = sum(one["mended"] for one in hit)
        more = f"; {mended} by way of flows.mending, as make run does it" if mended else ""
        if self._actor == "flow" and any(one.get("server") for one in hit):
            more += f"; {sum(bool(one.get('server')) for one in hit)} beside a server that stays"
        survived = sum(not one["why"] for one in hit)
        return reliability.entry(len(hit), survived, self.state["seconds"], what + more)

    @property
    def bench(self) -> Bench:
        if self._bench is None:
            if self._stage == "toy":
                goal = toy_dvc.kept(self._folder / "toy")
            else:
                goal = Tiny.of(self._stage, self._folder).goal(self._stage, with_lock=self._actor != "stage")
            self._bench = Bench(goal, self._runner(), self._folder / "run")
        return self._bench

    def _runner(self) -> Runner:
        if self._stage == "toy" or self._actor == "stage":
            self._warm = Warm("dvc" if self._stage == "toy" else self._stage, self._library)
            return Forks(self._warm, ["repro"] if self._stage == "toy" else [])
        flow = [sys.executable, "-m", "flows.pipeline", self._stage]
        dvc = [sys.executable, "-m", "dvc", "repro", self._stage]
        again = ["bash", "-c", MADE.format(python=sys.executable, stage=self._stage)]
        who = f"-m stages.{self._stage}"
        if self._actor == "flow":
            return Processes(flow, self._library, who)
        return Processes(dvc, self._library, who, again)

    def close(self) -> None:
        if self._warm:
            self._warm.close()
            self._warm = self._bench = None


def _below(words: str) -> Callable[[psutil.Process], psutil.Process | None]:
    """Finds a process below another by its command line."""

    def find(root: psutil.Process) -> psutil.Process | None:
        for process in root.children(recursive=True):
            if words in " ".join(process.cmdline()):
                return process
        return None

    return find


def main(arguments: Sequence[str]) -> int:
    """Exit 0 where everything that was tried survived."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kill_sweep")
    parser.add_argument("jobs", nargs="*", choices=[*JOBS, []], metavar="job")
    parser.add_argument("--points", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--folder", type=Path, default=Path(".graft/kill-sweep"))
    parser.add_argument("--server", action="store_true")
    asked = parser.parse_args(arguments)
    why = shim.missing()
    if why:
        sys.stderr.write(f"{why}\n")
        return 5
    end = time.monotonic() + asked.seconds
    folder = asked.folder.absolute()
    library = shim.build(folder)
    code = 0
    with _server(folder / "server") if asked.server else nullcontext() as server:
        for name in asked.jobs or JOBS:
            if time.monotonic() > end:
                break
            job = Job(name, folder, library)
            try:
                for point in job.left(asked.points):
                    if time.monotonic() > end:
                        break
                    up.watch([server] if server else [])  # without it each flow would fail, of which no kill is guilty
                    tried = job.attempt(point)
                    sys.stderr.write(f"{name} at {point}: {'; '.join(tried.why) or 'survived'}\n")
            finally:
                job.close()
            if job.state["tried"]:
                result = job.result()
                reliability.record({f"kill {name}": result})
                code |= result["survived"] < result["tried"]
    return code


@contextmanager
def _server(home: Path) -> Iterator[Service | None]:
    """A Prefect server on loopback with the settings of `make up`; flows find it by the environment."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    home.mkdir(parents=True, exist_ok=True)
    os.environ.update(server_settings.environment("127.0.0.1", port, home, None))
    for foreign in server_settings.FOREIGN:
        os.environ.pop(foreign, None)
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    server = Service("server", command, home / "server.log", up.say, verbose=False)
    server.start(home)
    try:
        up.wait("the server answers", [server], _answers)
        yield server
    finally:
        server.interrupt()
        server.finish(60)


def _answers() -> bool:
    with suppress(OSError), urlopen(f"{os.environ['PREFECT_API_URL']}/health", timeout=5):
        return True
    return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
