"""`make up`: server, work pools, deployments, the heartbeat automations and a worker for each pool, until Ctrl-C; on
loopback the reports too, for browsers.

Everything it writes is in .graft/ of the checkout; nothing of the user's own Prefect is read or touched.
Exit codes: 0 stopped as asked, 2 refused, 5 the port is taken or a part died by itself, 6 already up here.
"""

from __future__ import annotations

import argparse
import fcntl
import importlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

import psutil

from flows import reports
from flows.leash import kill
from flows.server_settings import FOREIGN, MARK, bracketed, environment, loopback, port_taken, unprotected
from flows.service import Service, adopt_orphans, marked, reap_orphans

ROOT = Path(__file__).resolve().parent.parent
POOLS = ("cpu", "gpu")

# One training at a time; and few pipelines, which would only stand in line for the checkout while the server's
# SQLite database, which takes one writer at a time, serves them all.
LIMITS = {"cpu": "4", "gpu": "1"}

# Stopping takes these at most, in seconds; a worker's first act is to end its runs with all their processes.
WORKERS_STOP, TELLING, SERVER_STOP = 7, 3, 4

# The server lets a statement wait 60 s for SQLite's lock before it gives up; one such wait must not end the start.
START = 150


class Stopped(BaseException):
    """Someone asked to stop: SIGINT, SIGTERM or SIGHUP."""


class Broken(Exception):
    """A part ended by itself, or did not come up."""


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m flows.up", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address the server listens on (127.0.0.1)")
    parser.add_argument("--port", type=int, default=4200, help="its port (4200)")
    parser.add_argument("--reports-port", type=int, help="where reports/ is served, if the host is loopback (port + 1)")
    parser.add_argument("--home", type=Path, default=ROOT / ".graft", help="where database and logs are kept (.graft)")
    parser.add_argument("--no-gpu-worker", action="store_true", help="leave the pool gpu to workers of other machines")
    parser.add_argument("--verbose", action="store_true", help="show every line of every part, not warnings alone")
    options = parser.parse_args(arguments)
    home: Path = options.home.resolve()

    if refusal := unprotected(options.host):
        return refuse(2, refusal)
    if not loopback(options.host):
        # Reports show data and have no password.
        options.reports_port = None
    elif options.reports_port is None:
        options.reports_port = options.port + 1
    if options.reports_port == options.port:
        return refuse(2, f"received {options.port} for both --port and --reports-port; they must differ")
    if refusal := port_taken(options.host, options.port):
        return refuse(5, refusal)
    if options.reports_port is not None and (refusal := port_taken(reports.HOST, options.reports_port)):
        return refuse(5, refusal)
    (home / "logs").mkdir(parents=True, exist_ok=True)
    with (home / "up.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return refuse(6, f"another `make up` works in {home}. Stop it first, or use its server.")
        os.environ.update(environment(options.host, options.port, home, options.reports_port))
        for foreign in FOREIGN:
            os.environ.pop(foreign, None)
        adopt_orphans()
        # Only a `make up` that was killed outright leaves some: the lock says that none is alive.
        kill(marked(f"{MARK}={home}"))
        return run(options, home)


def run(options: argparse.Namespace, home: Path) -> int:
    """Start all, wait, stop all; the exit code."""
    begin = time.monotonic()
    services: list[Service] = []

    def start(name: str, *command: str) -> Service:
        service = Service(name, [sys.executable, "-m", *command], home / "logs" / f"{name}.log", say, options.verbose)
        service.start(ROOT)
        services.append(service)
        return service

    on_signals(stop_now)
    try:
        start("server", "prefect", "server", "start", "--host", options.host, "--port", str(options.port))
        if options.reports_port is not None:
            start("reports", "flows.reports", str(options.reports_port))
        pools = POOLS[:1] if options.no_gpu_worker else POOLS
        bring_up(start, services, pools, local=loopback(options.host))
        announce(options, home, time.monotonic() - begin)
        while True:
            watch(services)
            reap_orphans(services)
            time.sleep(0.5)
    except Stopped:
        say("stopping")
        return 0
    except Broken as broken:
        return refuse(5, str(broken))
    except Exception:
        # A call to a server that has just died fails in many ways; what to say is that it died.
        try:
            watch(services)
        except Broken as broken:
            return refuse(5, str(broken))
        raise
    finally:
        on_signals(carry_on)
        stop(services, local=loopback(options.host))
        say("stopped")


def bring_up(start: Callable[..., Service], services: list[Service], pools: Sequence[str], *, local: bool) -> None:
    """Wait for the server, register, start the workers; returns when they are ONLINE.

    One after another: a worker's first requests beside those that make deployments once held SQLite's lock for 60 s.
    """
    # Prefect takes 2 s to import and reads its settings then: here both happen while the server starts.
    register = importlib.import_module("flows.register")

    with register.client() as client:
        wait("the server answers", services, lambda: client.api_healthcheck() is None)
        if local:
            register.end_unfinished(client, "the server was stopped while this ran")
        register.pools(client, trainings=1)
        register.automations(client)
        deploy = start("deploy", *register.DEPLOY)
        wait("the deployments are made", services, lambda: deploy.ended() == 0)
        services.remove(deploy)
        begun = datetime.now(UTC)
        for pool in pools:
            name = ("--name", f"{pool}-1", "--type", "process", "--limit", LIMITS[pool])
            start(pool, "prefect", "worker", "start", "--pool", pool, *name)
        everyone = {f"{pool}-1" for pool in pools}
        wait("the workers are online", services, lambda: everyone <= register.online(client, pools, begun))


def watch(services: list[Service]) -> None:
    """Raise if a part has ended by itself."""
    for service in services:
        if (code := service.ended()) is not None and not (service.name == "deploy" and code == 0):
            lines = "".join(f"\n    {line}" for line in service.last_lines())
            raise Broken(
                f"{service.name} ended by itself (exit code {code}). Its last lines, all in {service.log}:{lines}"
            )


def wait(what: str, services: list[Service], condition: Callable[[], bool]) -> None:
    """Wait until `condition` holds, as long as all parts live."""
    deadline = time.monotonic() + START
    while not condition():
        watch(services)
        if time.monotonic() > deadline:
            raise Broken(f"waited {START} s in vain until {what}. The logs are in {services[0].log.parent}")
        time.sleep(0.2)


def stop(services: list[Service], *, local: bool) -> None:
    """Workers first, so that the server hears how their runs ended; then the server; then whatever is left."""
    if not services:
        return
    server, *others = services
    for other in others:
        other.interrupt()
    deadline = time.monotonic() + WORKERS_STOP
    for other in others:
        other.finish(max(0.1, deadline - time.monotonic()))
    # A worker that is stopped kills its runs without a word to the server.
    if local and others and server.ended() is None:
        telling = threading.Thread(target=tell, args=("`make up` was stopped while this ran",), daemon=True)
        telling.start()
        telling.join(TELLING)
    server.interrupt()
    server.finish(SERVER_STOP)
    kill([*psutil.Process().children(recursive=True), *marked(f"{MARK}={os.environ[MARK]}")])


def tell(why: str) -> None:
    """Give the runs that were going on an end, as far as the server still answers."""
    register = importlib.import_module("flows.register")
    with suppress(Exception), register.client() as client:
        register.end_unfinished(client, why)


def on_signals(handler: Callable[[int, FrameType | None], None]) -> None:
    """What SIGINT, SIGTERM and SIGHUP do. Never SIG_IGN: a worker born with it ignored could not be stopped."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, handler)


def stop_now(number: int, frame: FrameType | None) -> None:
    """The first signal."""
    on_signals(carry_on)
    raise Stopped


def carry_on(number: int, frame: FrameType | None) -> None:
    """Those that follow: the stop that is under way takes a bounded time anyhow."""


def announce(options: argparse.Namespace, home: Path, seconds: float) -> None:
    """Say that all is up, and what to do next."""
    shown = bracketed(options.host)
    prefect = Path(sys.executable).parent / "prefect"
    if prefect.is_relative_to(ROOT):
        prefect = prefect.relative_to(ROOT)
    password = "" if loopback(options.host) else " PREFECT_API_AUTH_STRING=user:password"
    say(f"up after {seconds:.0f} s, in {ROOT}")
    say(f"  UI       http://{shown}:{options.port}")
    if options.reports_port is not None:
        say(f"  reports  http://{reports.HOST}:{options.reports_port}")
    api = f"PREFECT_API_URL=http://{shown}:{options.port}/api{password}"
    say(f"  trigger  {api} {prefect} deployment run pipeline/on-demand")
    say(f"  logs     {home / 'logs'}")
    say("  stop     Ctrl-C")
    say("ready")


def refuse(code: int, message: str) -> int:
    """Say why, on stderr."""
    sys.stderr.write(f"make up: {message}\n")
    sys.stderr.flush()
    return code


def say(line: str) -> None:
    """One line on stdout. Whoever read it may have gone: that stops nothing."""
    try:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
    except (BrokenPipeError, OSError):
        return


if __name__ == "__main__":
    sys.exit(main())
