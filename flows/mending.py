"""python -m flows.mending: mend what a killed process or a full disk left of DVC's own files in this checkout.

Flows do this by themselves. `make run` does it before `dvc repro`, and once more, --thoroughly, where that fails. DVC
reads these files before anything of this project runs, so a plain `dvc repro` cannot.
"""

from __future__ import annotations

import sys
from pathlib import Path

from flows import lock_file, run_cache, rwlock


def mend(root: Path, thoroughly: bool) -> list[str]:
    """Mend the checkout at `root`; returns a line for each thing that had to be. See lock_file for `thoroughly`.

    A run cache that DVC was told to keep elsewhere is looked at by flows alone.
    """
    told = []
    if rwlock.mend(root):
        told.append(".dvc/tmp/rwlock named processes that hold nothing, or was cut; they are dropped")
    if run_cache.mend(root):
        told.append("DVC's run cache held an entry that was not written to its end; it is removed")
    if lock_file.mend(root, thoroughly):
        told.append("dvc.lock was cut; the last committed one is back, and DVC's cache has what was made since")
    return told


def main() -> int:
    """Exit 0 where something was mended, 1 where all was whole."""
    told = mend(Path.cwd(), "--thoroughly" in sys.argv)
    for line in told:
        sys.stderr.write(f"mended: {line}\n")
    if lock_file.is_merging(Path.cwd()):
        sys.stderr.write(f"{lock_file.MERGE}\n")
    return 0 if told else 1


if __name__ == "__main__":
    sys.exit(main())
