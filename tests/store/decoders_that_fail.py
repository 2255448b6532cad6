"""Functions for workers of stages.store.isolation: what an item says is what happens.

An item is a word, or a word and arguments, in ASCII: `os.kill 11`. Workers import this module, so it is a light one.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from pathlib import Path

HOARD: list[bytearray] = []


class Unpicklable(Exception):
    """Goes into a pickle but not out of it."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} {two}")


def obey(chunk: list[bytes]) -> list[str]:
    """One text for each item: the item in upper case, if it lets the process live."""
    return [_obey(item.decode()) for item in chunk]


def _obey(item: str) -> str:
    word, *rest = item.split()
    match word:
        case "signal":
            os.kill(os.getpid(), int(rest[0]))
        case "exit":
            os._exit(int(rest[0]))
        case "sys.exit":
            sys.exit(int(rest[0]))
        case "loop":
            while True:
                pass
        case "loop-in-c":
            sum(range(10**12))
        case "regex":
            re.match(r"(a+)+b", "a" * 100)
        case "sleep":
            time.sleep(600)
        case "bomb":
            bytearray(4 * 2**30)
        case "take":
            return str(len(bytearray(int(rest[0]) * 2**20)))
        case "hoard":
            HOARD.append(bytearray(int(rest[0]) * 2**20))
        case "once":
            if not Path(rest[0]).exists():
                Path(rest[0]).touch()
                os.kill(os.getpid(), signal.SIGKILL)
        case "begun":
            Path(rest[0]).touch()
            _obey("spin 0.5")
        case "defect":
            raise KeyError("no such thing")
        case "unpicklable":
            raise Unpicklable("not", "round")
        case "spin":
            end = time.process_time() + float(rest[0])
            while time.process_time() < end:
                pass
    return item.upper()


def pid(chunk: list[bytes]) -> list[int]:
    """The worker's number for each item."""
    return [os.getpid()] * len(chunk)


def sizes(chunk: list[bytes]) -> list[int]:
    """How many items the chunk has, for each."""
    return [len(chunk)] * len(chunk)


def twice(chunk: list[bytes]) -> list[bytes]:
    """Large in, larger out."""
    return [item * 2 for item in chunk]


def short(chunk: list[bytes]) -> list[bytes]:
    """One result too few."""
    return chunk[1:]


def ignores(chunk: list[bytes]) -> list[bool]:
    """Whether SIGINT is ignored and SIGTERM is not."""
    right = signal.getsignal(signal.SIGINT) == signal.SIG_IGN and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    return [right and not signal.pthread_sigmask(signal.SIG_BLOCK, ())] * len(chunk)


SEGFAULT = b"ends the process that decodes it"


def measure(files: list[bytes]) -> list[object]:
    """measurement.measure by a decoder with a defect."""
    from stages.core.measurement import measure as sound

    if any(data.endswith(SEGFAULT) for data in files):
        os.kill(os.getpid(), signal.SIGSEGV)
    return list(sound(files))
