"""graft check: is params.yaml legal? Every problem at once, without running anything."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def check(
    path: Annotated[Path, typer.Argument(help="The file to check.")] = Path("params.yaml"),
) -> None:
    """Check a params file against every stage's parameters; exit 2 where something is wrong."""
    from stages.store import params

    blocks = params.read_all(path)
    typer.echo(f"{path}: {len(blocks)} blocks, all legal")
