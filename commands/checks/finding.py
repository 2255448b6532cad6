"""What a check found: how bad, what, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from stages.core.errors import Busy, ConfigError, EnvironmentFault, GraftError, IntegrityError

Level = Literal["ok", "warning", "problem"]
# Of several problems the gravest gives the exit code: bytes before settings, settings before the machine.
GRAVEST: tuple[type[GraftError], ...] = (IntegrityError, ConfigError, EnvironmentFault, Busy)


@dataclass(frozen=True)
class Finding:
    """One thing seen. `code` is 0 unless it is a problem."""

    check: str
    level: Level
    found: str
    advice: str = ""
    code: int = 0


def ok(check: str, found: str) -> Finding:
    """As it should be."""
    return Finding(check, "ok", found)


def warning(check: str, found: str, advice: str) -> Finding:
    """Works, and may not for long."""
    return Finding(check, "warning", found, advice)


def problem(check: str, kind: type[GraftError], found: str, advice: str) -> Finding:
    """Wrong; `kind` of the error tree gives the exit code."""
    return Finding(check, "problem", found, advice, kind.exit_code)


def exit_code(findings: list[Finding]) -> int:
    """0 where nothing is wrong, else the gravest problem's code."""
    codes = {one.code for one in findings if one.level == "problem"}
    return next((kind.exit_code for kind in GRAVEST if kind.exit_code in codes), 0)


def some(items: list[str], most: int = 5) -> str:
    """The first few, and how many more there are."""
    more = f" and {len(items) - most:,} more" if len(items) > most else ""
    return ", ".join(items[:most]) + more
