"""validate: may these images be trained on? Quarantines the bad ones, groups duplicates, asks the rules.

Reads   data/download/images, data/download/dataset.json, data/review/
Writes  data/validate/facts.parquet, quarantine.parquet, classes.json, profile.json
        reports/validate/index.html, results.json, results.md, failing.csv, expectations.json, tables/, data_docs/
Run     python -m stages.validate

Both folders are written even when a critical rule is broken; the stage then fails with exit code 3.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from stages.core import (
    changes,
    drift,
    duplicates,
    evidence,
    expectations,
    neighbours,
    profile,
    quarantine,
    review,
    validation_markdown,
    validation_report,
    verdict,
)
from stages.core.errors import DataRejected
from stages.core.evidence import Known
from stages.core.parameters import Problem, StageParams, unknown_key
from stages.core.schemas import FACTS, QUARANTINE
from stages.store import data_docs, documents, measurements, outputs, params, process, reviewed, spill, tables

SHARDS = Path("data/download/images")
DATASET = Path("data/download/dataset.json")
REVIEW = Path("data/review")
OUT = Path("data/validate")
REPORT = Path("reports/validate")

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
    near_duplicate_distance: int = Field(12, ge=0, le=duplicates.MAX_DISTANCE, description="bits of 64")
    near_duplicate_min_side: int = Field(32, ge=1, description="pixels; below, only equal bytes make a group")
    max_exact_duplicate_fraction: Fraction = Field(0.01, description="files that are a copy of another")
    max_near_duplicate_fraction: Fraction = Field(0.05, description="images that look like another")
    max_leaking_fraction: Fraction = Field(0.0, description="images with a duplicate in another given split")
    max_mismatched_extension_fraction: Fraction = Field(0.0, description="names unlike the contents")
    max_multi_frame_fraction: Fraction = Field(0.0, description="images with more than one frame")
    max_turned_fraction: Fraction = Field(0.05, description="images that EXIF data turn")
    max_unusual_mode_fraction: Fraction = Field(0.0, description="images in CMYK and other unusual modes")
    max_deep_fraction: Fraction = Field(0.0, description="images with more than 8 bits per channel")
    max_odd_colour_fraction: Fraction = Field(0.01, description="grey images where most are coloured, or v.v.")
    outlier_above: float = Field(3.0, gt=1.0, description="distance to the fifth neighbour / its median")
    max_outlier_fraction: Fraction = Field(0.01, description="images that resemble no other")
    dark_below: Fraction = Field(0.1, description="mean brightness")
    max_dark_fraction: Fraction = Field(0.01, description="dark images")
    bright_above: Fraction = Field(0.93, description="mean brightness")
    max_bright_fraction: Fraction = Field(0.01, description="nearly white images")
    blurred_below: float = Field(0.02, ge=0, description="sharpness, see schemas.FACTS")
    max_blurred_fraction: Fraction = Field(0.01, description="blurred images")
    uniform_below: float = Field(0.02, ge=0, le=0.5, description="standard deviation of brightness")
    max_uniform_fraction: Fraction = Field(0.01, description="images of nearly one colour")
    drift_false_alarm_rate: float = Field(
        0.01, ge=0.0005, le=0.5, description="chance that a run reports drift where the source has not changed"
    )
    min_drift: Fraction = Field(0.1, description="effect below which a difference does not matter")
    severity: dict[str, Literal["critical", "warning", "info", "off"]] = Field(
        {}, description="rule id to severity, where it is not to be the rule's own"
    )
    decode_seconds: float = Field(20.0, ge=0.1, le=3600, description="processor seconds that one image may take")
    decode_megabytes: int = Field(2048, ge=64, le=65536, description="memory that decoding one image may take")
    workers: int = Field(2, ge=1, le=64, description="processes that decode; changes no result")

    def across(self, blocks: Mapping[str, StageParams]) -> Iterator[Problem]:
        """A class named twice would be two outputs of which one can never win; a rule must exist."""
        if self.classes is not None and len(set(self.classes)) < len(self.classes):
            yield Problem("validate.classes", f"received {self.classes}; each class once")

        legal = expectations.changeable(self)
        for rule in sorted(self.severity.keys() - set(legal)):
            yield unknown_key(f"validate.severity.{rule}", legal)


def main() -> str:
    settings = params.read(ValidateParams)
    dataset = documents.read(DATASET)
    decisions = reviewed.decisions(REVIEW)
    accepted = reviewed.accepted(REVIEW)
    known = know(settings, dataset, decisions)
    current = profile.profile(known.facts, known.groups, known.reasons)
    drifts = _drifts(settings, accepted, current)

    classes = sorted(settings.classes or dataset["classes"])
    # Where params.yaml names the classes, a person has decided on them.
    before: list[str] | None = accepted["classes"] if accepted and settings.classes is None else None
    situation = expectations.Situation(
        classes, dataset["images"], class_set=before is not None,
        decisions=bool(decisions), drift=bool(drifts),
    )  # fmt: skip
    by_class = evidence.class_table(known, classes)
    lines = evidence.decision_table(known, decisions) if decisions else None
    asked = {"images": spill.spilled(evidence.image_table(known)), "classes": by_class}
    if before is not None:
        labels = {*dataset["classes"], *(fact.label for fact in known.facts)}
        asked["class_set"] = evidence.class_set_table(labels, before)
    asked |= {"decisions": lines} if lines is not None else {}
    asked |= {"drift": evidence.drift_table(drifts)} if drifts else {}
    bad = quarantine.rows(known.facts, known.judged)

    with outputs.replacing(OUT, REPORT) as (out, report):
        tables.write_rows(out / "facts.parquet", evidence.fact_rows(known), FACTS)
        tables.write(out / "quarantine.parquet", tables.from_rows(bad, QUARANTINE))
        documents.write(out / "classes.json", {"classes": classes})
        documents.write(out / "profile.json", current)
        (report / "data_docs").mkdir()
        (report / "tables").mkdir()
        for name, table in asked.items():
            tables.write(report / "tables" / f"{name}.parquet", table)
        inquiry = data_docs.inquire(asked, expectations.rules(settings, situation), report / "data_docs")
        changed = changes.since(accepted, current, inquiry.answers) if accepted else None
        record = verdict.results(inquiry.answers, known, by_class, lines, drifts, changed, dataset["skipped"])
        documents.write(report / "results.json", record)
        (report / "results.md").write_text(validation_markdown.render(record), encoding="utf-8")
        documents.write(report / "expectations.json", inquiry.suites)
        failing = verdict.failing_rows(inquiry.answers, known.facts)
        tables.write_csv(report / "failing.csv", failing, verdict.FAILING_COLUMNS)
        view = validation_report.View(record, known, failing, bad, accepted)
        shown = measurements.thumbnails(SHARDS, validation_report.pictured(view), _limits(settings))
        page = validation_report.render(view, shown)
        (report / "index.html").write_text(page, encoding="utf-8")

    if record["verdict"] == "rejected":
        raise DataRejected(verdict.rejection(record, str(REPORT / "index.html")))
    return verdict.summary(record)


def know(settings: ValidateParams, dataset: Mapping[str, Any], decisions: list[review.Decision]) -> Known:
    """Everything there is to know of every image, before any rule is asked."""
    found = measurements.of_shards(SHARDS, dataset["images"], _limits(settings))
    groups = measurements.texts(
        duplicates.group(
            found, max_distance=settings.near_duplicate_distance, min_side=settings.near_duplicate_min_side
        )
    )
    path = str(REVIEW / reviewed.DECISIONS)
    decided = review.apply(decisions, found, path) if decisions else review.Review([None] * len(found), [])
    judged = quarantine.judge(found, decided.decisions, settings)
    return Known(found, groups, measurements.pictures_nearby(neighbours.nearest(found)), judged, decided)


def _limits(settings: ValidateParams) -> measurements.Limits:
    return measurements.Limits(settings.workers, settings.decode_seconds, settings.decode_megabytes * 2**20)


def _drifts(
    settings: ValidateParams, accepted: Mapping[str, Any] | None, current: Mapping[str, Any]
) -> list[drift.Drift]:
    """Nothing to compare with is no drift."""
    if accepted is None:
        return []
    return drift.compare(
        accepted["profile"], current,
        false_alarm_rate=settings.drift_false_alarm_rate, min_effect=settings.min_drift,
    )  # fmt: skip


if __name__ == "__main__":
    process.run("validate", main)
