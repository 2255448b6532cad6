"""Room: is there as much free as writing every recorded output anew takes?"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from rich.filesize import decimal

from commands.checks.finding import Finding, ok, problem, warning
from flows.recorded import LOCK, stages_of
from stages.core.errors import EnvironmentFault

LEAST = 10**9  # bytes that any run may need: TensorFlow's temporary files, reports, the memo


def free(root: Path) -> Iterator[Finding]:
    """Free bytes of the file systems of the checkout and of DVC's cache, against what dvc.lock says was written.

    An output is written beside the one it replaces, and again into the cache where the file system cannot share blocks.
    """
    sizes = written(root)
    largest, everything = max(sizes.values(), default=0), sum(sizes.values())
    cache = _cache(root)
    places = {root: [root]} if _device(root) == _device(cache) else {root: [root], cache: [cache]}
    copies = 2 if len(places) == 1 else 1
    for place in places:
        name = "checkout and DVC's cache" if copies == 2 else "checkout" if place == root else f"DVC's cache {place}"
        room = shutil.disk_usage(_existing(place)).free
        said = f"{name}: {decimal(room)} free; the largest stage writes {decimal(copies * largest)}"
        advice = "make room: `dvc gc --workspace` drops old versions from the cache, `graft memo --clear` what is kept"
        if room < copies * largest:
            yield problem("disk", EnvironmentFault, said, advice)
        elif room < copies * everything + LEAST:
            yield warning("disk", f"{said}, all {decimal(copies * everything)}", advice)
        else:
            yield ok("disk", said)


def written(root: Path) -> dict[str, int]:
    """Bytes of each stage's outputs as dvc.lock records them."""
    lock = root / LOCK
    entries = stages_of(lock.read_text(encoding="utf-8")) if lock.is_file() else {}
    return {name: sum(int(out.get("size") or 0) for out in entry.get("outs", [])) for name, entry in entries.items()}


def _cache(root: Path) -> Path:
    from dvc.config import Config

    folder = root / ".dvc"
    return Path(Config(str(folder), local_dvc_dir=str(folder))["cache"].get("dir") or folder / "cache")


def _device(path: Path) -> int:
    return os.stat(_existing(path)).st_dev


def _existing(path: Path) -> Path:
    return next(one for one in [path, *path.parents] if one.exists())
