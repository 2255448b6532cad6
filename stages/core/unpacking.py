"""How much an archive may grow when it is unpacked."""

from __future__ import annotations

from typing import NamedTuple

from stages.core.errors import IntegrityError

# Below this a high ratio is harmless, and normal: the headers of small files compress well.
RATIO_FROM_BYTES = 2**20


class Limits(NamedTuple):
    """The largest archive that is opened; each is the parameter `download.<name>`."""

    max_bytes: int  # unpacked
    max_members: int  # files and folders
    max_ratio: int  # unpacked bytes / packed bytes


class Meter:
    """Counts what comes out of one archive. Raises IntegrityError as soon as a limit is passed."""

    def __init__(self, archive: str, packed_bytes: int, limits: Limits) -> None:
        self._archive, self._packed, self._limits = archive, packed_bytes, limits
        self._bytes = 0
        self._members = 0

    def add_bytes(self, count: int) -> None:
        """Count bytes that were really unpacked: headers may lie."""
        self._bytes += count
        self.check_bytes(self._bytes)

    def check_bytes(self, total: int) -> None:
        """Refuse `total` unpacked bytes."""
        limits = self._limits
        if total > limits.max_bytes:
            self._refuse("unpacked bytes", f"{total:,}", "max_bytes", limits.max_bytes)
        if total > RATIO_FROM_BYTES and total > limits.max_ratio * self._packed:
            self._refuse("times its packed size", f"{total // max(self._packed, 1):,}", "max_ratio", limits.max_ratio)

    def add_members(self, count: int = 1) -> None:
        """Count files and folders."""
        self._members += count
        if self._members > self._limits.max_members:
            self._refuse("members", f"{self._members:,}", "max_members", self._limits.max_members)

    def _refuse(self, what: str, received: str, key: str, limit: int) -> None:
        raise IntegrityError(
            f"{self._archive}: at least {received} {what}; download.{key} allows {limit:,}. It was "
            f"refused as a whole; raise download.{key} only if you trust where it comes from"
        )
