"""Where the Prefect server of `make up` may listen, and what it, its workers and all they start run with."""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
from pathlib import Path

from flows import reports

ROOT = Path(__file__).resolve().parent.parent

# In the environment of every part and of all it starts: the home of the `make up` they belong to.
MARK = "GRAFT_UP"
# Of the caller's own Prefect, which would win over these settings.
FOREIGN = ("PREFECT_PROFILE", "PREFECT_API_KEY")


def environment(host: str, port: int, home: Path, reports_port: int | None) -> dict[str, str]:
    """What every part runs with, over the caller's environment."""
    here = bracketed({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host))
    origins = {f"http://{name}:{port}" for name in (here, "127.0.0.1", "localhost")}
    return {
        **({"GRAFT_REPORTS_URL": f"http://{reports.HOST}:{reports_port}"} if reports_port is not None else {}),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        "GRAFT_CHECKOUT": str(ROOT),
        MARK: str(home),
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_PROFILES_PATH": str(home / "prefect" / "profiles.toml"),
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{home / 'prefect' / 'prefect.db'}",
        "PREFECT_API_URL": f"http://{here}:{port}/api",
        # The browser asks the address it got the page from.
        "PREFECT_SERVER_UI_API_URL": "/api",
        # Any page in a browser on this machine can send requests to loopback: without the origins it could read the
        # answers, and without the token, which only a reader of answers has, it could start and delete things unread.
        "PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS": ",".join(sorted(origins)),
        "PREFECT_SERVER_API_CSRF_PROTECTION_ENABLED": "true",
        # With many runs waiting, all are called Late at once every 5 s: each reads, one writes, and SQLite refuses the
        # others, and whoever else read before. Workers' requests failed by that until runs crashed.
        "PREFECT_SERVER_SERVICES_LATE_RUNS_ENABLED": "false",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_WORKER_QUERY_SECONDS": "2",
        "PREFECT_WORKER_HEARTBEAT_SECONDS": "10",
        "PYTHONUNBUFFERED": "1",
        "NO_COLOR": "1",
    }


def loopback(host: str) -> bool:
    """Whether only this machine can reach a server on `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def unprotected(host: str) -> str | None:
    """Why the server may not listen on `host`: open to others, it needs a password."""
    server, clients = (os.environ.get(f"PREFECT_{part}API_AUTH_STRING", "") for part in ("SERVER_", ""))
    if loopback(host) or (":" in server.strip(":") and server == clients):
        return None
    return (
        f"a server on {host} can be reached from other machines, so it needs a password. Set both alike:\n"
        "    export PREFECT_SERVER_API_AUTH_STRING=user:password PREFECT_API_AUTH_STRING=user:password\n"
        "The second is also what workers and clients elsewhere need."
    )


def port_taken(host: str, port: int) -> str | None:
    """Why nothing can listen there."""
    if not 0 < port < 65536:
        return f"cannot listen on {host}:{port}: a port is a number from 1 to 65535"
    try:
        with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
            return None
    except OSError as error:
        return (
            f"cannot listen on {host}:{port}: {error.strerror}. Is `make up` running already? Else: make up PORT=4210"
        )


def bracketed(host: str) -> str:
    """`host` as it stands in an address."""
    return f"[{host}]" if ":" in host else host
