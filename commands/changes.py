"""graft changes: what the validation says now that it did not say at another commit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from commands.accept import RESULTS
from stages.core.errors import ConfigError, EnvironmentFault


def changes(
    revision: Annotated[str, typer.Argument(help="Commit, tag or branch to compare with.")] = "HEAD",
) -> None:
    """Compare the last validation's counts with those recorded at a commit (HEAD: the last report committed)."""
    from stages.core.changes import counts
    from stages.core.page import visible
    from stages.store import documents

    if not RESULTS.is_file():
        raise ConfigError(f"{RESULTS}: not found; `dvc repro validate` writes it (run graft from the project's root)")
    pairs = counts(_recorded(revision), documents.read(RESULTS))
    console = Console(highlight=False, soft_wrap=True)
    if not pairs:
        console.print(f"no count differs from {escape(revision)}")
        return
    table = Table("of", "which", escape(revision), "now", "difference")
    for what, which, before, now in pairs:
        table.add_row(what, escape(visible(which)), f"{before:,}", f"{now:,}", f"{now - before:+,}")
    console.print(table)


def _recorded(revision: str) -> dict[str, Any]:
    """results.json as dvc.lock had it at `revision`, from DVC's cache or remote."""
    from dvc.api import DVCFileSystem
    from dvc.exceptions import DvcException
    from dvc.scm import RevError
    from dvc_data.index.index import DataIndexDirError

    try:
        with DVCFileSystem(".", rev=revision).open(RESULTS.as_posix()) as file:
            found: dict[str, Any] = json.load(file)
            return found
    except RevError as error:
        raise ConfigError(f"{revision!r} is no commit of this repository; try HEAD~1, a tag or a branch") from error
    except (FileNotFoundError, DataIndexDirError) as error:
        raise EnvironmentFault(
            f"{Path(RESULTS)} of {revision} is not in DVC's cache here; at that commit, run `dvc fetch` "
            "or `dvc repro validate`"
        ) from error
    except DvcException as error:
        raise EnvironmentFault(f"{Path(RESULTS)} of {revision}: {error}") from error
