"""validate: may these images be trained on? Quarantines the bad ones, groups duplicates, asks the rules.

Reads   data/download/images, data/download/dataset.json
Writes  data/validate/facts.parquet, quarantine.parquet, classes.json
        reports/validate/index.html, results.json, expectations.json, data_docs/
Run     python -m stages.validate

Both folders are written even when a critical rule is broken; the stage then fails with exit code 3.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from stages.core import (
    duplicates,
    evidence,
    expectations,
    facts,
    images,
    quarantine,
    validation_report,
    verdict,
)
from stages.core.errors import DataRejected
from stages.core.parameters import Problem, StageParams
from stages.core.schemas import FACTS, IMAGES, QUARANTINE
from stages.store import data_docs, documents, outputs, params, process, tables

SHARDS = Path("data/download/images")
DATASET = Path("data/download/dataset.json")
OUT = Path("data/validate")
REPORT = Path("reports/validate")

POOL_FROM_BYTES = 64 * 2**20  # below this, starting processes takes longer than decoding
THUMBNAIL_SIDE = 160  # pixels

Format = Literal["JPEG", "PNG", "GIF", "BMP", "WEBP"]  # what the exported model can read, too
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]


class ValidateParams(StageParams):
    """A fraction is a share of the files, 0-1. Brightness is on the scale 0 black to 1 white."""

    formats: list[Format] = Field(
        ["JPEG", "PNG", "GIF", "BMP"], min_length=1, description="accepted by their first bytes, not their names"
    )
    classes: list[str] | None = Field(None, min_length=2, description="class names; null: those of the data")
    min_side: int = Field(8, ge=1, le=4096, description="pixels, shorter side")
    max_side: int = Field(16384, ge=8, le=65536, description="pixels, longer side")
    max_aspect: float = Field(5.0, ge=1.0, description="longer side / shorter side")
    multi_frame: Literal["first_frame", "quarantine"] = Field("first_frame", description="for animations")
    min_images_per_class: int = Field(10, ge=1, description="accepted images")
    max_bad_fraction: Fraction = Field(0.05, description="files in quarantine")
    max_imbalance: float = Field(10.0, ge=1.0, description="largest class / smallest class")
    near_duplicate_distance: int = Field(7, ge=0, le=duplicates.MAX_DISTANCE, description="bits of 64")
    near_duplicate_min_side: int = Field(32, ge=1, description="pixels; below, only equal bytes make a group")
    max_exact_duplicate_fraction: Fraction = Field(0.01, description="files that are a copy of another")
    max_near_duplicate_fraction: Fraction = Field(0.05, description="images that look like another")
    max_leaking_fraction: Fraction = Field(0.0, description="images with a duplicate in another given split")
    max_mismatched_extension_fraction: Fraction = Field(0.0, description="names unlike the contents")
    max_multi_frame_fraction: Fraction = Field(0.0, description="images with more than one frame")
    dark_below: Fraction = Field(0.05, description="mean brightness")
    max_dark_fraction: Fraction = Field(0.01, description="dark images")
    bright_above: Fraction = Field(0.95, description="mean brightness")
    max_bright_fraction: Fraction = Field(0.01, description="nearly white images")
    blurred_below: float = Field(0.001, ge=0, description="variance of the Laplacian at 64 x 64 pixels")
    max_blurred_fraction: Fraction = Field(0.01, description="blurred images")
    uniform_below: float = Field(0.02, ge=0, le=0.5, description="standard deviation of brightness")
    max_uniform_fraction: Fraction = Field(0.01, description="images of nearly one colour")
    workers: int = Field(2, ge=1, le=64, description="processes that decode; changes no result")

    def across(self, blocks: Mapping[str, StageParams]) -> Iterator[Problem]:
        """A class named twice would be two outputs of which one can never win."""
        if self.classes is not None and len(set(self.classes)) < len(self.classes):
            yield Problem("validate.classes", f"received {self.classes}; each class once")


def main() -> str:
    settings = params.read(ValidateParams)
    dataset = documents.read(DATASET)
    classes = sorted(settings.classes or dataset["classes"])

    workers = settings.workers if dataset["bytes"] >= POOL_FROM_BYTES else 1
    rows = process.progress(tables.iterate(SHARDS, IMAGES), "measuring images", dataset["images"])
    measured = list(facts.measure_all(rows, workers))
    groups = duplicates.group(
        measured, max_distance=settings.near_duplicate_distance, min_side=settings.near_duplicate_min_side
    )
    judged = quarantine.judge(measured, settings)
    reasons = [judgement and judgement[0] for judgement in judged]
    rules = expectations.rules(settings, classes, dataset["images"])
    by_class = evidence.class_table(measured, reasons, classes)
    asked = {"images": evidence.image_table(measured, groups, reasons), "classes": by_class}
    bad = quarantine.rows(measured, judged)
    with outputs.replacing(OUT, REPORT) as (out, report):
        rows_of_facts = evidence.fact_rows(measured, groups, reasons)
        tables.write(out / "facts.parquet", tables.from_rows(rows_of_facts, FACTS))
        tables.write(out / "quarantine.parquet", tables.from_rows(bad, QUARANTINE))
        documents.write(out / "classes.json", {"classes": classes})
        (report / "data_docs").mkdir()
        inquiry = data_docs.inquire(asked, rules, report / "data_docs")
        record = verdict.results(inquiry.answers, measured, groups, reasons, by_class, dataset["skipped"])
        documents.write(report / "results.json", record)
        documents.write(report / "expectations.json", inquiry.suites)
        thumbnails = _thumbnails(validation_report.pictured(record))
        page = validation_report.render(record, measured, bad, thumbnails)
        (report / "index.html").write_text(page, encoding="utf-8")

    if record["verdict"] == "rejected":
        raise DataRejected(verdict.rejection(record, str(REPORT / "index.html")))
    return verdict.summary(record)


def _thumbnails(names: list[str]) -> dict[str, bytes | None]:
    """Small pictures of the few images the page shows, from a second look at the shards."""
    rows = tables.iterate(SHARDS, IMAGES, ["name", "bytes"]) if names else []
    shown = (row for row in rows if row["name"] in names)
    return {row["name"]: images.thumbnail(row["bytes"], THUMBNAIL_SIDE) for row in shown}


if __name__ == "__main__":
    process.run("validate", main)
