"""graft verify: is every output what dvc.lock records, byte by byte?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from stages.core.errors import Busy, ConfigError, EnvironmentFault, GraftError, IntegrityError

KINDS: dict[int, type[GraftError]] = {2: ConfigError, 4: IntegrityError, 5: EnvironmentFault, 6: Busy}


def verify(
    stages: Annotated[list[str] | None, typer.Argument(help="Stages to look at; all without any.")] = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Replace by good copies; what has none goes, to be made again.")
    ] = False,
) -> None:
    """Hash what dvc.lock records of the stages' outputs, in DVC's cache and in the workspace. DVC itself looks at
    inode, mtime and size.

    Exit 4 where bytes differ and were not replaced.
    """
    from flows.dvc_door import Door
    from flows.faults import Refused

    root = Path.cwd()
    console = Console(highlight=False, soft_wrap=True)
    try:
        with _checkout(root), Door(root) as door:
            checked = door.inspect(stages or (), repair)
    except Refused as error:
        raise KINDS.get(error.exit_code, EnvironmentFault)(str(error)) from error
    for line in checked.lines:
        console.print(escape(line))
    what = f"{checked.objects:,} objects, {checked.hashed / 1e6:,.1f} MB"
    if checked.left:
        then = "run `dvc repro` to make them again" if repair else "run `graft verify --repair`"
        raise IntegrityError(f"{checked.left} of {what} are not as recorded; {then}")
    typer.echo(f"verify: {what}: {'mended' if checked.lines else 'all as recorded'}")


@contextmanager
def _checkout(root: Path) -> Iterator[None]:
    """Hold the checkout against flows, which would write what is being read. Raises Busy."""
    from flows import checkout
    from flows.faults import CheckoutBusy

    try:
        with checkout.held(root, 0.0, "graft verify", lambda _: None):
            yield
    except CheckoutBusy as busy:
        raise Busy(str(busy)) from busy
