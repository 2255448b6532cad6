"""`graft`: the commands that DVC and Prefect lack. One module a command; heavy imports inside."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib import import_module

import typer
from rich.console import Console
from rich.markup import escape

from stages.core.errors import EnvironmentFault, GraftError

COMMANDS = (
    "accept",
    "add",
    "backbones",
    "changes",
    "check",
    "doctor",
    "drift",
    "licences",
    "lineage",
    "memo",
    "plan",
    "predict",
    "promote",
    "publish",
    "report",
    "verify",
    "versions",
)


def application(names: Iterable[str] = COMMANDS) -> typer.Typer:
    """The commands of these names: each is a function of the module with its name."""
    app = typer.Typer(
        help="Fine-tune pretrained Keras image classifiers. To run the pipeline: dvc repro.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    app.callback()(lambda: None)  # without it, one command alone would lose its name
    for name in names:
        app.command()(getattr(import_module(f"commands.{name}"), name))
    return app


def main() -> None:
    """The console script: an error graft raises on purpose ends as one message and its exit code."""
    # Typer builds the options of every command it is given, which is a tenth of `graft plan`.
    asked = sys.argv[1:2]
    try:
        application(asked if asked and asked[0] in COMMANDS else COMMANDS)()
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
