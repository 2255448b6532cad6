"""graft memo: what is kept so that runs need not compute it again; shows it and removes it."""

from __future__ import annotations

import json
import math
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.filesize import decimal

from stages.core.errors import ConfigError, EnvironmentFault
from stages.store.memo_files import MemoFolder

PLACE = Path(".graft/memo")  # <kind>/<fingerprint>/<file>
PURPOSES = {
    "features": "what the frozen network made of each image and view",
    "measurements": "what validate measured of each image",
    "pixels": "decoded images, for training from scratch",
}
PARTIAL = re.compile(r"\..*\.partial")
DAY = 24 * 60 * 60.0
EVERYTHING = -math.inf  # an age in seconds that every file has, one from the future too


@dataclass
class Kept:
    """What is kept of one kind, or of all."""

    kind: str
    purpose: str = ""
    fingerprints: int = 0  # versions of the code, libraries and settings that made it
    files: int = 0
    bytes: int = 0
    last_used: str | None = None  # ISO 8601, UTC

    def add(self, found: os.stat_result) -> None:
        self.files += 1
        self.bytes += found.st_size
        used = datetime.fromtimestamp(found.st_mtime, UTC).isoformat(timespec="seconds")
        self.last_used = max(self.last_used or used, used)


def memo(
    kinds: Annotated[list[str] | None, typer.Argument(metavar="[KIND]...", help="Only these kinds.")] = None,
    older_than: Annotated[
        str | None, typer.Option("--older-than", metavar="DAYS", help="Only what no run has used for so many days.")
    ] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Remove it. Runs may go on meanwhile.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Remove without asking.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of text.")] = False,
) -> None:
    """Show what is kept so that runs need not compute it again, or remove it with --clear.

    Removing costs the time to compute it again, and changes no result.
    """
    place = PLACE.resolve()
    seconds = EVERYTHING if older_than is None else _days(older_than) * DAY
    if yes and not clear:
        raise ConfigError("--yes: received without --clear, the only thing it answers for")
    if not place.exists() and not Path("dvc.yaml").is_file():
        raise ConfigError(f"no {PLACE} and no dvc.yaml in {Path.cwd()}: run graft from the project's root")
    folders = _folders(place, kinds or [])
    found = [_kept(folder, seconds) for folder in folders]
    found = [kept for kept in found if kept.files]
    total = _total(found)
    if not clear:
        if as_json:
            _print_json(place, found, total)
        else:
            _print_table(place, found, total)
        return
    if total.files and not yes:
        if not sys.stdin.isatty():
            raise ConfigError(f"--clear: would remove {_amount(total)}, and there is no terminal to ask on; add --yes")
        if not typer.confirm(f"Remove {_amount(total)} from {place}?", err=True):
            typer.echo("nothing was removed", err=True)
            return
    removed, faults = _total([]), list[OSError]()
    for folder in folders:
        _clear(folder, seconds, removed, faults)
    if as_json:
        _print_json(place, found, total, {"removed": {"files": removed.files, "bytes": removed.bytes}})
    else:
        typer.echo(f"removed {_amount(removed)} from {place}" if removed.files else f"{place}: nothing to remove")
    if faults:
        files = "1 file" if len(faults) == 1 else f"{len(faults)} files"
        raise EnvironmentFault(f"{files} could not be removed; the first: {faults[0]}")


def _days(text: str) -> float:
    try:
        days = float(text)
    except ValueError:
        days = math.nan
    if not (math.isfinite(days) and days >= 0):
        raise ConfigError(f"--older-than: received {text!r}; must be a number of days, 0 or more")
    return days


def _folders(place: Path, kinds: list[str]) -> list[Path]:
    """The folders of these kinds, by default of all."""
    there = {path.name: path for path in sorted(place.iterdir()) if path.is_dir()} if place.exists() else {}
    legal = sorted({*there, *PURPOSES})
    for kind in kinds:
        if kind not in legal:
            raise ConfigError(f"received kind {kind!r}; must be one of {', '.join(legal)}")
    return [folder for kind, folder in there.items() if not kinds or kind in kinds]


def _files(folder: Path, seconds: float) -> Iterator[tuple[Path, os.stat_result]]:
    """The files below a folder that were not used for so long."""
    for parent, _, names in os.walk(folder):
        for name in sorted(names):
            path = Path(parent, name)
            with suppress(FileNotFoundError):  # a run merges or tidies meanwhile
                found = path.lstat()
                if time.time() - found.st_mtime >= seconds:
                    yield path, found


def _kept(folder: Path, seconds: float) -> Kept:
    kept = Kept(folder.name, PURPOSES.get(folder.name, "not known to this version of graft"))
    parents = set()
    for path, found in _files(folder, seconds):
        kept.add(found)
        parents.add(path.parent)
    kept.fingerprints = len(parents - {folder})
    return kept


def _total(found: list[Kept]) -> Kept:
    used = [kept.last_used for kept in found if kept.last_used]
    return Kept(
        "total",
        fingerprints=sum(kept.fingerprints for kept in found),
        files=sum(kept.files for kept in found),
        bytes=sum(kept.bytes for kept in found),
        last_used=max(used, default=None),
    )


def _clear(folder: Path, seconds: float, removed: Kept, faults: list[OSError]) -> None:
    """Remove files, and the folders they leave empty. A file that a living run is writing stays."""
    for path, found in list(_files(folder, seconds)):
        try:
            if PARTIAL.fullmatch(path.name):
                MemoFolder(path.parent).sweep(seconds)
            else:
                path.unlink()
        except FileNotFoundError:
            continue
        except OSError as error:
            faults.append(error)
        if not path.exists():
            removed.add(found)
    for parent, _, _ in os.walk(folder, topdown=False):
        with suppress(OSError):  # not empty
            os.rmdir(parent)


def _amount(kept: Kept) -> str:
    return f"{'1 file' if kept.files == 1 else f'{kept.files:,} files'}, {decimal(kept.bytes)}"


def _print_json(place: Path, found: list[Kept], total: Kept, more: dict[str, object] | None = None) -> None:
    sums = {name: value for name, value in asdict(total).items() if name not in ("kind", "purpose")}
    answer = {"place": str(place), "kinds": [asdict(kept) for kept in found], "total": sums, **(more or {})}
    sys.stdout.write(json.dumps(answer, ensure_ascii=False, indent=2) + "\n")


def _print_table(place: Path, found: list[Kept], total: Kept) -> None:
    typer.echo(place)
    if not found:
        typer.echo("nothing is kept")
        return
    rows = [("kind", "what it is for", "fingerprints", "files", "size", "last used")]
    for kept in [*found, total]:
        used = datetime.fromisoformat(kept.last_used).astimezone().strftime("%Y-%m-%d %H:%M") if kept.last_used else ""
        numbers = (f"{kept.fingerprints:,}", f"{kept.files:,}", decimal(kept.bytes))
        rows.append((kept.kind, kept.purpose, *numbers, used))
    widths = [max(len(row[column]) for row in rows) for column in range(6)]
    for row in rows:
        cells = [cell.rjust(width) if 2 <= at <= 4 else cell.ljust(width)
                 for at, (cell, width) in enumerate(zip(row, widths, strict=True))]  # fmt: skip
        typer.echo("  ".join(cells).rstrip())
