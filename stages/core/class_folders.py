"""Reads a tree of paths as images in class folders: which class and split each file belongs to.

cats/1.jpg  dogs/2.jpg                            class folders
train/cats/1.jpg  validation/cats/2.jpg           class folders under splits
cats_and_dogs/train/cats/1.jpg                    the same in one wrapping folder, which is looked through
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

SPLIT_NAMES = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
# What operating systems leave behind. Hidden files and folders are litter as well.
LITTER = {"__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"}
IMAGE_SUFFIXES = {
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".gif", ".bmp", ".dib", ".webp", ".tif", ".tiff",
    ".heic", ".heif", ".avif", ".jp2", ".jxl", ".ppm", ".pgm",
}  # fmt: skip

Parts = tuple[str, ...]


class Placed(NamedTuple):
    """A file that belongs to a class. `name` is `path` without the wrapping folders."""

    path: str
    name: str
    label: str
    given_split: str | None  # train | val | test


class Layout(NamedTuple):
    """What a tree holds. `beside_splits` are folders that kept a `train` beside them from being a split."""

    placed: list[Placed]
    classes: set[str]  # empty class folders included
    skipped: dict[str, str]  # path → reason: litter | no_class
    beside_splits: list[str]


def is_litter(name: str) -> bool:
    """Whether a file's or folder's own name says that it was never meant as data."""
    return name.startswith(".") or name.lower() in LITTER


def is_image_name(path: str) -> bool:
    """Whether a path ends as image files do."""
    stem, _, suffix = path[path.rfind("/") + 1 :].rpartition(".")
    return bool(stem) and f".{suffix.lower()}" in IMAGE_SUFFIXES


def split_named(name: str) -> str | None:
    """train, val or test for any of its usual names, else None."""
    return SPLIT_NAMES.get(name.strip().lower())


def arrange(files: Iterable[str], folders: Iterable[str]) -> Layout:
    """Place every file, given the "/"-separated relative paths of files and of (also empty) folders.

    Top-level folders are splits where all of them are named like splits and one is train, else
    classes; all that lies below a class folder belongs to it. A file outside of class folders and
    litter are skipped; litter is named by its topmost folder.
    """
    skipped: dict[str, str] = {}
    kept_files = _without_litter(files, skipped)
    kept_folders: set[Parts] = {()}
    holding_images: set[Parts] = set()
    for _, parts in _without_litter(folders, skipped):
        kept_folders.update(parts[:depth] for depth in range(1, len(parts) + 1))
    for _, parts in kept_files:
        folder = parts[:-1]
        if folder not in holding_images:
            if folder not in kept_folders:
                kept_folders.update(parts[:depth] for depth in range(1, len(parts)))
            if is_image_name(parts[-1]):
                holding_images.add(folder)
    children: dict[Parts, set[str]] = {}
    for folder in kept_folders - {()}:
        children.setdefault(folder[:-1], set()).add(folder[-1])

    root = _look_through(children, holding_images)
    tops = children.get(root, set())
    are_splits = _are_splits(tops)
    at = len(root) + are_splits  # where in a path the class stands
    placed = []
    wrapping = sum(len(part) + 1 for part in root)
    for path, parts in kept_files:
        if parts[: len(root)] != root or len(parts) < at + 2:
            skipped[path] = "no_class"
            continue
        split = split_named(parts[len(root)]) if are_splits else None
        placed.append(Placed(path, path[wrapping:], parts[at], split))
    classes = {folder[at] for folder in kept_folders if folder[: len(root)] == root and len(folder) > at}
    has_train = any(split_named(top) == "train" for top in tops)
    beside = sorted(top for top in tops if split_named(top) is None) if has_train else []
    return Layout(placed, classes, skipped, beside)


def _without_litter(paths: Iterable[str], skipped: dict[str, str]) -> list[tuple[str, Parts]]:
    kept = []
    # Many files share few folders, which are looked at once each.
    seen: dict[str, tuple[Parts, str | None]] = {"": ((), None)}
    for path in paths:
        folder, _, name = path.rpartition("/")
        if folder not in seen:
            parts = tuple(folder.split("/"))
            depth = next((depth for depth, part in enumerate(parts, 1) if is_litter(part)), None)
            seen[folder] = parts, None if depth is None else "/".join(parts[:depth])
        parts, litter = seen[folder]
        if litter is None and is_litter(name):
            litter = path
        if litter is None:
            kept.append((path, (*parts, name)))
        else:
            skipped[litter] = "litter"
    return kept


def _look_through(children: dict[Parts, set[str]], holding_images: set[Parts]) -> Parts:
    """The folder whose folders are the classes or splits.

    One folder alone cannot be two classes, so it is taken for a wrapping unless images lie right in it.
    """
    root: Parts = ()
    while len(children.get(root, ())) == 1 and not _are_splits(children[root]):
        (only,) = children[root]
        inner = (*root, only)
        if inner not in children or inner in holding_images:
            break
        root = inner
    return root


def _are_splits(names: set[str]) -> bool:
    splits = {split_named(name) for name in names}
    return "train" in splits and None not in splits
