"""Passwords and keys where git keeps them: once pushed, they are everyone's who can read the repository."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from commands.checks.finding import Finding, ok, problem
from flows.redact import redact
from stages.core.errors import ConfigError

FILES = ("params.yaml", "prefect.yaml", "dvc.yaml", "dvc.lock", ".dvc/config")
SHOWN = 120  # letters of a line


def in_git(root: Path) -> Iterator[Finding]:
    """Lines of the files above, and of recipes, that hold a secret; shown without it."""
    found = False
    for path in [*(root / name for name in FILES), *sorted((root / "recipes").glob("*.yaml"))]:
        text = path.read_text(errors="replace") if path.is_file() else ""
        for number, line in enumerate(text.splitlines(), 1):
            shown = redact(line)
            if shown == line or line.lstrip().startswith("#"):
                continue
            found = True
            yield problem(
                "secrets",
                ConfigError,
                f"{path.relative_to(root)}, line {number}: {shown.strip()[:SHOWN]}",
                "change that secret, then keep it in the environment or in .dvc/config.local "
                "(dvc remote modify --local): git's history has it already if it was committed",
            )
    if not found:
        yield ok("secrets", "none in params.yaml, prefect.yaml, DVC's files and recipes")
