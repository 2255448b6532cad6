"""SHA-256 of files, and the check of a pin."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from stages.core.errors import IntegrityError


def sha256_of_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_listing(files: Mapping[str, Path]) -> str:
    """Hex SHA-256 of what `sha256sum NAMES` prints where files of these names lie: one digest for several files."""
    listing = "".join(f"{sha256_of_file(path)}  {name}\n" for name, path in files.items())
    return hashlib.sha256(listing.encode()).hexdigest()


def check_pin(path: Path, pin: str, key: str, received: str | None = None) -> None:
    """Raise IntegrityError unless the file's SHA-256 is `pin`. `key` names the parameter that holds it.

    `received` is the digest of a folder, which is computed otherwise.
    """
    received = received or sha256_of_file(path)
    if received != pin:
        raise IntegrityError(
            f"{path}: SHA-256 is {received}, but {key} pins {pin}; the file was changed or cut short. "
            f"Fetch it again, or set {key} to the new hash if the change is meant"
        )


def sha256_of_tree(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder, by relative path in sorted order."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): sha256_of_file(path) for path in paths}
