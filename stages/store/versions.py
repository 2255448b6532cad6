"""Before a stage that DVC started: are the libraries that its modules import those that dvc.lock is to record?

stages/versions/<stage>.txt names them with their versions, and is a dependency of the stage in dvc.yaml. So another
version makes the stage stale, and what dvc.lock says made an output is what made it. `graft versions` writes the files.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement

from stages.core.errors import EnvironmentFault, IntegrityError

FOLDER = Path("stages/versions")


def check(stage: str) -> None:
    """Raise EnvironmentFault where a library of this stage is installed in another version than its file says.

    Only as a DVC stage, which DVC says by DVC_STAGE: what is started by hand is recorded nowhere. A library that is
    not installed is let pass: those that are needed always fail by themselves, and an extra is only some recipes' need.
    """
    path = FOLDER / f"{stage}.txt"
    if "DVC_STAGE" not in os.environ or not path.exists():  # DVC itself says that a dependency is missing
        return
    others = differing(path)
    if others:
        found = ", ".join(f"{name} {one} (recorded: {wanted})" for name, (wanted, one) in sorted(others.items()))
        raise EnvironmentFault(
            f"{path} does not name the libraries that are installed: {found}. To have them recorded, so that every "
            "stage that uses them runs again: `graft versions`; to install those that are pinned: `make setup`"
        )


def differing(path: Path) -> Mapping[str, tuple[str, str]]:
    """(recorded, installed) version by name, of the installed libraries whose recorded version is another.

    Raises IntegrityError where a line is none that `graft versions` writes.
    """
    found = {}
    for one in lines(path):
        installed = installed_version(one.name)
        if applies(one) and installed is not None and installed != pin(one):
            found[one.name] = (pin(one), installed)
    return found


def lines(path: Path) -> Iterator[Requirement]:
    """The `name==version` lines of a file, those with a marker of another platform or Python too."""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line and not line.startswith("#"):
            try:
                one = Requirement(line)
            except InvalidRequirement:
                one = None
            if one is None or [spec.operator for spec in one.specifier] != ["=="]:
                raise IntegrityError(
                    f"{path}, line {number}: received {line[:80]!r}, which is no name==version. `graft versions` "
                    "writes the file anew"
                )
            yield one


def applies(one: Requirement) -> bool:
    """Whether a line is for this Python and platform."""
    return one.marker is None or one.marker.evaluate()


def pin(one: Requirement) -> str:
    """The version of a `name==version` line."""
    return str(one.specifier).removeprefix("==")


def installed_version(name: str) -> str | None:
    """Of a distribution, None where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None
