"""Tables and arrays that are not what they should be, classes out of proportion, and a page that cannot be drawn."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from stages import download, validate
from stages.core import validation_report
from stages.core.errors import DataRejected, IntegrityError
from stages.core.schemas import FACTS, IMAGES, PREDICTIONS, SPLIT
from stages.store import checkpoints, params, sources, tables, tensors
from stages.store.checkpoints import Checkpoints
from stages.store.columns import Columns
from tests.stages.test_validate import clean, encode, pack, results, written
from tests.store.test_sources import OPTIONS

SCHEMAS = {"images": IMAGES, "facts": FACTS, "split": SPLIT, "predictions": PREDICTIONS}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(params, "STAGES", ("validate",))  # other stages' parameters are tested with them
    return tmp_path


def empty(schema: pa.Schema) -> pa.Table:
    return schema.empty_table()


DRIFTS: dict[str, Callable[[pa.Table], tuple[pa.Table, str]]] = {
    "missing": lambda table: (table.drop_columns(["label"]), "label: expected string, received None"),
    "renamed": lambda table: (
        table.rename_columns([name.replace("label", "class") for name in table.column_names]),
        "class: expected None, received string",
    ),
    "another type": lambda table: (
        table.set_column(table.column_names.index("label"), "label", pa.array([], pa.int64())),
        "label: expected string, received int64",
    ),
    "a wider type": lambda table: (
        table.set_column(table.column_names.index("label"), "label", pa.array([], pa.large_string())),
        "label: expected string, received large_string",
    ),
    "extra": lambda table: (table.append_column("more", pa.array([], pa.string())), "more: expected None"),
    "all null": lambda table: (
        table.set_column(table.column_names.index("label"), "label", pa.nulls(0)),
        "label: expected string, received null",
    ),
    "another order": lambda table: (table.select(table.column_names[::-1]), "the same fields in another order"),
}


@pytest.mark.parametrize("drift", DRIFTS)
@pytest.mark.parametrize("name", SCHEMAS)
def test_a_table_of_another_schema_is_refused_with_the_difference(name: str, drift: str, tmp_path: Path) -> None:
    schema = SCHEMAS[name]
    changed, said = DRIFTS[drift](empty(schema))
    path = tmp_path / "table.parquet"
    pq.write_table(changed, path)
    readers: list[Callable[[], Any]] = [
        lambda: tables.read(path, schema),
        lambda: list(tables.iterate(tmp_path, schema)),
        lambda: list(tables.batches(path, schema, schema.names)),
    ]
    for read in readers:
        with pytest.raises(DataRejected) as caught:
            read()
        assert caught.value.exit_code == 3
        assert str(path) in str(caught.value)
        assert said in str(caught.value)


def source(path: Path, **columns: Any) -> dict[str, str]:
    """Labels by name of a Parquet source with these columns."""
    pq.write_table(pa.table(columns), path)
    with sources.opened(str(path), OPTIONS._replace(columns=Columns("file", "image", "label", "split")),
                        path.parent / "scratch") as (found, _):  # fmt: skip
        return {record.name: record.label for record in found.records}


def test_a_parquet_source_with_columns_of_nothing_or_of_too_much(tmp_path: Path) -> None:
    images = [b"1", b"2"]
    path = tmp_path / "x"
    assert sorted(source(path, image=images, label=["a", "b"], more=[1, 2]).values()) == ["a", "b"]
    with pytest.raises(DataRejected, match=r"label.*received null"):
        source(path, image=images, label=pa.nulls(2))
    with pytest.raises(DataRejected, match="row 1: has no label"):
        source(path, image=images, label=pa.nulls(2, pa.string()))
    with pytest.raises(DataRejected, match=r"image.*received null"):
        source(path, image=pa.nulls(2), label=["a", "b"])


def test_damaged_shards_end_with_exit_4_and_download_makes_them_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, label, _, data in clean():
        place = Path("data/images", label, name.rpartition("/")[2])
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
    blocks: dict[str, Any] = {stage: {} for stage in params.STAGES}
    blocks |= {"download": {"source": "data/images", "watch": "data/images"}}
    blocks |= {"validate": {"min_images_per_class": 2}}
    Path("params.yaml").write_text(json.dumps(blocks))
    download.main()
    (shard, *_) = sorted(Path("data/download/images").iterdir())
    whole = shard.read_bytes()
    # A byte of a page, of the footer's length and of the end mark flipped; the end cut off; next to nothing left.
    middle, end = len(whole) // 2, len(whole)
    harms = [whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :] for at in (middle, end - 6, end - 1)]
    for damaged in [*harms, whole[:-9], whole[:middle], whole[:5], b""]:
        shard.write_bytes(damaged)
        with pytest.raises(IntegrityError) as caught:
            validate.main()
        assert caught.value.exit_code == 4
        assert str(shard) in str(caught.value) or "do not hash to its image_id" in str(caught.value)
        assert not Path("data/validate").exists()
        assert not Path("reports").exists()
    download.main()
    assert shard.read_bytes() == whole
    assert validate.main().startswith("12 of 12 images accepted")


class Touch:
    """Unpickled, it makes the file `canary` in the current folder."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("canary",)


def test_a_pickle_in_an_array_is_not_opened(root: Path) -> None:
    hostile = np.array([Touch()], dtype=object)
    writer = tensors.Writer(root, "x", 1, (1,), np.float16, 1)
    writer.put(np.array([0]), np.ones((1, 1)))
    writer.close()
    (stored,) = root.glob("x*.npy")
    np.save(stored, hostile, allow_pickle=True)
    with pytest.raises(IntegrityError) as caught:
        tensors.Reader(root, "x").take(np.array([[0, 0]]))
    assert caught.value.exit_code == 4
    assert stored.name in str(caught.value)
    assert not Path("canary").exists()
    np.load(stored, allow_pickle=True)
    assert Path("canary").is_dir()  # so it would have shown


def test_a_pickle_in_a_checkpoint_is_not_opened(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Even where somebody put the right checksum before it."""
    file = io.BytesIO()
    np.savez(file, state=np.array([Touch()], dtype=object))
    kept = checkpoints.FOLDER / "fine_tune"
    kept.mkdir(parents=True)
    digest = hashlib.sha256(file.getvalue()).hexdigest()
    (kept / "head.npz").write_bytes(checkpoints.MAGIC + digest.encode() + b"\n" + file.getvalue())
    assert Checkpoints("fine_tune", "fingerprint").load("head") is None
    assert "Object arrays cannot be loaded" in caplog.text
    assert not Path("canary").exists()


def test_ninety_nine_to_one_is_a_warning_with_the_share(root: Path) -> None:
    rng = np.random.default_rng(1)
    pictures = [encode(Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8))) for _ in range(100)]
    rows = [(f"{label}/{at}.png", label, None, data)
            for at, data in enumerate(pictures) for label in ["dogs" if at == 99 else "cats"]]  # fmt: skip
    pack(rows, min_images_per_class=1)
    validate.main()
    record = results()
    assert record["verdict"] == "accepted_with_warnings"
    (rule,) = [rule for rule in record["rules"] if rule["id"] == "imbalance"]
    assert (rule["success"], rule["severity"], rule["failing_names"]) == (False, "warning", ["dogs"])
    assert {label: row["accepted"] for label, row in record["classes"].items()} == {"cats": 99, "dogs": 1}


def test_a_page_that_cannot_be_drawn_publishes_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def raises(*_: Any) -> str:
        raise RuntimeError("ink ran out")

    def stopped() -> None:
        with monkeypatch.context() as broken:
            broken.setattr(validation_report, "render", raises)
            with pytest.raises(RuntimeError, match="ink ran out"):
                validate.main()

    pack(clean())
    stopped()
    assert not validate.REPORT.exists()
    assert not validate.OUT.exists()
    validate.main()
    before = written()
    stopped()
    assert written() == before
    assert not list(root.rglob("*.partial"))
