"""Serve the checkout's reports/ to browsers on this machine, whose pages cannot open files: a part of `make up`.

`python -m flows.reports PORT`. Read-only, on loopback alone; nothing beside or above reports/ can be reached.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HOST = "127.0.0.1"


class Handler(SimpleHTTPRequestHandler):
    """Files as they are now: a new report has the old one's address, and browsers keep what carries no such word."""

    def end_headers(self) -> None:
        """The headers' last."""
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()


def main() -> None:
    """Serve until SIGINT. The folder may come later: until it does, all is 404."""
    handler = partial(Handler, directory=str(ROOT / "reports"))
    with ThreadingHTTPServer((HOST, int(sys.argv[1])), handler) as server, suppress(KeyboardInterrupt):
        server.serve_forever()


if __name__ == "__main__":
    main()
