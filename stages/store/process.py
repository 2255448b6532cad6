"""Runs a stage as a process: what it prints, how it shows progress, and the exit code it ends with."""

from __future__ import annotations

import errno
import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from stages.core.errors import EnvironmentFault, GraftError

T = TypeVar("T")
FULL = {errno.ENOSPC, errno.EDQUOT}


def run(stage: str, main: Callable[[], str]) -> None:
    """Call `main`, print the summary line it returns, and exit: 0, or the error's own code.

    `main` catches nothing. An error graft raises on purpose ends as one message and its exit
    code; anything else keeps its traceback, because it is a defect.
    """
    logging.basicConfig(level=logging.INFO, format=f"{stage}: %(message)s", stream=sys.stderr)
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    try:
        summary = main()
    except GraftError as error:
        console.print(f"[bold red]{stage} failed[/] (exit {error.exit_code}): {escape(str(error))}")
        sys.exit(error.exit_code)
    except OSError as error:
        if error.errno is None:
            raise
        need = "; free some space" if error.errno in FULL else ""
        console.print(f"[bold red]{stage} failed[/] (exit 5): {escape(str(error))}{need}, then run it again")
        sys.exit(EnvironmentFault.exit_code)
    console.print(f"[bold]{stage}[/]: {escape(summary)}")


def progress(items: Iterable[T], label: str, total: int) -> Iterator[T]:
    """Pass `items` through, drawing a bar on a terminal and staying silent elsewhere."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        yield from bar.track(items, total=total, description=label)
