"""The named columns of a table of images, and the values they may hold."""

from __future__ import annotations

from typing import NamedTuple

from stages.core.class_folders import SPLIT_NAMES, split_named
from stages.core.errors import DataRejected


class Columns(NamedTuple):
    """Column names; each is the parameter `download.<name>_column`. `split` may be absent from a table."""

    file: str = "file"
    image: str = "image"
    label: str = "label"
    split: str = "split"


def label_of(value: object, place: str) -> str:
    """A label as text. Raises DataRejected naming `place` where there is none."""
    if value is None or value == "":
        raise DataRejected(f"{place}: has no label; every image needs one")
    return str(value)


def split_of(value: str | None, place: str) -> str | None:
    """train, val, test, or None where the cell is empty. Raises DataRejected for any other text."""
    if value is None or not value.strip():
        return None
    split = split_named(value)
    if split is None:
        raise DataRejected(f"{place}: received the split {value!r}; legal: empty, {', '.join(SPLIT_NAMES)}")
    return split
