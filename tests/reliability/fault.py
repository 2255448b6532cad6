"""One row of the table in docs/reliability.md."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """A fault or bad input, what was seen when it was injected, and the tests that inject it."""

    row: int
    inject: str
    seen: str  # "" where nothing injects it
    tests: tuple[str, ...]  # node ids below tests/, as "core/test_images.py::test_refusals"
    gap: str = ""  # what the row asks for and no test shows


def fault(row: int, inject: str, seen: str, *tests: str, gap: str = "") -> Fault:
    """A Fault; tests of one file after the first may be written "::test_name"."""
    named: list[str] = []
    for test in tests:
        file = named[-1].partition("::")[0] if test.startswith("::") else ""
        named.append(file + test)
    return Fault(row, inject, seen, tuple(named), gap)
