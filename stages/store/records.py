"""What every kind of source is turned into: records in any order, and a way to read each one's bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Record(NamedTuple):
    """One image file, not yet read."""

    name: str  # unique in its source
    label: str
    given_split: str | None  # train | val | test
    size: int  # bytes
    place: Any  # where the source finds the bytes; nobody else looks inside
    image_id: str | None = None  # SHA-256 of the bytes, where that is known without reading them


@dataclass(frozen=True)
class Source:
    """An opened source. `read` gives a record's bytes, once, in any order."""

    format: str
    records: list[Record]
    classes: list[str]  # sorted, empty ones included
    skipped: dict[str, str]  # name → reason
    read: Callable[[Record], bytes]
    files: Mapping[str, Any] = field(default_factory=dict)  # place → the file behind a record, for a folder's
