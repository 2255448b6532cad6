"""The photographs of ../shared as stages leave them, without running the stages before."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from pathlib import Path

from ruamel.yaml import YAML

from stages.core.schemas import IMAGES, SPLIT
from stages.store import tables

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared"
ARCHIVE = SHARED / "data" / "cats_and_dogs_filtered.zip"
PER_SHARD = 256


def missing() -> str | None:
    """Why nothing can be measured here; None where the photographs and weights are there."""
    return None if ARCHIVE.is_file() else f"needs {ARCHIVE}"


def read(count: int) -> list[tuple[str, bytes]]:
    """(name, bytes) of `count` photographs; from 3,001 on again under other names, each with a byte of its own behind.

    A byte behind a JPEG's end changes its hash and no pixel, so every one is an image of its own.
    """
    with zipfile.ZipFile(ARCHIVE) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".jpg"))
        found = []
        for number in range(count):
            again, at = divmod(number, len(names))
            name = f"{names[at][:-4]}-{again}.jpg"
            found.append((name, archive.read(names[at]) + (again.to_bytes(2, "big") if again else b"")))
    return sorted(found)


def store(folder: Path, photographs: list[tuple[str, bytes]], **settings: object) -> None:
    """Write shards, split table, classes and params.yaml, as feature_extract reads them, into `folder`.

    Eight in ten are for training, one each for validation and test. `settings` are feature_extract's, beyond
    those of recipes/cats_and_dogs.yaml.
    """
    rows = [
        {"name": name, "label": "dogs" if "/dog" in name else "cats", "given_split": None,
         "image_id": hashlib.sha256(data).hexdigest(), "bytes": data}
        for name, data in photographs
    ]  # fmt: skip
    shards = folder / "data/download/images"
    shards.mkdir(parents=True, exist_ok=True)
    for old in shards.glob("*.parquet"):
        old.unlink()
    for start in range(0, len(rows), PER_SHARD):
        tables.write(shards / f"{start:07}.parquet", tables.from_rows(rows[start : start + PER_SHARD], IMAGES))
    splits = {8: "val", 9: "test"}
    kept = [
        {"name": row["name"], "label": row["label"], "image_id": row["image_id"], "group": row["image_id"],
         "split": splits.get(int(row["image_id"][:8], 16) % 10, "train")}
        for row in rows
    ]  # fmt: skip
    for part in ("split", "validate"):
        (folder / "data" / part).mkdir(exist_ok=True)
    tables.write(folder / "data/split/split.parquet", tables.from_rows(kept, SPLIT))
    (folder / "data/validate/classes.json").write_text(json.dumps({"classes": ["cats", "dogs"]}))
    recipe = YAML(typ="safe").load((ROOT / "recipes/cats_and_dogs.yaml").read_text())
    recipe["feature_extract"] |= settings
    with (folder / "params.yaml").open("w") as file:
        YAML().dump(recipe, file)


def environment() -> dict[str, str]:
    """Of a process that runs a stage of this checkout in another folder."""
    kept = {key: value for key, value in os.environ.items() if key != "KERAS_BACKEND"}
    return kept | {"PYTHONPATH": str(ROOT), "KERAS_HOME": str(SHARED / "keras_home")}
