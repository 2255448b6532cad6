"""Runs a stage as a process: what it prints, how it shows progress, and the exit code it ends with."""

from __future__ import annotations

import logging
import mmap
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from stages.core.errors import EnvironmentFault, GraftError
from stages.store import inputs, lifeline, machine_faults, versions

SPARE = 16 * 2**20  # bytes of address space, given back to tell in them that there is no memory left

T = TypeVar("T")
log = logging.getLogger(__name__)


class Terminated(SystemExit):
    """SIGTERM as an exception, so that what is half written is removed on the way out."""


def run(stage: str, main: Callable[[], str]) -> None:
    """Call `main`, print the summary line it returns, and exit: 0, or the error's own code.

    `main` catches nothing. An error graft raises on purpose ends as one message and its exit
    code, a fault of the machine as 5, Ctrl-C as 130 and SIGTERM as 143; anything else keeps its traceback,
    because it is a defect. Started by DVC, the process also ends when DVC is killed, and it fails where an input has
    other bytes than dvc.lock records, or a library another version than the stage's dependencies name.
    """
    lifeline.tie()
    signal.signal(signal.SIGTERM, _terminate)
    logging.basicConfig(level=logging.INFO, format=f"{stage}: %(message)s", stream=sys.stderr)
    console = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)
    spare = None
    try:
        spare = mmap.mmap(-1, SPARE)
        with versions.held(stage):
            inputs.check(stage)
            summary = main()
    except Exception as error:
        if spare is not None:
            spare.close()
        fault = machine_faults.of(error) or error
        if isinstance(fault, OSError) and fault.errno is not None:
            fault = EnvironmentFault(f"{fault}, then run it again")
        if not isinstance(fault, GraftError):
            raise
        console.print(f"[bold red]{stage} failed[/] (exit {fault.exit_code}): {escape(str(fault))}")
        sys.exit(fault.exit_code)
    except (KeyboardInterrupt, Terminated) as stop:
        code = 128 + (signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT)
        console.print(f"[bold red]{stage} stopped[/] (exit {code}); run it again to go on")
        sys.exit(code)
    console.print(f"[bold]{stage}[/]: {escape(summary)}")


def _terminate(number: int, frame: Any) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one may not cut the cleaning up short
    raise Terminated(128 + number)


def progress(items: Iterable[T], label: str, total: int) -> Iterator[T]:
    """Pass `items` through; shows a bar on a terminal and logs a line per tenth of `total` elsewhere.

    A line is `<stage>: 40 % <label> (512/1280)`. A `total` of 0 is unknown and gives no lines.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    if console.is_terminal:
        with Progress(*columns, console=console, transient=True) as bar:
            yield from bar.track(items, total=total, description=label)
        return
    for done, item in enumerate(items, 1):
        yield item
        if done <= total and 10 * done // total > 10 * (done - 1) // total:
            log.info("%d %% %s (%d/%d)", 100 * done // total, label, done, total)
