"""Fetches one file over http or https: tried again on network faults, visible only when whole."""

from __future__ import annotations

import base64
import http.client
import logging
import netrc
import os
import re
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit, urlunsplit

from stages.core.errors import ConfigError, EnvironmentFault, IntegrityError
from stages.store import file_kinds, process, slow_servers

CHUNK = 2**20  # bytes
LOOPBACK = ("127.0.0.1", "::1", "localhost")  # where a login may be sent unencrypted
TOO_MANY_REQUESTS = 429  # HTTP
SERVER_ERRORS_FROM = 500  # HTTP
LONGEST_PAUSE = 60.0  # seconds

log = logging.getLogger(__name__)


class Patience(NamedTuple):
    """How long to bear with a server."""

    timeout_seconds: float  # the longest silence; what sends, but too little, slow_servers.py leaves
    retries: int  # after the first try


class _Interrupted(Exception):
    """A fault that may be over in a moment."""


def is_url(source: str) -> bool:
    """Whether a source is meant as a URL, of whatever scheme."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", source) is not None


def redacted(source: str) -> str:
    """A URL without user, password, query and fragment; any other text as it is."""
    if not is_url(source):
        return source
    try:
        parts = urlsplit(source)
        _ = parts.port
    except ValueError:  # a bracket without its pair, or a password with a slash, whose beginning is taken for the port
        return source.partition("://")[0] + "://…"
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def check(url: str) -> None:
    """Raise ConfigError unless this is a plain http or https URL. Messages never repeat a password."""
    shown = redacted(url)
    if not re.match(r"https?://[^/]", url, re.IGNORECASE):
        raise ConfigError(f"download.source: received {shown!r}; a URL must begin with https:// or http://")
    if not url.isascii() or re.search(r"[\x00-\x20\x7f]", url):
        raise ConfigError(f"download.source: {shown!r} holds a blank or a character beyond ASCII; percent-encode it")
    try:
        valid = bool(urlsplit(url).hostname) and urlsplit(url).port != 0
    except ValueError:
        valid = False
    if not valid:
        raise ConfigError(f"download.source: received {shown!r}; its host or port is not valid")
    if "@" in urlsplit(url).netloc:
        raise ConfigError(
            f"download.source: the URL at {shown!r} holds a login, which git, dvc.lock and Prefect would keep; put it "
            f"into ~/.netrc: machine {urlsplit(url).hostname} login NAME password PASSWORD"
        )


def fetch(
    url: str, target: Path, patience: Patience, max_bytes: int, pause: Callable[[float], None] = time.sleep
) -> None:
    """Write the body of `url` to `target`, which appears when it is whole, or not at all.

    Raises ConfigError for a wrong URL, IntegrityError where the body is larger than `max_bytes`, and
    EnvironmentFault where the server refuses, sends an HTML page, or keeps failing after all retries.
    """
    check(url)
    partial = target.with_name(f".{target.name}.partial")
    try:
        for attempt in range(patience.retries + 1):
            try:
                _fetch_once(url, partial, patience.timeout_seconds, max_bytes)
                break
            except _Interrupted as error:
                if attempt == patience.retries:
                    raise EnvironmentFault(
                        f"{redacted(url)}: {error}, in {attempt + 1} tries; check the connection and the "
                        "server, then run it again"
                    ) from error
                wait = min(2.0**attempt, LONGEST_PAUSE)
                log.warning("%s: %s; trying again in %g s", redacted(url), error, wait)
                pause(wait)
        if file_kinds.kind_of(partial) == "html":
            raise EnvironmentFault(
                f"{redacted(url)}: the server sent an HTML page instead of a file, perhaps a login or error "
                "page; open download.source in a browser and set it to the file's own address"
            )
        partial.rename(target)
    finally:
        partial.unlink(missing_ok=True)


class Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but never from https to anything else, nor out of http."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        """The next request. Raises EnvironmentFault where it would lose encryption."""
        old, new = urlsplit(req.full_url).scheme, urlsplit(newurl).scheme
        if new != "https" and (new != "http" or old == "https"):
            fp.close()
            raise EnvironmentFault(f"{redacted(req.full_url)}: refused its redirect to {redacted(newurl)}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _request(url: str) -> urllib.request.Request:
    parts = urlsplit(url)
    bare = urlunsplit((parts.scheme, parts.netloc, parts.path, parts.query, ""))
    request = urllib.request.Request(bare, headers={"User-Agent": "graft", "Accept-Encoding": "identity"})
    login = _login(str(parts.hostname))
    if login is not None and (parts.scheme.lower() == "https" or parts.hostname in LOOPBACK):
        # Unredirected: another host must not be handed this one's password.
        request.add_unredirected_header("Authorization", "Basic " + base64.b64encode(login.encode()).decode())
    return request


def _login(host: str) -> str | None:
    """`name:password` for a host out of ~/.netrc, or out of the file that NETRC names, as curl reads them.

    An entry `default` is not looked at: it would hand one login to whatever host a params file names. Raises
    EnvironmentFault where NETRC names what cannot be read; a ~/.netrc that cannot is only logged.
    """
    named = os.environ.get("NETRC")
    try:
        found = netrc.netrc(named or None).hosts.get(host)
    except (netrc.NetrcParseError, UnicodeDecodeError, OSError) as error:
        # Without the parser's words: they may repeat what it could not read, a password for one.
        said = f"cannot be read as a netrc file of this user's that is closed to others ({type(error).__name__})"
        if named:
            raise EnvironmentFault(f"NETRC names {named}, which {said}; mend it, or unset NETRC") from None
        if not isinstance(error, FileNotFoundError):
            log.warning("~/.netrc %s; going on without a login", said)
        return None
    return f"{found[0]}:{found[2] or ''}" if found else None


def _fetch_once(url: str, partial: Path, timeout: float, max_bytes: int) -> None:
    # build_opener brings the proxies of the environment with it.
    opener = urllib.request.build_opener(Redirects(), slow_servers.MeteredHTTP(), slow_servers.MeteredHTTPS())
    with _network_faults(url):
        response = opener.open(_request(url), timeout=timeout)
    received = 0
    with response, partial.open("wb") as file:
        length = response.headers.get("Content-Length", "")
        expected = int(length) if length.isdigit() else None
        _check_size(url, expected or 0, max_bytes)
        for chunk in process.progress(_chunks(url, response), "fetch", -(-(expected or 0) // CHUNK)):
            received += len(chunk)
            _check_size(url, received, max_bytes)
            file.write(chunk)
    if expected is not None and received != expected:
        raise _Interrupted(f"the connection was cut after {received:,} of {expected:,} bytes")


def _chunks(url: str, response: Any) -> Iterator[bytes]:
    while True:
        with _network_faults(url):  # around the network alone: a full disk is another matter
            chunk = response.read(CHUNK)
        if not chunk:
            return
        yield chunk


@contextmanager
def _network_faults(url: str) -> Iterator[None]:
    """Tell faults that may pass (_Interrupted) from answers that will stay (EnvironmentFault)."""
    try:
        yield
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == TOO_MANY_REQUESTS or error.code >= SERVER_ERRORS_FROM:
            raise _Interrupted(f"the server answered {error.code} {error.reason}") from None
        raise EnvironmentFault(
            f"{redacted(url)}: the server answered {error.code} {error.reason}; check that download.source "
            "is right; a login goes into ~/.netrc"
        ) from None
    except urllib.error.URLError as error:
        if isinstance(error.reason, ssl.SSLCertVerificationError):
            raise EnvironmentFault(f"{redacted(url)}: the server's certificate is not valid ({error.reason})") from None
        raise _Interrupted(str(error.reason)) from error
    except slow_servers.TooSlow as error:
        raise _Interrupted(str(error)) from None
    except (OSError, http.client.HTTPException) as error:
        raise _Interrupted(f"{type(error).__name__}: {error}") from error


def _check_size(url: str, size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise IntegrityError(f"{redacted(url)}: at least {size:,} bytes; download.max_bytes allows {max_bytes:,}")
