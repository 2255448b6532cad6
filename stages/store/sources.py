"""Opens `download.source`, whatever it is, as one Source of records."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from stages.core.errors import ConfigError, DataRejected, IntegrityError
from stages.core.unpacking import Limits
from stages.store import (
    archives,
    csv_source,
    digits_source,
    fetch,
    file_kinds,
    hashes,
    outputs,
    parquet_source,
    tree_sources,
)
from stages.store.columns import Columns
from stages.store.kept_packing import KeptPacking
from stages.store.records import Source

DIGITS = "digits"
LISTING = ".listing.json"  # how the name of a file that `graft add` writes ends
LAYOUT = (
    "expected class folders (cats/1.jpg, dogs/2.jpg), optionally under train/, validation/ and test/, with "
    "at least two classes"
)

log = logging.getLogger(__name__)


class Options(NamedTuple):
    """How a source is opened."""

    sha256: str | None  # pin of the file
    limits: Limits
    patience: fetch.Patience
    columns: Columns
    max_missing_fraction: float  # of a CSV's rows and files, 0-1


class Opened(NamedTuple):
    """A source ready to be read, and the SHA-256 of its file; None for a folder or the digits."""

    source: Source
    sha256: str | None


def check_place(source: str, watch: str, out: Path) -> None:
    """Raise ConfigError unless the source is there, is watched where that is needed, and is apart from `out`.

    DVC sees a change inside a folder only where it is told to look, which is `watch`.
    """
    if is_listing(watch):
        _check_listing(source, watch)
    if source == DIGITS:
        return
    if fetch.is_url(source):
        fetch.check(source)
        return
    path, watched = _local(source), _local(watch)
    if not path.is_file() and not path.is_dir():
        raise ConfigError(
            f"download.source: received {source!r}, but {path} is no file or folder; must be {DIGITS!r}, the "
            "path of a folder, archive, Parquet file or CSV, or the URL of an archive or Parquet file"
        )
    if path.is_relative_to(out.resolve()) or out.resolve().is_relative_to(path):
        raise ConfigError(
            f"download.source: {source!r} and this stage's output {out} lie in each other; move the source"
        )
    if path.is_dir() and path != watched and not is_listing(watch):
        raise ConfigError(
            f"download.watch: received {watch!r}, but download.source is the folder {source!r} and DVC "
            f"notices new files only under download.watch; set download.watch to {source!r}"
        )
    if path.is_file() and not path.is_relative_to(watched):
        log.info(
            "DVC does not watch %s; after changing it run this stage with --force, or set download.watch",
            source,
        )


def is_listing(watch: str) -> bool:
    """Whether DVC is to look at what `graft add` records of the folder, and not at every file in it."""
    return watch.endswith(LISTING)


def _check_listing(source: str, watch: str) -> None:
    path, listing = _local(source), _local(watch)
    if source == DIGITS or fetch.is_url(source) or not path.is_dir():
        raise ConfigError(
            f"download.watch: received {watch!r}, which `graft add` writes for a folder; download.source is "
            f"{source!r}, no folder. Set download.watch to data/images, its default"
        )
    if listing.is_relative_to(path) or not listing.is_relative_to(Path.cwd().resolve()):
        raise ConfigError(
            f"download.watch: received {watch!r}; the listing goes to git, so it must lie in the project, and not in "
            f"the folder {source!r} that it lists; for instance data/images{LISTING}"
        )


@contextmanager
def opened(source: str, options: Options, scratch: Path, kept: KeptPacking | None = None) -> Iterator[Opened]:
    """The source's records; what has to be fetched or unpacked first lies in the folder `scratch` meanwhile.

    Raises IntegrityError (damage, an unsafe archive, a wrong pin), EnvironmentFault (network) and
    DataRejected (no image, fewer than two classes, a wrong table).
    """
    scratch.mkdir()
    try:
        with _opened(source, options, scratch, kept) as found:
            _report_skipped(found.source)
            _check_enough(found.source)
            yield found
    finally:
        outputs.remove(scratch)


@contextmanager
def _opened(source: str, options: Options, scratch: Path, kept: KeptPacking | None) -> Iterator[Opened]:
    if source == DIGITS:
        yield Opened(digits_source.from_digits(), None)
        return
    fetched = fetch.is_url(source)
    path = scratch / "fetched" if fetched else _local(source)
    if fetched:
        fetch.fetch(source, path, options.patience, options.limits.max_bytes)
    elif path.is_dir():
        if options.sha256 is not None:
            raise ConfigError("download.sha256: a folder has no single hash; set it to null, or pack the folder")
        yield Opened(tree_sources.from_folder(path, kept), None)
        return
    # Before any parser sees the bytes.
    if options.sha256 is not None:
        hashes.check_pin(path, options.sha256, "download.sha256")
    sha256 = options.sha256 or hashes.sha256_of_file(path)
    kind = file_kinds.kind_of(path)
    if kind == "parquet":
        with parquet_source.from_parquet(path, options.columns, options.limits, scratch) as table:
            yield Opened(table, sha256)
    elif kind in archives.KINDS:
        with tree_sources.from_archive(path, kind, options.limits, scratch) as tree:
            yield Opened(tree, sha256)
    elif kind is None and not fetched and path.suffix.lower() == ".csv":
        yield Opened(csv_source.from_csv(path, options.columns, options.max_missing_fraction), sha256)
    else:
        what = "an HTML page" if kind == "html" else "none of these"
        raise IntegrityError(
            f"{fetch.redacted(source)}: by its first bytes it is {what}; must be {', '.join(archives.KINDS)} "
            "or Parquet, or a local file named .csv"
        )


def _local(source: str) -> Path:
    try:
        return Path(source).expanduser().resolve()
    except (RuntimeError, ValueError) as error:  # an unknown ~user, a NUL byte
        raise ConfigError(f"download.source: received {source!r}, which is no path ({error})") from error


def _report_skipped(source: Source) -> None:
    for reason, count in sorted(Counter(source.skipped.values()).items()):
        names = sorted(name for name, why in source.skipped.items() if why == reason)
        shown = ", ".join(repr(name) for name in names[:5]) + (", …" if count > 5 else "")
        log.info("skipped %d as %s: %s", count, reason, shown)


def _check_enough(source: Source) -> None:
    if source.records and len(source.classes) >= 2:
        return
    classes = ", ".join(repr(label) for label in source.classes[:10]) or "none"
    loose = sum(reason == "no_class" for reason in source.skipped.values())
    raise DataRejected(
        f"download.source: found {len(source.records)} files in {len(source.classes)} classes ({classes}) "
        f"and {loose} files outside of any class; {LAYOUT}"
    )
