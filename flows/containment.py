"""Whether what DVC writes stays in the project: DVC 3.67 follows a link above an output to wherever it leads."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from flows.faults import NotIntact

FORBIDDEN = (".git", ".dvc")  # what lies there is run or believed


def check(root: Path, outputs: Iterable[Path]) -> None:
    """Raise NotIntact where an output's folder is in truth outside of `root`, or in git's or DVC's own.

    The output itself may be a link: with cache.type symlink DVC makes it one, to its cache.
    """
    true_root = root.resolve()
    for output in outputs:
        place = output.parent.resolve()
        within = place.relative_to(true_root) if place.is_relative_to(true_root) else None
        if within is None or within.parts[:1] in [(name,) for name in FORBIDDEN]:
            shown = output.relative_to(root) if output.is_relative_to(root) else output
            raise NotIntact(
                f"{shown} lies behind a link, in truth in {place}; nothing was fetched or run. An output's folder must "
                "lie in the project: remove the link"
            )
