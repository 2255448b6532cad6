"""What no set of shards may hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from stages.core.errors import DataRejected
from stages.store import image_shards
from stages.store.records import Record, Source


def source(*records: Record) -> Source:
    return Source("folder", list(records), ["cats"], {}, lambda record: bytes(record.place))


@pytest.mark.parametrize(
    ("records", "message"),
    [
        (
            [Record("cats/1", "cats", None, 1, b"1"), Record("cats/1", "cats", None, 1, b"2")],
            "two images have this name",
        ),
        ([Record("cats/1", "cats", None, image_shards.LARGEST_FILE + 1, b"1")], "1,073,741,825 bytes"),
    ],
)
def test_refused_before_anything_is_written(records: list[Record], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataRejected, match=message):
        image_shards.write(tmp_path / "images", source(*records), 8)
    assert list(tmp_path.iterdir()) == []
