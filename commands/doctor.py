"""graft doctor: what is wrong here with the machine, the project, DVC and Prefect, and what to do about it."""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
from collections.abc import Callable, Iterable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from commands.checks.finding import GRAVEST, Finding, exit_code, problem
from stages.core.errors import Busy, ConfigError, EnvironmentFault, GraftError

CODE = Path(__file__).resolve().parent.parent  # pyproject.toml and constraints.txt are here
STYLES = {"ok": "dim", "warning": "yellow", "problem": "bold red"}
PATIENCE = 15.0  # seconds for one answer of anything outside this process
WORK = 12 * 60 * 60.0  # reading every output, or uploading what a remote lost

Check = Callable[[], Iterable[Finding]]


def doctor(
    deep: Annotated[
        bool, typer.Option("--deep", help="Read every recorded byte: DVC's cache, outputs, remotes, the memo.")
    ] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="Upload what a remote lost; remove DVC's record of locks if it is cut off.")
    ] = False,
    audit: Annotated[
        str | None,
        typer.Option("--audit", metavar="URL", help="Ask for known vulnerabilities: URL/<name>/<version>/json."),
    ] = None,
    patience: Annotated[float, typer.Option("--patience", min=0.1, help="Seconds to wait for each answer.")] = PATIENCE,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of text.")] = False,
) -> None:
    """Check the machine, the packages, the project, DVC, its remotes, Prefect and GPUs; say what to do.

    Exits 0 where nothing is wrong, warnings allowed; else 4 (bytes), 2 (settings), 5 (machine, network) or 6 (in use),
    the first of these that applies. Changes nothing without --repair.
    """
    root = Path.cwd()
    if not (root / "dvc.yaml").is_file():
        raise ConfigError(f"no dvc.yaml in {root}: run graft from the project's root")
    console = Console(highlight=False, soft_wrap=True)
    findings: list[Finding] = []
    left_behind = False
    for name, check, seconds in _checks(root, deep, repair, audit, patience):
        seen, ended = _answer(name, check, seconds)
        left_behind |= not ended
        for one in map(_shown, seen):
            findings.append(one)
            if not as_json:
                _print(console, one)
    code = exit_code(findings)
    if as_json:
        answer = {"findings": [asdict(one) for one in findings], "exit_code": code}
        sys.stdout.write(json.dumps(answer, ensure_ascii=False, indent=2) + "\n")
    else:
        console.print(_summary(findings, code))
    if left_behind:
        # A thread that hangs in a library would keep the process.
        sys.stdout.flush()
        os._exit(code)
    raise typer.Exit(code)


def _checks(root: Path, deep: bool, repair: bool, audit: str | None, patience: float) -> list[tuple[str, Check, float]]:
    """(name, check, seconds it may take) in the order of the report. Imported here: `graft --help` needs none."""
    from commands.checks import (
        checkout,
        disk,
        dvc_settings,
        gpus,
        installed,
        memo,
        outputs,
        prefect_api,
        remotes,
        secrets,
        telemetry,
        vulnerabilities,
        weights,
    )

    work = WORK if deep else 4 * patience
    listed: list[tuple[str, Check, float]] = [
        ("python", partial(installed.python, CODE), patience),
        ("packages", partial(installed.packages, CODE), patience),
        ("versions", partial(installed.recorded, root), patience),
        ("disk", partial(disk.free, root), patience),
        ("gpus", partial(gpus.seen, patience), 2 * patience),
        ("git", partial(checkout.state, root), 4 * patience),
        ("secrets", partial(secrets.in_git, root), patience),
        ("weights", partial(weights.named, root), 4 * patience),
        ("dvc settings", partial(dvc_settings.settings, root), patience),
        ("locks", partial(dvc_settings.locks, root, repair), patience),
        ("outputs", partial(outputs.recorded, root, deep), work),
        ("dvc remote", partial(remotes.settings, root), patience),
        ("dvc remote", partial(remotes.contents, root, deep, repair), WORK if repair else work),
        ("memo", partial(memo.kept, root, deep), work),
        ("telemetry", partial(telemetry.off, root), 2 * patience),
        ("prefect api", partial(prefect_api.protected, patience), 6 * patience),
        ("workers", partial(prefect_api.workers, root), 4 * patience),
    ]
    if audit is not None:
        listed.append(("vulnerabilities", partial(vulnerabilities.known, CODE, audit, patience), 40 * patience))
    return listed


def _answer(name: str, check: Check, seconds: float) -> tuple[list[Finding], bool]:
    """What a check finds, and whether it came to an end in time. Whatever it raises is a finding."""
    found: queue.SimpleQueue[Finding | None] = queue.SimpleQueue()

    def look() -> None:
        try:
            for one in check():
                found.put(one)
        except Exception as error:
            found.put(_raised(name, error))
        found.put(None)

    threading.Thread(target=look, name=name, daemon=True).start()
    seen: list[Finding] = []
    while True:
        try:
            one = found.get(timeout=seconds)
        except queue.Empty:
            late = problem(name, EnvironmentFault, f"no answer within {seconds:g} s",
                           "is a disk or remote gone? A slow one gets more time with --patience")  # fmt: skip
            return [*seen, late], False
        if one is None:
            return seen, True
        seen.append(one)


def _raised(name: str, error: Exception) -> Finding:
    """An error on purpose keeps its meaning; any other is told as one of the machine's."""
    from dvc.lock import LockError

    code = Busy.exit_code if isinstance(error, LockError) else getattr(error, "exit_code", None)
    kind: type[GraftError] = next((one for one in GRAVEST if one.exit_code == code), EnvironmentFault)
    said = str(error) if code or isinstance(error, OSError) else f"{type(error).__name__}: {error}"
    return problem(name, kind, said, "" if code else "this check could not be made; the others were")


def _shown(one: Finding) -> Finding:
    """Without secrets and without anything a terminal would obey."""
    from flows.markdown import printable
    from flows.redact import redact

    found, advice = (
        "\n".join(printable(redact(line)) for line in text.splitlines()) for text in (one.found, one.advice)
    )
    return Finding(one.check, one.level, found, advice, one.code)


def _print(console: Console, one: Finding) -> None:
    style = STYLES[one.level]
    first, *more = one.found.splitlines() or [""]
    console.print(f"[{style}]{one.level:<9}{escape(one.check):<18}[/]{escape(first)}")
    for line in more:
        console.print(f"{'':<27}{escape(line)}")
    if one.advice:
        console.print(f"{'':<27}→ {escape(one.advice)}")


def _summary(findings: list[Finding], code: int) -> str:
    counts = {level: sum(one.level == level for one in findings) for level in STYLES}
    said = [f"{counts[level]} {level}{'s' if counts[level] != 1 else ''}" for level in ("problem", "warning")]
    return f"{', '.join(said)}, {counts['ok']} ok; exit {code}"
