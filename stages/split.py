"""split: which accepted image trains, which validates, which tests.

Reads   data/validate/facts.parquet, data/validate/classes.json
Writes  data/split/split.parquet, data/split/split.json
Run     python -m stages.split
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import Field

from stages.core import sampling
from stages.core.parameters import Problem, StageParams
from stages.core.schemas import FACTS, SPLIT, SPLITS
from stages.store import documents, outputs, params, process, tables

FACTS_TABLE = Path("data/validate/facts.parquet")
CLASSES = Path("data/validate/classes.json")
OUT = Path("data/split")


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
    columns = ["name", "label", "given_split", "image_id", "group", "quarantine"]
    rows = [row for row in tables.read(FACTS_TABLE, FACTS, columns).to_pylist() if row["quarantine"] is None]
    classes = documents.read_classes(CLASSES)

    fractions = sampling.Fractions(settings.val_fraction, settings.test_fraction, settings.test_from_val)
    splits = sampling.assign(rows, fractions, settings.seed)
    labels = [row["label"] for row in rows]
    report = sampling.summary(labels, splits, sampling.leaked(rows), classes)
    warnings = sampling.check(report, settings.min_per_class)
    if warnings:
        logging.warning("%s; its figures there will be missing", "; ".join(warnings))

    chosen = [{**{key: row[key] for key in ("name", "label", "image_id", "group")}, "split": split}
              for row, split in zip(rows, splits, strict=True)]  # fmt: skip
    chosen.sort(key=lambda row: (SPLITS.index(row["split"]), row["name"]))
    with outputs.replacing(OUT) as (out,):
        tables.write(out / "split.parquet", tables.from_rows(chosen, SPLIT))
        facts = {**report, "digest": sampling.digest(chosen), "settings": settings.model_dump()}
        documents.write(out / "split.json", facts)
    counts = report["images"]
    return f"{len(chosen):,} images → train {counts['train']:,}, val {counts['val']:,}, test {counts['test']:,}"


if __name__ == "__main__":
    process.run("split", main)
