"""The files of a memo: each comes into being whole, and is older the longer nobody used it.

Losing any of them costs time and nothing else, so what goes wrong with one is logged and does not raise.
"""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

LEFTOVER_SECONDS = 24 * 60 * 60.0  # a temporary file of this age may be a killed writer's
Part = bytes | bytearray | memoryview
log = logging.getLogger(__name__)


class MemoFolder:
    """One folder of immutable files, shared by concurrent processes. A file's mtime is the time of its last use."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._warned: set[Path] = set()

    def listed(self, pattern: str) -> list[Path]:
        """The files whose names match `pattern`, in the order of names; none where there is no folder."""
        try:
            return sorted(self.path.glob(pattern))
        except OSError as error:
            self.warn(self.path, f"cannot be read ({error})")
            return []

    def write(self, name: str, parts: Sequence[Part], *, sync: bool = True, used: float | None = None) -> bool:
        """Write a file of `parts`, last used at `used` (seconds since the epoch; default now), by a rename.

        With `sync`, a power cut right after does not lose it. False, and a warning, where it cannot be written;
        nothing of it is left then.
        """
        try:
            try:
                self._write(name, parts, sync, used)
            except FileNotFoundError:  # another process has just removed the empty folder
                self._write(name, parts, sync, used)
        except OSError as error:
            self.warn(self.path, f"cannot be written to ({error}); the next run computes again what this one did")
            return False
        return True

    def _write(self, name: str, parts: Sequence[Part], sync: bool, used: float | None) -> None:
        partial = self.path / f".{secrets.token_hex(8)}.partial"
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open("xb") as file:
                with suppress(OSError):  # some network file systems have none; they are not swept either
                    fcntl.flock(file, fcntl.LOCK_EX)  # says that its writer lives
                for part in parts:
                    file.write(part)
                file.flush()
                if sync:
                    os.fsync(file.fileno())
                if used is not None:
                    os.utime(partial, (used, used))
                partial.rename(self.path / name)
        finally:
            partial.unlink(missing_ok=True)

    def touch(self, file: Path | int) -> None:
        """Note that a file, or the file of a descriptor, is used now; where that may not be, it only looks older."""
        with suppress(OSError):
            os.utime(file)

    def sweep(self, seconds: float = LEFTOVER_SECONDS) -> None:
        """Remove the temporary files of this age that killed writers left; those of living ones stay."""
        for path in self.listed(".*.partial"):
            try:
                if time.time() - path.stat().st_mtime < seconds:
                    continue
                with path.open("rb") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    path.unlink()
            except OSError:
                continue  # gone, or its writer was only stopped

    def remove(self, path: Path) -> None:
        """Remove a file, there or not."""
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            self.warn(self.path, f"cannot be tidied ({error})")

    def warn(self, path: Path, text: str) -> None:
        """Log a warning, one for each file or folder."""
        if path not in self._warned:
            self._warned.add(path)
            log.warning("%s %s", path, text)
