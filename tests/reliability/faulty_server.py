"""An HTTP server on loopback that answers every request in one wrong way, for tests of remotes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MODES = ("503", "403", "stall", "slow")
ERROR = "<?xml version='1.0'?><Error><Code>{code}</Code><Message>{code}</Message></Error>"
BODY = 100_000  # bytes that "slow" announces and sends one of a second


class Faulty(ThreadingHTTPServer):
    """`requests` counts what came in."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, mode: str) -> None:
        self.mode, self.requests, self.closing = mode, 0, threading.Event()
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Faulty

    def answer(self) -> None:
        self.server.requests += 1
        mode = self.server.mode
        if mode == "stall":
            self.server.closing.wait()
            return
        if mode == "slow":
            self.send_response(200)
            self.send_header("Content-Length", str(BODY))
            self.end_headers()
            for _ in range(BODY):
                if self.server.closing.wait(1.0):
                    return
                self.wfile.write(b" ")
                self.wfile.flush()
        body = ERROR.format(code={"503": "SlowDown", "403": "AccessDenied"}[mode]).encode()
        self.send_response(int(mode))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""

    def handle(self) -> None:
        with suppress(ConnectionError, TimeoutError):
            super().handle()


@contextmanager
def serving(mode: str) -> Iterator[Faulty]:
    server = Faulty(mode)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()
