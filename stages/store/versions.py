"""Around a stage that DVC started: are the libraries that its modules import those that dvc.lock is to record?

stages/versions/<stage>.txt names them with their versions, and is a dependency of the stage in dvc.yaml. So another
version makes the stage stale, and what dvc.lock says made an output is what made it. `graft versions` writes the files.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.version import InvalidVersion, Version

from stages.core.errors import EnvironmentFault, IntegrityError

FOLDER = Path("stages/versions")
# Of pyproject.toml's extras: a recipe that needs one says so itself.
OPTIONAL = {"keras-hub", "onnx", "onnxruntime", "tf2onnx"}
# Other distributions of the same modules; whichever was installed last is what Python imports.
SIBLINGS = {
    "onnxruntime": ("onnxruntime-gpu",),
    "opencv-python-headless": ("opencv-python", "opencv-contrib-python", "opencv-contrib-python-headless"),
    "tensorflow": ("tensorflow-cpu", "tf-nightly"),
}
ADVICE = (
    "To have them recorded, so that every stage that uses them runs again: `graft versions` in the pipeline's "
    "checkout, and commit what it writes. On a GPU worker, or for another commit: install what that commit pins, "
    "`make setup`"
)


@contextmanager
def held(stage: str) -> Iterator[None]:
    """Raise EnvironmentFault where a stage's file does not name what is installed, before the block or after it.

    After it, because DVC hashes dependencies when a stage has ended: packages and file may be others by then. Only as a
    DVC stage, which DVC says by DVC_STAGE: what is started by hand is recorded nowhere. Raises IntegrityError where the
    file is not as `graft versions` writes it.
    """
    path = FOLDER / f"{stage}.txt"
    if "DVC_STAGE" not in os.environ or not path.exists():  # DVC itself says that a dependency is missing
        yield
        return
    before = path.read_bytes()
    _check(path)
    yield
    if not path.exists() or path.read_bytes() != before:
        raise EnvironmentFault(f"{path} was changed while {stage} ran, and is no record of what it used; run it again")
    _check(path)


def _check(path: Path) -> None:
    others = differing(path)
    if others:
        found = ", ".join(f"{name} {found} (recorded: {wanted})" for name, (wanted, found) in sorted(others.items()))
        raise EnvironmentFault(f"{path} does not name the libraries that are installed: {found}. {ADVICE}")


def differing(path: Path) -> Mapping[str, tuple[str, str]]:
    """(recorded, found) by name, of the libraries that are not installed as a file records them."""
    others = {}
    for one in lines(path):
        if not applies(one):
            continue
        installed = installed_version(one.name)
        siblings = [f"{name} {found}" for name in SIBLINGS.get(one.name, ()) if (found := installed_version(name))]
        if siblings:
            others[one.name] = (pin(one), f"{installed or 'not installed'}, beside {' and '.join(siblings)}")
        elif installed is None and one.name not in OPTIONAL:
            others[one.name] = (pin(one), "not installed")
        elif installed is not None and not same(installed, pin(one)):
            others[one.name] = (pin(one), installed)
    return others


def lines(path: Path) -> list[Requirement]:
    """The `name==version` lines of a file, those with a marker of another platform or Python too.

    Raises IntegrityError where a line is another, or where there is none.
    """
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        if line and not line.startswith("#"):
            one = pinning(line)
            if one is None:
                raise IntegrityError(
                    f"{path}, line {number}: received {line[:80]!r}, which is no name==version. `graft versions` "
                    "writes the file anew"
                )
            found.append(one)
    if not found:
        raise IntegrityError(f"{path}: it names no library; get the last committed one back: git checkout -- {path}")
    return found


def pinning(line: str) -> Requirement | None:
    """A line `name==version`, perhaps with a marker or a comment behind it; None where it is another kind of line."""
    try:
        one = Requirement(line.partition(" #")[0])
    except InvalidRequirement:
        return None
    return one if [spec.operator for spec in one.specifier] == ["=="] and "*" not in pin(one) else None


def applies(one: Requirement) -> bool:
    """Whether a line is for this Python and platform."""
    return one.marker is None or one.marker.evaluate()


def pin(one: Requirement) -> str:
    """The version of a `name==version` line."""
    return str(one.specifier).removeprefix("==")


def same(one: str, other: str) -> bool:
    """Whether two texts are the same version: 13.0 is 13.0.0, and 2.21.0+cuda is not 2.21.0."""
    try:
        return Version(one) == Version(other)
    except InvalidVersion:
        return one == other


def installed_version(name: str) -> str | None:
    """Of a distribution, None where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None
