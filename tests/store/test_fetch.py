"""Fetching from a scripted server on this machine: what is retried, what is refused, what is left behind."""

from __future__ import annotations

import base64
import hashlib
import io
import re
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from stages.core.errors import ConfigError, EnvironmentFault, GraftError, IntegrityError
from stages.store import fetch, slow_servers

BODY = hashlib.sha256(b"body").digest() * 4000  # 128 kB
Answer = Callable[[BaseHTTPRequestHandler], None]


def good(request: BaseHTTPRequestHandler, body: bytes = BODY) -> None:
    request.send_response(200)
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    request.wfile.write(body)


def cut(request: BaseHTTPRequestHandler) -> None:
    request.send_response(200)
    request.send_header("Content-Length", str(len(BODY)))
    request.end_headers()
    request.wfile.write(BODY[:1000])


def hang_up(request: BaseHTTPRequestHandler) -> None:
    request.close_connection = True


def in_pieces(size: int, seconds: float, *, head: bytes = b"", chunked: bool = False) -> Answer:
    """BODY behind `head`, so many bytes at a time with a pause behind each; the client may hang up."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        body = b"".join(b"%x\r\n%b\r\n" % (32, BODY[at : at + 32]) for at in range(0, len(BODY), 32)) + b"0\r\n\r\n"
        known = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % len(BODY)
        sent = b"HTTP/1.1 200 OK\r\n" + head + known + b"\r\n\r\n" + (body if chunked else BODY)
        with suppress(ConnectionError):
            for at in range(0, len(sent), size):
                request.wfile.write(sent[at : at + size])
                time.sleep(seconds)

    return answer


def status(code: int) -> Answer:
    return lambda request: request.send_error(code)


def html(request: BaseHTTPRequestHandler) -> None:
    good(request, b"\n<!DOCTYPE html><html><body>Please log in</body></html>")


def redirect(place: str) -> Answer:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(302)
        request.send_header("Location", place)
        request.send_header("Content-Length", "0")
        request.end_headers()

    return answer


class Server:
    """Answers one request after the other with `answers`; keeps the headers it received."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.headers: list[Any] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.headers.append(self.headers)
                server.answers.pop(0)(self)

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/images.zip"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    scripted = Server()
    thread = Thread(target=scripted.http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield scripted
    scripted.http.shutdown()
    thread.join()
    scripted.http.server_close()


class Fetching:
    """Fetches into an empty folder, noting the pauses instead of sleeping."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.pauses = folder, list[float]()

    def __call__(self, url: str, *, retries: int = 3, max_bytes: int = 2**20, timeout: float = 5.0) -> bytes:
        target = self.folder / "fetched"
        fetch.fetch(url, target, fetch.Patience(timeout, retries), max_bytes, self.pauses.append)
        assert [path.name for path in self.folder.iterdir()] == ["fetched"]
        return target.read_bytes()

    def fails(self, kind: type[GraftError], url: str, **options: Any) -> str:
        with pytest.raises(kind) as caught:
            self(url, **options)
        assert list(self.folder.iterdir()) == []
        return str(caught.value)


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home beside the folder that is fetched into."""
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.delenv("NETRC", raising=False)
    monkeypatch.setenv("HOME", str(folder))
    return folder


@pytest.fixture
def fetching(tmp_path: Path) -> Fetching:
    return Fetching(tmp_path)


def test_a_good_server(server: Server, fetching: Fetching) -> None:
    server.answers = [good]
    assert fetching(server.url) == BODY
    assert fetching.pauses == []


def test_passing_faults_are_retried_with_growing_pauses(server: Server, fetching: Fetching) -> None:
    server.answers = [status(503), cut, hang_up, status(429), good]
    assert fetching(server.url, retries=4) == BODY
    assert fetching.pauses == [1.0, 2.0, 4.0, 8.0]


def test_after_the_last_try_it_gives_up(server: Server, fetching: Fetching) -> None:
    server.answers = [cut, cut, cut]
    message = fetching.fails(EnvironmentFault, server.url, retries=2)
    assert "cut after 1,000 of 128,000 bytes, in 3 tries" in message
    assert server.url in message
    assert (server.answers, fetching.pauses) == ([], [1.0, 2.0])


@pytest.mark.parametrize("code", [404, 403, 401, 410])
def test_refusals_are_not_retried(code: int, server: Server, fetching: Fetching) -> None:
    server.answers = [status(code), good]
    assert f"answered {code}" in fetching.fails(EnvironmentFault, server.url)
    assert (len(server.answers), fetching.pauses) == (1, [])


def test_a_server_that_is_not_there(server: Server, fetching: Fetching) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as other:
        gone = f"http://127.0.0.1:{other.server_address[1]}/x.zip"
    assert "Connection refused, in 2 tries" in fetching.fails(EnvironmentFault, gone, retries=1)


def test_a_silent_server_is_left_after_the_timeout(server: Server, fetching: Fetching) -> None:
    server.answers = [lambda request: request.rfile.read(1) and None]  # waits for what never comes
    assert "timed out" in fetching.fails(EnvironmentFault, server.url, retries=0, timeout=0.2)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slow_servers, "WINDOW", 0.5)
    monkeypatch.setattr(slow_servers, "LOWEST_RATE", 10_000.0)


@pytest.mark.parametrize(
    "dripping",
    [
        in_pieces(20, 0.02),
        in_pieces(20, 0.02, chunked=True),
        in_pieces(20, 0.02, head=b"X: " + b"y" * 60_000 + b"\r\n"),
    ],
    ids=["body", "chunks", "head"],
)
@pytest.mark.usefixtures("impatient")
def test_a_server_that_drips_is_left(dripping: Answer, server: Server, fetching: Fetching) -> None:
    """A thousand bytes a second at most, and never a silence of a second."""
    server.answers = [dripping]
    message = fetching.fails(EnvironmentFault, server.url, retries=0, timeout=1.0)
    sent = re.match(r"(.*): the server sent ([\d,.]+) bytes/s over 1 s; below 10,000 bytes/s it is left, ", message)
    assert sent, message
    assert sent[1] == server.url
    assert float(sent[2].replace(",", "")) < 2000
    assert "check the connection and the server, then run it again" in message


@pytest.mark.usefixtures("impatient")
def test_a_dripping_server_is_asked_again_and_a_slow_one_is_waited_for(server: Server, fetching: Fetching) -> None:
    server.answers = [in_pieces(20, 0.02), in_pieces(2000, 0.02)]
    assert fetching(server.url, timeout=1.0) == BODY
    assert fetching.pauses == [1.0]


class Scripted(io.RawIOBase):
    """A connection's side: each read takes so many seconds by the clock of `slow_servers` and brings so many bytes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *reads: tuple[float, int]) -> None:
        self.now, self.reads = 0.0, list(reads)
        monkeypatch.setattr(slow_servers, "time", self)

    def monotonic(self) -> float:
        return self.now

    def readinto(self, buffer: Any) -> int:
        seconds, count = self.reads.pop(0)
        self.now += seconds
        return count


@pytest.mark.parametrize(
    ("reads", "silence", "left_at"),
    [
        ([(0, 1), *[(0.125, 1)] * 700], 60.0, 481),
        ([(0, 1), *[(0.125, 126)] * 1300], 60.0, None),
        ([(0, 1), (30, 1), (29, 1), (1, 1)], 60.0, 4),
        ([(0, 1), (30, 62_000), (31, 1), (59, 1), (1, 59_000)], 60.0, 5),  # a window that brought enough is over
        ([(59, 100), (1, 2000)], 60.0, None),  # the wait for the first byte
        ([(0, 100), (59, 100), (1, 59_900)], 60.0, None),  # a silence that is allowed
        ([(0, 100), (299, 100), (1, 299_900)], 300.0, None),  # and is longer than the window
        ([(0, 100), (7 * 3600, 60_000)], 60.0, None),  # stopped meanwhile
        ([(0, 100), (59.9, 100), (0.2, 0)], 60.0, None),  # the end
    ],
)  # fmt: skip
def test_the_rate_is_a_mean_over_a_window_of_waiting(
    reads: list[tuple[float, int]], silence: float, left_at: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (slow_servers.LOWEST_RATE, slow_servers.WINDOW) == (1000, 60)
    connection = Scripted(monkeypatch, *reads)
    metered = slow_servers.Metered(connection, silence)
    for number in range(1, len(reads) + 1):
        if number == left_at:
            with pytest.raises(
                slow_servers.TooSlow, match=r"sent [\d,]+\.\d bytes/s over [\d,]+ s; below 1,000 bytes/s"
            ):
                metered.readinto(bytearray(1))
            return
        assert metered.readinto(bytearray(1)) == reads[number - 1][1]
        connection.now += 1000.0  # its reader writes to a disk
    assert left_at is None


def test_an_html_page_is_no_archive(server: Server, fetching: Fetching) -> None:
    server.answers = [html, good]
    assert "HTML page instead of a file" in fetching.fails(EnvironmentFault, server.url)
    assert len(server.answers) == 1


def test_too_large_by_header_or_by_bytes(server: Server, fetching: Fetching) -> None:
    def unannounced(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.end_headers()
        request.wfile.write(BODY)

    server.answers = [good, unannounced]
    for _ in range(2):
        message = fetching.fails(IntegrityError, server.url, max_bytes=1000)
        assert "download.max_bytes allows 1,000" in message


def test_redirects_within_http_are_followed(server: Server, fetching: Fetching) -> None:
    server.answers = [redirect("/elsewhere"), good]
    assert fetching(server.url) == BODY


def test_redirects_out_of_http_are_refused(server: Server, fetching: Fetching) -> None:
    server.answers = [redirect("ftp://127.0.0.1/x")]
    assert "refused its redirect to ftp://127.0.0.1/x" in fetching.fails(EnvironmentFault, server.url)
    server.answers = [redirect("file:///etc/hostname")]
    fetching.fails(EnvironmentFault, server.url)


def test_redirects_never_lose_encryption() -> None:
    handler = fetch.Redirects()
    request = urllib.request.Request("https://host/a?token=secret")
    with pytest.raises(EnvironmentFault, match=r"refused its redirect to http://other/b$") as caught:
        handler.redirect_request(request, io.BytesIO(), 302, "Found", {}, "http://other/b?token=secret")
    assert "secret" not in str(caught.value)
    followed = handler.redirect_request(request, io.BytesIO(), 302, "Found", {}, "https://other/b")
    assert followed is not None
    assert followed.full_url == "https://other/b"


def test_a_login_is_sent_to_its_host_only_and_never_shown(
    server: Server, fetching: Fetching, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logins = home / "logins"
    logins.write_text("machine other.example login you password q\nmachine 127.0.0.1 login me password p@ss\n")
    monkeypatch.setenv("NETRC", str(logins))
    server.answers = [redirect("/elsewhere"), status(404)]
    message = fetching.fails(EnvironmentFault, server.url + "?token=secret")
    assert server.url in message
    assert not any(word in message for word in ("p@ss", "secret", "me:"))
    assert server.headers[0]["Authorization"] == "Basic " + base64.b64encode(b"me:p@ss").decode()
    assert "Authorization" not in server.headers[1]


def test_a_netrc_in_the_home_is_read_where_it_is_closed_to_others(
    server: Server, fetching: Fetching, home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server.answers = [good] * 3
    for mode in (None, 0o644, 0o600):
        if mode is not None:
            (home / ".netrc").write_text("machine 127.0.0.1 login me password p@ss\n")
            (home / ".netrc").chmod(mode)
        assert fetching(server.url) == BODY
        (fetching.folder / "fetched").unlink()
    assert ["Authorization" in headers for headers in server.headers] == [False, False, True]
    assert caplog.text.count("closed to others") == 1
    assert "p@ss" not in caplog.text


def test_no_login_by_default_nor_unencrypted(home: Path) -> None:
    (home / ".netrc").write_text("machine a.example login me password p\ndefault login you password q\n")
    (home / ".netrc").chmod(0o600)
    asked = ("https://a.example/x", "https://a.example:8443/x", "http://a.example/x", "https://b.example/x")
    sent = [fetch._request(url).get_header("Authorization") for url in asked]
    assert [header is not None for header in sent] == [True, True, False, False]


@pytest.mark.parametrize("text", ["machine 127.0.0.1 login me p@ss", None])
def test_a_netrc_that_cannot_be_read_is_named_without_its_text(
    text: str | None, server: Server, fetching: Fetching, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if text is not None:
        (home / "logins").write_text(text)
    monkeypatch.setenv("NETRC", str(home / "logins"))
    message = fetching.fails(EnvironmentFault, server.url)
    assert str(home / "logins") in message
    assert "p@ss" not in message


def test_a_login_in_a_url_is_refused_without_showing_it(fetching: Fetching) -> None:
    for login in ("me:p%40ss", "onetoken"):
        message = fetching.fails(ConfigError, f"https://{login}@host.example/a.zip")
        assert "~/.netrc" in message
        assert "machine host.example" in message
        assert login not in message
    for login in ("me:pw/w", "me:pw?w", "me:pw#w"):
        assert "me" not in fetching.fails(ConfigError, f"https://{login}@host.example/a.zip").replace("home", "")


def test_the_environments_proxy_is_used(server: Server, fetching: Fetching, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", server.url.rsplit("/", 1)[0])
    monkeypatch.setenv("no_proxy", "")
    server.answers = [good]
    assert fetching("http://images.invalid/x.zip") == BODY
    assert server.headers[0]["Host"] == "images.invalid"


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://h/x", "s3://b/x", "http://", "http:///x", "https://me:pw@h:port/x",
            "https://h/a b", "https://h/ü", "https://h/x\n", "https://me:pw@[::1/x"],
)  # fmt: skip
def test_urls_that_are_wrong(url: str, fetching: Fetching) -> None:
    assert "pw" not in fetching.fails(ConfigError, url)


def test_redacted() -> None:
    assert fetch.redacted("https://me:pw@host:81/a/b.zip?token=1#x") == "https://host:81/a/b.zip"
    assert fetch.redacted("data/images?x@y") == "data/images?x@y"
