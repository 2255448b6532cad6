"""Sources that are a tree of class folders: a local folder, or an archive."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from stages.core import class_folders
from stages.core.class_folders import Layout
from stages.core.unpacking import Limits
from stages.store import archives, folder_files
from stages.store.kept_packing import KeptPacking
from stages.store.records import Record, Source

log = logging.getLogger(__name__)


def from_folder(root: Path, kept: KeptPacking | None = None) -> Source:
    """A folder of class folders, optionally under splits."""
    tree = folder_files.walk(root)
    known = kept.known(tree.files) if kept else {}
    layout = class_folders.arrange(tree.files, tree.folders)
    skipped = layout.skipped | dict.fromkeys(tree.not_regular, "not_regular_file")
    records = _records(layout, {path: found.size for path, found in tree.files.items()}, known)

    def read(record: Record) -> bytes:
        return folder_files.read(*tree.files[record.place][:2])

    return Source("folder", records, sorted(layout.classes), skipped, read, tree.files)


@contextmanager
def from_archive(path: Path, kind: str, limits: Limits, scratch: Path) -> Iterator[Source]:
    """A zip or tar holding such a tree. Raises IntegrityError where it is not safe or not whole."""
    with archives.opened(path, kind, limits, scratch) as archive:
        layout = class_folders.arrange(archive.sizes, archive.folders)
        records = _records(layout, archive.sizes, {})
        yield Source(kind, records, sorted(layout.classes), layout.skipped, lambda record: archive.read(record.place))


def _records(layout: Layout, sizes: Mapping[str, int], known: Mapping[str, str]) -> list[Record]:
    if layout.beside_splits:
        log.warning(
            "top-level folders were read as classes, not splits, because %s is there as well",
            _listed(layout.beside_splits),
        )
    return [Record(p.name, p.label, p.given_split, sizes[p.path], p.path, known.get(p.path)) for p in layout.placed]


def _listed(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in list(names)[:5])
