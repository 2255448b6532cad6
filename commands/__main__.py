"""`graft`: the commands that DVC and Prefect lack. One module a command; heavy imports inside."""

from __future__ import annotations

import sys

import typer
from rich.console import Console
from rich.markup import escape

from commands import (
    accept,
    add,
    backbones,
    changes,
    check,
    doctor,
    drift,
    licences,
    lineage,
    memo,
    plan,
    predict,
    promote,
    publish,
    report,
    verify,
    versions,
)
from stages.core.errors import EnvironmentFault, GraftError

app = typer.Typer(
    help="Fine-tune pretrained Keras image classifiers. To run the pipeline: dvc repro.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(accept.accept)
app.command()(add.add)
app.command()(backbones.backbones)
app.command()(changes.changes)
app.command()(check.check)
app.command()(doctor.doctor)
app.command()(drift.drift)
app.command()(licences.licences)
app.command()(lineage.lineage)
app.command()(memo.memo)
app.command()(plan.plan)
app.command()(predict.predict)
app.command()(promote.promote)
app.command()(publish.publish)
app.command()(report.report)
app.command()(verify.verify)
app.command()(versions.versions)


def main() -> None:
    """The console script: an error graft raises on purpose ends as one message and its exit code."""
    try:
        app()
    except GraftError as error:
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"[bold red]graft[/]: {escape(str(error))}")
        sys.exit(error.exit_code)
    except OSError as error:
        if error.errno is None:
            raise
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"[bold red]graft[/]: {escape(str(error))}")
        sys.exit(EnvironmentFault.exit_code)


if __name__ == "__main__":
    main()
