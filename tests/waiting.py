"""Waiting for another process, with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_for(reached: Callable[[], bool], seconds: float) -> bool:
    """Whether `reached` became true in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if reached():
            return True
        time.sleep(0.02)
    return reached()
