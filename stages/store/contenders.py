"""What a comparison of two models reads of each: its test's answers, its split, what is known of the images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from stages.core import shared_test
from stages.core.errors import IntegrityError
from stages.core.schemas import FACTS, PREDICTIONS, SPLIT
from stages.core.shared_test import Contender
from stages.store import documents, tables

SLICED_BY = ("name", "label", "given_split", "format", "width", "height", "brightness")


def read(predictions: Path, split: Path, classes: Path) -> Contender:
    """A model's contender from what evaluate, split and validate wrote."""
    columns = ["image_id", "split", "label"]
    return shared_test.contender(
        tables.read(predictions, PREDICTIONS, [*columns, "probabilities"]).to_pylist(),
        tables.read(split, SPLIT, columns).to_pylist(),
        documents.read_classes(classes),
    )


def tested_images(split: Path) -> set[str]:
    """The image_ids of a split's test."""
    rows = tables.read(split, SPLIT, ["image_id", "split"]).to_pylist()
    return {row["image_id"] for row in rows if row["split"] == "test"}


def facts(split: Path, facts: Path, image_ids: list[str]) -> list[dict[str, Any]]:
    """What validate found of these images, in their order, and as `copies` how many images each one's group has.

    Raises IntegrityError where one is in no table.
    """
    rows = tables.read(split, SPLIT, ["name", "image_id", "group"])
    groups = rows["group"].value_counts()
    copies = dict(zip(groups.field("values").to_pylist(), groups.field("counts").to_pylist(), strict=True))
    chosen = rows.filter(pc.is_in(rows["image_id"], pa.array(image_ids, pa.string()))).to_pylist()
    row_of = {row["image_id"]: row for row in reversed(chosen)}
    names = pa.array([row["name"] for row in row_of.values()], pa.string())
    found = pa.concat_tables(
        batch.filter(pc.is_in(batch["name"], names)) for batch in tables.batches(facts, FACTS, SLICED_BY)
    )
    facts_of = {fact["name"]: fact for fact in found.to_pylist()}
    try:
        wanted = [row_of[image_id] for image_id in image_ids]
        return [{**facts_of[row["name"]], "copies": copies[row["group"]]} for row in wanted]
    except KeyError as error:
        raise IntegrityError(f"{facts}: {error} was tested but is not in it; run `dvc repro`") from error
