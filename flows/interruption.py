"""Signals that end a run: heard for certain, even where Python drops the exception they raise.

A signal's handler runs wherever the main thread next executes Python code. Where that is a finalizer (`__del__`),
as after a long garbage collection, Python prints the exception and goes on as if nothing had been asked.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


@contextmanager
def heeded(act: Callable[[], object]) -> Iterator[None]:
    """Call `act` at once where SIGINT or SIGTERM comes during the block, then what handled it before.

    Where that one's exception was lost on its way, it is raised when the block ends. A signal that nothing handles
    ends the process as ever. Outside the main thread, which alone hears signals, this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: dict[int, Callable[[int, FrameType | None], Any]] = {}
    heard: list[int] = []

    def handler(number: int, frame: FrameType | None) -> None:
        heard.append(number)
        act()
        before[number](number, frame)

    for number in (signal.SIGINT, signal.SIGTERM):
        handled = signal.getsignal(number)
        if callable(handled):
            before[number] = handled
            signal.signal(number, handler)
    try:
        yield
        if heard:
            before[heard[0]](heard[0], None)
    finally:
        for each, handled in before.items():
            signal.signal(each, handled)
