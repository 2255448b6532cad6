from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from flows import child
from flows.interruption import heeded


class Finalized:
    """Sends its signal while it is finalized, where Python drops what the handler raises."""

    def __init__(self, number: signal.Signals) -> None:
        self.number = number

    def __del__(self) -> None:
        os.kill(os.getpid(), self.number)
        for _ in range(1000):  # a handler runs at a backward jump or call
            pass


def raise_timeout(number: int, frame: object) -> None:
    raise TimeoutError(number)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_whose_exception_is_lost_in_a_finalizer_still_ends_the_block(number: signal.Signals) -> None:
    before = signal.signal(number, raise_timeout)
    acted: list[str] = []
    try:
        lost = Finalized(number)
        del lost  # shows that Python drops it: nothing was raised here

        def block() -> None:
            with heeded(lambda: acted.append("killed")):
                lost = Finalized(number)
                del lost
                acted.append("went on")

        with pytest.raises(TimeoutError):
            block()
        assert acted == ["killed", "went on"]
        assert signal.getsignal(number) is raise_timeout
    finally:
        signal.signal(number, before)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_child_is_killed_by_a_signal_that_python_drops(tmp_path: Path) -> None:
    def line(text: str) -> None:
        lost = Finalized(signal.SIGINT)
        del lost

    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        child.run(["sh", "-c", "echo $$; exec sleep 60"], tmp_path, line)
    assert time.monotonic() - begun < 50, "it waited for the child's own end"


def test_the_handler_before_is_back_and_a_quiet_block_raises_nothing() -> None:
    before = signal.getsignal(signal.SIGINT)
    with heeded(lambda: None):
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before


def test_a_signal_that_nothing_handles_is_left_alone_and_other_threads_are_no_matter() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        with heeded(lambda: None):
            assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)
    ended: list[bool] = []

    def elsewhere() -> None:
        with heeded(lambda: None):
            ended.append(signal.getsignal(signal.SIGINT) is not None)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert ended == [True]
