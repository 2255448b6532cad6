"""The Prefect server that PREFECT_API_URL names: does it answer, who may use it, and is anybody there to work?"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil
from ruamel.yaml import YAML

from commands.checks.finding import Finding, ok, problem, warning
from flows.redact import redact
from flows.server_settings import loopback
from stages.core.errors import ConfigError, EnvironmentFault

NAME = "prefect api"
STRANGER = "http://stranger.invalid"  # an origin that no server of ours lists
PASSWORD = "export PREFECT_SERVER_API_AUTH_STRING=user:password PREFECT_API_AUTH_STRING=user:password, and restart it"


def protected(patience: float) -> Iterator[Finding]:
    """Reachability, password, CSRF tokens and origins, each asked of the server itself."""
    from prefect.settings import get_current_settings

    settings = get_current_settings()
    if not settings.api.url:
        yield ok(NAME, "PREFECT_API_URL is not set: a flow starts a server of its own on loopback, for its time")
        return
    url = settings.api.url.rstrip("/")
    shown = redact(url)
    secret = settings.api.auth_string.get_secret_value() if settings.api.auth_string else None
    auth = httpx.BasicAuth(*secret.split(":", 1)) if secret and ":" in secret else None
    with httpx.Client(timeout=patience) as http:
        try:
            health = http.get(f"{url}/health", headers={"Origin": STRANGER})
            version = http.get(f"{url}/admin/version")
            mine = http.get(f"{url}/admin/version", auth=auth) if auth else version
            token = http.get(f"{url}/csrf-token", params={"client": "graft-doctor"}, auth=auth)
        except httpx.HTTPError as error:
            yield problem(
                NAME,
                EnvironmentFault,
                f"{shown} does not answer ({type(error).__name__}: {redact(str(error))})",
                "start it (make up), or unset PREFECT_API_URL to run without one",
            )
            return
    if health.status_code != 200:
        yield problem(
            NAME,
            EnvironmentFault,
            f"{shown}/health answers {health.status_code}",
            "is that a Prefect server's address, ending in /api?",
        )
        return
    yield from _password(url, shown, version.status_code != 401, mine.status_code)
    allowed = health.headers.get("access-control-allow-origin")
    if allowed in ("*", STRANGER):
        yield problem(
            NAME,
            ConfigError,
            f"{shown} lets pages of every origin read its answers (CORS)",
            "export PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS=<the UI's address>, and restart it; make up does",
        )
    if token.status_code == 422:
        yield problem(
            NAME,
            ConfigError,
            f"{shown} takes requests without a CSRF token: any page in a browser here can send them",
            "export PREFECT_SERVER_API_CSRF_PROTECTION_ENABLED=true, and restart it; make up does",
        )
    elif token.status_code != 200 and mine.status_code == 200:
        yield warning(
            NAME,
            f"{shown} does not say whether it asks for CSRF tokens ({token.status_code})",
            "compare the server's version with this environment's",
        )


def _password(url: str, shown: str, open_to_all: bool, mine: int) -> Iterator[Finding]:
    """Whether strangers may use it, and whether we may."""
    places = beyond_loopback(url)
    if open_to_all and places:
        yield problem(
            NAME,
            ConfigError,
            f"{shown} asks for no password and can be reached on {', '.join(places)}",
            f"{PASSWORD}; or bind it to 127.0.0.1",
        )
    elif mine == 401:
        yield problem(
            NAME,
            ConfigError,
            f"{shown} refuses this environment's password",
            "export PREFECT_API_AUTH_STRING=user:password, the server's",
        )
    elif mine != 200:
        yield problem(NAME, EnvironmentFault, f"{shown}/admin/version answers {mine}", "look at the server's log")
    else:
        who = "whoever is on this machine" if open_to_all else "those with its password"
        yield ok(NAME, f"{shown} answers {who}")


def beyond_loopback(url: str) -> list[str]:
    """The addresses by which other machines reach a server: of its own address, or of what listens on its port here."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    if not loopback(host):
        return [host]
    try:
        listening = [one.laddr for one in psutil.net_connections("tcp") if one.status == psutil.CONN_LISTEN]
    except psutil.Error:  # macOS tells only root
        return []
    return sorted({one.ip for one in listening if one.port == port and not ipaddress.ip_address(one.ip).is_loopback})


def workers(root: Path) -> Iterator[Finding]:
    """A live worker for each work pool that prefect.yaml sends runs to."""
    from prefect.exceptions import ObjectNotFound
    from prefect.settings import get_current_settings

    if not get_current_settings().api.url:
        return
    from flows import register

    with register.client() as client:
        if client.api_healthcheck() is not None:
            return  # said above
        for pool in pools(root):
            check = f"workers {pool}"
            try:
                paused = client.read_work_pool(pool).is_paused
                names = sorted(register.online(client, [pool], datetime.min.replace(tzinfo=UTC)))
            except ObjectNotFound:
                yield problem(
                    check, EnvironmentFault, "there is no such work pool on the server", "python -m flows.register"
                )
                continue
            if paused:
                yield problem(check, EnvironmentFault, "the work pool is paused", f"prefect work-pool resume {pool}")
            elif not names:
                yield problem(
                    check,
                    EnvironmentFault,
                    "none is online: runs sent there wait, then end as NoWorker",
                    f"make up, or prefect worker start --pool {pool} --type process",
                )
            else:
                yield ok(check, ", ".join(names))


def pools(root: Path) -> list[str]:
    """The work pools of prefect.yaml's deployments, in the order they first come."""
    path = root / "prefect.yaml"
    file = YAML(typ="safe").load(path.read_text()) if path.is_file() else {}
    named = [(one.get("work_pool") or {}).get("name") for one in (file or {}).get("deployments") or []]
    return list(dict.fromkeys(str(name) for name in named if name))
