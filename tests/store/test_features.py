"""Tensors and their index: what is stored is what is read, wherever the shards are cut."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stages.core.errors import DataRejected, IntegrityError
from stages.core.schemas import FEATURES, SPLIT
from stages.store import documents, hashes, tables, tensors
from stages.store.features import FeatureReader, FeatureWriter

ROWS = [
    {"name": f"{number:02}.png", "image_id": f"id{number}", "label": "ab"[number % 2], "group": "", "split": split}
    for number, split in enumerate(["train", "test", "train", "val", "train", "train", "val"])
]

INDEXED = {key: value for key, value in ROWS[0].items() if key != "group"}


def write(folder: Path, rows_per_shard: int) -> None:
    """Every tensor holds its image's number, the pooled one also its view."""
    with FeatureWriter(folder, tables.from_rows(ROWS, SPLIT), 3, (2, 2, 1), 4, (2, 2, 3), rows_per_shard) as store:
        places = [(image, view) for image in range(len(ROWS)) for view in range(store.views[image])]
        # In no order and in batches of one and more.
        for batch in np.split(np.random.default_rng(0).permutation(places), [1, 2, 6]):
            images, views = batch.T
            pooled = np.repeat((images + views / 10)[:, None], 4, axis=1)
            store.put(images, views, pooled, np.tile(images[:, None, None, None], (1, 2, 2, 1)))
        order = np.arange(len(ROWS))[::-1]
        store.put_pixels(order, np.tile(order.astype(np.uint8)[:, None, None, None], (1, 2, 2, 3)))
        assert store.stores_pixels.tolist() == [row["split"] != "test" for row in ROWS]
        store.close()
    documents.write(folder / "trunk.json", {"classes": ["a", "b"], "settings": {"rows_per_shard": rows_per_shard}})


@pytest.mark.parametrize("rows_per_shard", [1, 2, 5, 100])
def test_rows_come_back_by_image_and_view(tmp_path: Path, rows_per_shard: int) -> None:
    write(tmp_path, rows_per_shard)
    stored = FeatureReader(tmp_path)
    train = stored.examples("pooled", "train")
    assert train.names == ["00.png", "02.png", "04.png", "05.png"]
    assert train.image_ids == ["id0", "id2", "id4", "id5"]
    assert train.labels.tolist() == [0, 0, 0, 1]
    assert train.views == 3
    taken = train.take(np.array([3, 0, 3]), np.array([2, 1, 0]))
    assert taken.dtype == np.float16
    np.testing.assert_allclose(taken[:, 0], [5.2, 0.1, 5.0], atol=0.01)
    assert stored.examples("activations", "val").take(np.array([1]), np.array([0])).tolist() == [
        [[[6], [6]], [[6], [6]]]
    ]
    pixels = stored.examples("pixels", "train")
    assert pixels.take(np.arange(4), np.zeros(4, np.intp))[:, 0, 0, 0].tolist() == [0, 2, 4, 5]
    assert stored.examples("pooled", "test").labels.tolist() == [1]
    with pytest.raises(IntegrityError, match="activations-test"):
        stored.examples("activations", "test")


def test_a_set_with_rows_missing_is_not_published(tmp_path: Path) -> None:
    writer = tensors.Writer(tmp_path, "x", 3, (2,), np.float16, 2)
    writer.put(np.array([1]), np.zeros((1, 2)))
    with pytest.raises(IntegrityError, match="1 rows written, 3 announced"):
        writer.close()
    with pytest.raises(ValueError, match="1 rows of"):
        writer.put(np.array([1]), np.zeros((1, 3)))


def test_more_shards_than_files_may_be_open(tmp_path: Path) -> None:
    writer = tensors.Writer(tmp_path, "x", 2 * tensors.MAX_OPEN + 5, (3,), np.uint8, 2)
    values = np.random.default_rng(0).integers(0, 256, (2 * tensors.MAX_OPEN + 5, 3), np.uint8)
    for places in np.split(np.random.default_rng(1).permutation(len(values)), [7, 8, 30]):
        writer.put(places, values[places])
    writer.close()
    reader = tensors.Reader(tmp_path, "x")
    assert np.array_equal(reader.take(np.stack(np.divmod(np.arange(len(values)), 2), -1)), values)


def test_damaged_files_are_named_with_exit_4(tmp_path: Path) -> None:
    write(tmp_path, 5)
    target = tmp_path / "pooled-train-00000.npy"
    target.write_bytes(target.read_bytes()[:100])
    with pytest.raises(IntegrityError, match=r"pooled-train-00000\.npy"):
        FeatureReader(tmp_path).examples("pooled", "train")
    np.save(target, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(IntegrityError, match=r"pooled-train-00000\.npy"):
        FeatureReader(tmp_path).examples("pooled", "train")
    index = tmp_path / "index.parquet"
    index.write_bytes(index.read_bytes()[:-20])
    with pytest.raises(IntegrityError, match=r"index\.parquet"):
        FeatureReader(tmp_path)
    (tmp_path / "trunk.json").write_text("{")
    with pytest.raises(IntegrityError, match=r"trunk\.json"):
        FeatureReader(tmp_path)


def test_tables_are_checked_against_their_schema_and_written_alike(tmp_path: Path) -> None:
    rows = [{**INDEXED, "view": 0, "shard": 0, "row": 0}]
    for name in ("one.parquet", "two.parquet"):
        tables.write(tmp_path / name, tables.from_rows(rows, FEATURES))
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()
    assert tables.read(tmp_path / "one.parquet", FEATURES).to_pylist() == rows
    with pytest.raises(DataRejected, match=r"group: expected string, received None"):
        tables.read(tmp_path / "one.parquet", SPLIT)


def test_a_flipped_byte_in_a_page_is_found(tmp_path: Path) -> None:
    rows = [{**INDEXED, "name": f"name {number}", "view": 0, "shard": 0, "row": number} for number in range(500)]
    path = tmp_path / "facts.parquet"
    tables.write(path, tables.from_rows(rows, FEATURES))
    good = path.read_bytes()
    refused = 0
    for position in range(100, len(good) // 2, 211):
        path.write_bytes(good[:position] + bytes([good[position] ^ 1]) + good[position + 1 :])
        # A few bytes, such as a page's statistics, carry no value: then the rows are still the ones written.
        for read in (lambda: tables.read(path, FEATURES).to_pylist(), lambda: list(tables.iterate(tmp_path, FEATURES))):
            try:
                assert read() == rows
            except IntegrityError:
                refused += 1
    assert refused > 10


def test_csv_holds_no_formula(tmp_path: Path) -> None:
    tables.write_csv(tmp_path / "x.csv", [{"label": "=cmd()", "value": -1.5}, {"label": "cat", "value": 2}])
    assert (tmp_path / "x.csv").read_text() == "label,value\n'=cmd(),-1.5\ncat,2\n"


def test_a_pin_is_checked(tmp_path: Path) -> None:
    file = tmp_path / "weights.h5"
    file.write_bytes(b"abc")
    pin = hashes.sha256_of_file(file)
    assert pin == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    hashes.check_pin(file, pin, "some.key")
    file.write_bytes(b"abd")
    with pytest.raises(IntegrityError, match=r"weights.h5: SHA-256 is .*some\.key pins ba7816bf"):
        hashes.check_pin(file, pin, "some.key")
