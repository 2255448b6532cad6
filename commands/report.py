"""graft report: opens what people look at."""

from __future__ import annotations

import webbrowser
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from stages.core.errors import ConfigError


class Report(StrEnum):
    """The stages that write a page."""

    validate = "validate"
    evaluate = "evaluate"


def report(
    which: Annotated[Report, typer.Argument(help="The stage whose report to open.")] = Report.validate,
) -> None:
    """Open a stage's report in the browser, and print where it lies."""
    page = Path("reports") / which.value / "index.html"
    if not page.is_file():
        raise ConfigError(f"{page}: not found; `dvc repro {which.value}` writes it (run graft from the project's root)")
    typer.echo(page.resolve().as_uri())
    webbrowser.open(page.resolve().as_uri())
