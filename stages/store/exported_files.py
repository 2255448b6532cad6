"""The files of each exported format, and whether they are those that were certified."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stages.core.errors import ConfigError, IntegrityError
from stages.store import documents, hashes
from stages.store.exported import PLACES

CERTIFICATE = "certificate.json"
LABELS = "labels.txt"


def of(format_: str, digests: Mapping[str, str]) -> dict[str, str]:
    """The part of an exported folder's SHA-256 by path that one format of PLACES is made of, labels.txt included."""
    place = PLACES[format_]
    folder = place.rpartition("/")[0] or place  # OpenVINO's is two files
    return {name: one for name, one in digests.items() if name in (place, LABELS) or name.startswith(f"{folder}/")}


def check(folder: Path, format_: str) -> bool:
    """Hash one format's files against certificate.json; False where that names none, as before it did.

    Raises ConfigError, with the reason, where it says that the format was not published, and IntegrityError where a
    file is missing, is there beside them, or holds other bytes.
    """
    if not (folder / CERTIFICATE).is_file():
        return False
    certificate = documents.read(folder / CERTIFICATE)
    certified = certificate.get(format_) if isinstance(certificate, dict) else None
    if isinstance(certified, dict) and certified.get("published") is False:
        there = ", ".join(name for name, one in certificate.items() if isinstance(one, dict) and one.get("published"))
        raise ConfigError(f"{folder}: {_refused(format_, certified)}; published are {there}")
    recorded = certified.get("sha256") if isinstance(certified, dict) else None
    if not isinstance(recorded, dict) or not recorded:
        return False
    found = of(format_, hashes.sha256_of_tree(folder))
    wrong = sorted(name for name in {*recorded, *found} if recorded.get(name) != found.get(name))
    if wrong:
        name = wrong[0]
        said = "was certified, but is not there" if name not in found else "other bytes than were certified"
        if name not in recorded:
            said = "is not among the files that were certified"
        raise IntegrityError(
            f"{folder / name}: {said} (SHA-256 in {CERTIFICATE}). `graft verify --repair` and `dvc repro export` bring "
            "them back; of a copy, copy it again"
        )
    return True


def missing(folder: Path) -> list[str]:
    """A line for each format that certificate.json says was asked for and not published; none where there is none."""
    if not (folder / CERTIFICATE).is_file():
        return []
    certificate = documents.read(folder / CERTIFICATE)
    found = certificate.items() if isinstance(certificate, dict) else ()
    return [_refused(name, one) for name, one in found if isinstance(one, dict) and one.get("published") is False]


def _refused(format_: str, certified: Mapping[str, Any]) -> str:
    # Certificates of before had no `why`, and this was the one reason.
    return f"{format_} was not published: it {certified.get('why', 'does not agree with the evaluated model')}"
