"""The page that shows a validation: the verdict, what broke it, and the pictures concerned."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from stages.core.facts import Facts
from stages.core.page import Badge, Cell, Page, Tone
from stages.core.verdict import failed_rules, observation

PICTURES_PER_RULE = 12
PICTURES = 24  # failing images shown on the whole page
GROUPS_PICTURED = 4
PICTURES_PER_GROUP = 6
QUARANTINE_LISTED = 500
BINS = 40
SEVERITY: dict[str, Tone] = {"critical": "bad", "warning": "warn", "info": "plain"}


def pictured(record: Mapping[str, Any]) -> list[str]:
    """Names of the images the page will show, for the caller to make thumbnails of."""
    names = [name for _, shown in _failing_pictures(record) for name in shown]
    for group in record["duplicate_groups"]["listed"][:GROUPS_PICTURED]:
        names += group["names"][:PICTURES_PER_GROUP]
    return list(dict.fromkeys(names))


def render(
    record: Mapping[str, Any],
    facts: Sequence[Facts],
    quarantine: Sequence[Mapping[str, str]],
    thumbnails: Mapping[str, bytes | None],
) -> str:
    """The page as HTML text.

    `record` is verdict.results', `quarantine` the rows of quarantine.parquet, and `thumbnails` maps
    the names of `pictured` to JPEG bytes, or to None where an image has no picture.
    """
    page = Page("Validation of the images")
    _headline(page, record)
    page.links(
        [("Great Expectations' own pages", "data_docs/index.html"), ("results.json", "results.json"),
         ("expectations.json", "expectations.json")]
    )  # fmt: skip
    _broken_rules(page, record, thumbnails)
    _classes(page, record)
    _distributions(page, facts)
    _duplicates(page, record, thumbnails)
    _left_out(page, record, quarantine)
    page.heading("All rules")
    page.table(
        ["rule", "severity", "outcome", "observed", "allowed", "what it asks"],
        [
            [
                rule["id"],
                rule["severity"],
                Badge("kept", "good") if rule["success"] else Badge("broken", SEVERITY[rule["severity"]]),
                observation(rule),
                None if rule["threshold"] is None else f"{100 * rule['threshold']:.4g} %",
                rule["description"],
            ]
            for rule in record["rules"]
        ],
    )
    return page.render()


def _headline(page: Page, record: Mapping[str, Any]) -> None:
    critical = len(failed_rules(record, "critical"))
    warnings = len(failed_rules(record, "warning"))
    notes = len(failed_rules(record, "info"))
    both = f" {_count(warnings, 'warning')} and {_count(notes, 'note')} stand below."
    aside = both if warnings + notes else ""
    if record["verdict"] == "rejected":
        page.banner(
            "bad",
            f"Rejected: {_count(critical, 'critical rule')} broken. Nothing was trained.",
            f"Do what each broken rule below says, then run `dvc repro` again.{aside}",
        )
    elif record["verdict"] == "accepted_with_warnings":
        page.banner(
            "warn",
            f"Accepted, with {_count(warnings, 'warning')}.",
            "The pipeline goes on. Read the warnings below before trusting a score."
            + f" {_count(notes, 'note')} below as well." * bool(notes),
        )
    else:
        page.banner("good", "Accepted.", f"Every critical rule and every warning was kept; go on.{aside}")
    page.figures(
        [
            ("images", record["images"]),
            ("accepted", record["accepted"]),
            ("quarantined", sum(record["quarantined"].values())),
            ("classes", len(record["classes"])),
            ("rules kept", f"{sum(rule['success'] for rule in record['rules'])} of {len(record['rules'])}"),
        ]
    )


def _broken_rules(page: Page, record: Mapping[str, Any], thumbnails: Mapping[str, bytes | None]) -> None:
    if not failed_rules(record):
        return
    page.heading("Broken rules")
    for rule, names in _failing_pictures(record):
        page.heading(f"{rule['severity']}: {rule['id']}", 3)
        page.paragraph(f"{rule['description']} Observed: {observation(rule)}. {rule['advice']}")
        if rule["table"] == "classes" and rule["failing_names"]:
            page.paragraph("Classes: " + ", ".join(rule["failing_names"]))
        elif names:
            page.gallery((thumbnails.get(name), name) for name in names)
        elif rule["failing_names"]:
            page.paragraph("Files: " + ", ".join(rule["failing_names"]))


def _failing_pictures(record: Mapping[str, Any]) -> list[tuple[dict[str, Any], list[str]]]:
    """Each broken rule, most severe first, with the names of the images pictured for it."""
    order = list(SEVERITY)
    broken = sorted(failed_rules(record), key=lambda rule: order.index(rule["severity"]))
    left = PICTURES
    shown = []
    for rule in broken:
        names = rule["failing_names"][: min(left, PICTURES_PER_RULE)] if rule["table"] == "images" else []
        left -= len(names)
        shown.append((rule, names))
    return shown


def _classes(page: Page, record: Mapping[str, Any]) -> None:
    page.heading("Classes")
    page.paragraph("Accepted images of each class.")
    page.bars([(label, row["accepted"]) for label, row in record["classes"].items()], unit="images")
    short = [
        [label, row["images"], row["accepted"], row["images"] - row["accepted"]]
        for label, row in record["classes"].items()
        if row["images"] != row["accepted"]
    ]
    if short:
        page.table(["class", "images", "accepted", "quarantined"], short)


def _distributions(page: Page, facts: Sequence[Facts]) -> None:
    decoded = [fact for fact in facts if fact.width is not None and fact.height is not None]
    if not decoded:
        return
    page.heading("Sizes and light")
    sides = [min(fact.width or 0, fact.height or 0) for fact in decoded]
    if min(sides) == max(sides):
        page.paragraph(f"The shorter side of every image has {sides[0]:,} pixels.")
    else:
        _histogram(page, sides, min(sides), max(sides), "shorter side, pixels")
    _histogram(page, (fact.brightness for fact in decoded), 0, 1, "brightness, 0 black to 1 white")


def _histogram(page: Page, values: Iterable[float | None], low: float, high: float, label: str) -> None:
    counts, _ = np.histogram([value for value in values if value is not None], BINS, (low, high))
    page.histogram(counts.tolist(), low, high, label=label)


def _duplicates(page: Page, record: Mapping[str, Any], thumbnails: Mapping[str, bytes | None]) -> None:
    groups, leakage = record["duplicate_groups"], record["leakage"]
    page.heading("Duplicates and leakage")
    if not groups["files"]:
        page.paragraph("No two accepted images are copies or look alike.")
        return
    page.paragraph(
        f"{_count(groups['exact'], 'group')} of exact copies and {_count(groups['near'], 'group')} of images "
        f"that look alike, {_count(groups['files'], 'file')} in all. A group always stays in one split."
    )
    page.paragraph(
        f"Leakage: {_count(leakage['groups'], 'group')} with {_count(leakage['files'], 'file')} lie in more "
        "than one of the splits that the data came with."
    )
    for group in groups["listed"][:GROUPS_PICTURED]:
        page.gallery((thumbnails.get(name), name) for name in group["names"][:PICTURES_PER_GROUP])
    page.table(
        ["kind", "files", "labels", "given splits", "names"],
        [
            [group["kind"], group["files"], _listed(group["labels"]), _listed(group["splits"]),
             _listed(group["names"], group["files"])]
            for group in groups["listed"]
        ],
    )  # fmt: skip
    hidden = groups["exact"] + groups["near"] - len(groups["listed"])
    if hidden:
        page.paragraph(f"{_count(hidden, 'smaller group')} more; facts.parquet has them all, in `group`.")


def _left_out(page: Page, record: Mapping[str, Any], quarantine: Sequence[Mapping[str, str]]) -> None:
    page.heading("Quarantine")
    if not quarantine:
        page.paragraph("No file is quarantined.")
    else:
        page.paragraph("These files are in the data set but are not trained on.")
        page.bars(list(record["quarantined"].items()), unit="files")
        rows: list[list[Cell]] = [
            [row["name"], row["label"], Badge(row["reason"], "warn"), row["detail"], row["image_id"][:8]]
            for row in quarantine[:QUARANTINE_LISTED]
        ]
        page.table(["name", "label", "reason", "detail", "image_id"], rows)
        if len(quarantine) > QUARANTINE_LISTED:
            hidden = len(quarantine) - QUARANTINE_LISTED
            page.paragraph(f"{_count(hidden, 'file')} more; data/validate/quarantine.parquet lists them all.")
    skipped = record["skipped_by_download"]
    if skipped:
        page.heading("Left out by download", 3)
        page.table(["name", "reason"], [[row["name"], row["reason"]] for row in skipped[:QUARANTINE_LISTED]])
        if len(skipped) > QUARANTINE_LISTED:
            page.paragraph(f"{_count(len(skipped) - QUARANTINE_LISTED, 'file')} more; see results.json.")


def _listed(names: Sequence[str], total: int | None = None) -> str:
    more = (total or len(names)) - len(names)
    return ", ".join(names) + f" and {more:,} more" * bool(more)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
