"""Python, and the packages: do they satisfy pyproject.toml, and are they those that constraints.txt pins?"""

from __future__ import annotations

import platform
import tomllib
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from commands.checks.finding import Finding, ok, problem, some, warning
from stages.core.errors import EnvironmentFault
from stages.store.versions import FOLDER, applies, differing, installed_version, pin, pinning, same

SET_UP = "run `make setup`, and work in its environment: source .venv/bin/activate"
# Newer ones install without complaint and break Prefect's server when it runs: it refuses what clients send, or
# makes no runs from schedules, silently.
SERVER_BREAKS = {"fastapi", "sqlalchemy"}


def python(code: Path) -> Iterator[Finding]:
    """The interpreter; `code` is the folder with pyproject.toml."""
    wanted = tomllib.loads((code / "pyproject.toml").read_text())["project"]["requires-python"]
    found = platform.python_version()
    if SpecifierSet(wanted).contains(found, prereleases=True):
        yield ok("python", f"Python {found}")
    else:
        yield problem(
            "python", EnvironmentFault, f"Python {found}; graft needs {wanted}", "make setup PYTHON=python3.12"
        )


def packages(code: Path) -> Iterator[Finding]:
    """The distributions this interpreter finds, of those graft asks for and pins."""
    declared = tomllib.loads((code / "pyproject.toml").read_text())["project"]["dependencies"]
    broken = False
    for requirement in map(Requirement, declared):
        found = installed_version(requirement.name)
        if found and requirement.specifier.contains(found, prereleases=True):
            continue
        broken = True
        why = "; Prefect's server breaks at run time with others" if requirement.name in SERVER_BREAKS else ""
        yield problem(
            "packages",
            EnvironmentFault,
            f"{requirement.name} {found or 'is not installed'}; "
            f"graft needs {requirement.name}{requirement.specifier}{why}",
            SET_UP,
        )
    others = []
    count = 0
    for name, wanted in pins(code).items():
        found = installed_version(name)
        count += found is not None
        if found and not same(found, wanted):
            others.append(f"{name} {found} (pinned {wanted})")
    if others:
        yield warning(
            "packages",
            f"{len(others)} not as pinned: {some(others)}",
            f"results may differ from those measured; {SET_UP}",
        )
    elif not broken:
        yield ok("packages", f"{count} packages, all as pinned in constraints.txt")


def recorded(root: Path) -> Iterator[Finding]:
    """Whether stages/versions/ names what is installed: no stage starts that uses something else."""
    files = sorted((root / FOLDER).glob("*.txt"))
    others = [
        f"{name} {found} ({path.stem} recorded {wanted})"
        for path in files
        for name, (wanted, found) in sorted(differing(path).items())
    ]
    if others:
        yield problem(
            "versions",
            EnvironmentFault,
            f"{FOLDER} does not name what is installed: {some(others)}",
            f"graft versions records it, and the stages that use it run again; else {SET_UP}",
        )
    elif files:
        yield ok("versions", f"{len(files)} stages' libraries are installed as {FOLDER} names them")


def pins(code: Path) -> dict[str, str]:
    """Version by name of what constraints.txt pins for this platform."""
    return {one.name: pin(one) for one in constraints(code) if applies(one)}


def pinned(code: Path) -> list[tuple[str, str]]:
    """(name, version) of everything constraints.txt pins, for whatever platform."""
    return [(one.name, pin(one)) for one in constraints(code)]


def constraints(code: Path) -> list[Requirement]:
    """The lines of constraints.txt that pin a version; pip knows other lines too."""
    read = (code / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [one for line in read if (one := pinning(line)) is not None]
