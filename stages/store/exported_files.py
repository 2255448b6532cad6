"""The files of each exported format, and whether they are those that were certified."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from stages.core.errors import IntegrityError
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

    Raises IntegrityError where a file is missing, is there beside them, or holds other bytes.
    """
    if not (folder / CERTIFICATE).is_file():
        return False
    certificate = documents.read(folder / CERTIFICATE)
    certified = certificate.get(format_) if isinstance(certificate, dict) else None
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
