"""What a figure module says while it measures."""

from __future__ import annotations

import sys


def tell(line: str) -> None:
    """A line of progress on standard error; standard output is for the result."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
