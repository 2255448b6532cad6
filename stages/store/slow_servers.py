"""Leaves a server that sends too little: a limit on silence alone lets one byte a second go on for ever.

What curl does with --speed-limit and --speed-time, but over whole windows, and only while this process waits.
"""

from __future__ import annotations

import http.client
import io
import socket
import time
import urllib.request
from typing import Any

LOWEST_RATE = 1000.0  # bytes/s; a modem's is above it, and at it a megabyte takes a quarter of an hour
WINDOW = 60.0  # seconds; a mobile connection's bad minute is not the end


class TooSlow(TimeoutError):
    """A server that sends, but less than LOWEST_RATE."""


class Metered(io.RawIOBase):
    """Bytes from a connection; raises TooSlow where too few of them came.

    The mean is taken over WINDOW, or over `silence` (in seconds, the longest that the connection allows) where that
    is longer: a silence that is allowed must not be too slow by itself. The wait for an answer's first byte is no part
    of it. Nor is time that this process spends elsewhere, or stopped: a wait counts as a window at most.
    """

    def __init__(self, raw: io.RawIOBase, silence: float) -> None:
        self._raw, self._window = raw, max(WINDOW, silence)
        self._seconds, self._bytes, self._begun = 0.0, 0, False

    def readable(self) -> bool:
        """True."""
        return True

    def readinto(self, buffer: Any) -> int | None:
        """One read of the connection. Raises TooSlow at the end of a window that brought too little."""
        before = time.monotonic()
        count = self._raw.readinto(buffer)
        if not count:  # the end, whose turn comes however long the rest took
            return count
        if self._begun:
            self._seconds += min(time.monotonic() - before, self._window)
        self._begun = True
        self._bytes += count
        if self._seconds >= self._window:
            if self._bytes < LOWEST_RATE * self._seconds:
                raise TooSlow(
                    f"the server sent {self._bytes / self._seconds:,.1f} bytes/s over {self._seconds:,.0f} s; below "
                    f"{LOWEST_RATE:,g} bytes/s it is left"
                )
            self._seconds, self._bytes = 0.0, 0
        return count

    def close(self) -> None:
        """Close the connection's side, too."""
        if not self.closed:
            self._raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    """All of it is metered: status line, headers, sizes of chunks, body."""

    def __init__(self, sock: socket.socket, *arguments: Any, **options: Any) -> None:
        super().__init__(sock, *arguments, **options)
        raw = self.fp.detach()
        self.fp = io.BufferedReader(Metered(raw, sock.gettimeout() or 0.0))


class _Connection(http.client.HTTPConnection):
    response_class = _Response


class _SecureConnection(http.client.HTTPSConnection):
    response_class = _Response


class MeteredHTTP(urllib.request.HTTPHandler):
    """http for urllib, metered."""

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        """The response. Raises URLError, or TooSlow."""
        return self.do_open(_Connection, req)


class MeteredHTTPS(urllib.request.HTTPSHandler):
    """https for urllib with its certificates checked, metered."""

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        """The response. Raises URLError, or TooSlow."""
        return self.do_open(_SecureConnection, req)
