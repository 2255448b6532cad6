"""graft plan: what `dvc repro` would run, and why, without running it. Works on a clone without data."""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from stages.core.errors import ConfigError

STYLES = {"run": "bold yellow", "maybe": "cyan", "unchanged": "dim"}


def plan(
    targets: Annotated[list[str] | None, typer.Argument(help="Stages to plan, with all they depend on.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON array instead of text.")] = False,
) -> None:
    """Say which stages `dvc repro` would run and why. Nothing is run or written; needs neither data nor cache.

    A stage marked maybe depends on one that runs, and runs too unless that comes out as before.
    """
    from flows.plan import PlanError, shown
    from flows.plan import plan as plan_of

    try:
        planned = plan_of(Path.cwd(), targets or ())
    except PlanError as error:
        raise ConfigError(str(error)) from error
    if as_json:
        sys.stdout.write(json.dumps([asdict(one) for one in planned], ensure_ascii=False, indent=2) + "\n")
        return
    console = Console(highlight=False, soft_wrap=True)
    for one in planned:
        console.print(f"[{STYLES[one.verdict]}]{one.verdict:<9}[/] {escape(one.stage)}")
        for reason in shown(one):
            console.print(f"{'':<12}{escape(reason)}")
    console.print(_summary(Counter(one.verdict for one in planned)))


def _summary(counts: Counter[str]) -> str:
    if not counts["run"] and not counts["maybe"]:
        return "nothing to do"
    stages = "1 stage" if counts["run"] == 1 else f"{counts['run']} stages"
    return f"{stages} would run, {counts['maybe']} may, {counts['unchanged']} unchanged"
