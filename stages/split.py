"""split: which accepted image trains, which validates, which tests.

Reads   data/validate/facts.parquet, data/validate/classes.json
Writes  data/split/split.parquet, data/split/split.json
Run     python -m stages.split
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from stages.core import sampling
from stages.core.parameters import Problem, StageParams
from stages.core.schemas import FACTS, SPLIT, SPLITS
from stages.store import documents, outputs, params, process, spill, tables

FACTS_TABLE = Path("data/validate/facts.parquet")
CLASSES = Path("data/validate/classes.json")
OUT = Path("data/split")
ACCEPTED = pa.schema([FACTS.field(name) for name in ("name", "label", "given_split", "image_id", "group")])


class SplitParams(StageParams):
    """Shares are of the images, 0-1. Splits that the source came with are kept as they are."""

    val_fraction: float = Field(0.15, ge=0.01, le=0.5, description="share drawn for validation")
    test_fraction: float = Field(0.15, ge=0.01, le=0.5, description="share drawn for the test")
    test_from_val: float = Field(0.2, gt=0.0, le=0.9, description="share of a given val that becomes the test")
    min_per_class: int = Field(1, ge=1, description="fewest training images of a class")
    seed: int = Field(1, ge=0, description="another seed, another draw")

    def across(self, blocks: Mapping[str, StageParams]) -> Iterator[Problem]:
        """Something must be left to train on."""
        if self.val_fraction + self.test_fraction > 0.8:
            both = self.val_fraction + self.test_fraction
            yield Problem("split.val_fraction", f"with test_fraction it takes {both:g}; together at most 0.8")


def main() -> str:
    settings = params.read(SplitParams)
    classes = documents.read_classes(CLASSES)
    fractions = sampling.Fractions(settings.val_fraction, settings.test_fraction, settings.test_from_val)
    with spill.Spill(ACCEPTED) as accepted:
        for facts in tables.batches(FACTS_TABLE, FACTS, [*ACCEPTED.names, "quarantine"]):
            accepted.add(facts.filter(pc.is_null(facts["quarantine"])).select(ACCEPTED.names))
        images = accepted.table()

    splits = sampling.assign(images, fractions, settings.seed)
    report = sampling.summary(images["label"], splits, sampling.leaked(images), classes)
    warnings = sampling.check(report, settings.min_per_class)
    if warnings:
        logging.warning("%s; its figures there will be missing", "; ".join(warnings))

    with outputs.replacing(OUT) as (out,):
        tables.write_batches(out / "split.parquet", _ordered(images, splits), SPLIT)
        facts = {**report, "digest": sampling.digest(images, splits), "settings": settings.model_dump()}
        documents.write(out / "split.json", facts)
    counts = report["images"]
    return f"{len(images):,} images → train {counts['train']:,}, val {counts['val']:,}, test {counts['test']:,}"


def _ordered(images: pa.Table, splits: sampling.Splits) -> Iterator[pa.RecordBatch]:
    """The rows of split.parquet; facts come in the order of names."""
    columns = [name for name in SPLIT.names if name != "split"]
    for number, split in enumerate(SPLITS):
        start = 0
        for batch in images.select(columns).to_batches():
            chosen = batch.filter(pa.array(splits[start : start + len(batch)] == number))
            start += len(batch)
            yield pa.record_batch([*chosen.columns, pa.array([split] * len(chosen), pa.string())], schema=SPLIT)


if __name__ == "__main__":
    process.run("split", main)
