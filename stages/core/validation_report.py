"""The page that shows a validation: the verdict, what broke it, and the pictures concerned."""

from __future__ import annotations

import heapq
from array import array
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, zip_longest
from typing import Any

import numpy as np

from stages.core.evidence import Known
from stages.core.facts import Facts
from stages.core.page import Badge, Cell, Link, Page, Picture, Tile, Tone
from stages.core.verdict import FAILING_COLUMNS, failed_rules, observation

PICTURES_PER_RULE = 12
PICTURES_OF_RULES = 72  # on the whole page; with the other galleries about 150, of some 6 KB each
GROUPS_PICTURED = 6
PICTURES_PER_GROUP = 6
OUTLIERS_PICTURED = 12
QUARANTINE_PICTURED = 24
QUARANTINE_LISTED = 500
ROWS_LISTED = 2000
ROWS_PER_RULE = 200
DOWNLOADED = 5000
BINS = 40
# How a gallery names what a rule found on an image; elsewhere the rule's id says it.
FOUND = {
    "bad_files": "reason:",
    "label_conflicts": "same bytes as",
    "near_duplicate_labels": "looks like",
    "exact_duplicates": "copy of",
    "near_duplicates": "looks like",
    "leakage": "also in another split as",
    "dark": "brightness",
    "bright": "brightness",
    "uniform": "contrast",
    "blurred": "sharpness",
    "multi_frame": "frames",
    "turned": "EXIF orientation",
    "trailing_bytes": "bytes behind its end:",
    "bit_depth": "bits per channel",
    "odd_colour": "is",
    "size": "shorter side",
    "longest_side": "longer side",
    "outliers": "times as far as usual:",
}
SEVERITY: dict[str, Tone] = {"critical": "bad", "warning": "warn", "info": "plain"}
# Quantity, its axis, and the range where one is fixed.
DISTRIBUTIONS = (
    ("shorter_side", "shorter side, pixels", None),
    ("aspect", "longer side / shorter side", None),
    ("brightness", "brightness, 0 black to 1 white", (0.0, 1.0)),
    ("contrast", "contrast, standard deviation of brightness", (0.0, 0.5)),
    ("saturation", "colourfulness, 0 grey to 1", (0.0, 1.0)),
    ("entropy", "entropy, bits", (0.0, 8.0)),
)


@dataclass(frozen=True)
class View:
    """Everything the page shows."""

    record: Mapping[str, Any]  # verdict.results'
    known: Known
    failing: Sequence[Mapping[str, Any]]  # verdict.failing_rows'
    quarantine: Sequence[Mapping[str, str]]  # rows of quarantine.parquet
    accepted: Mapping[str, Any] | None  # as `graft accept` wrote it

    @cached_property
    def by_name(self) -> dict[str, int]:
        """Position of the image of each name."""
        return {fact.name: at for at, fact in enumerate(self.known.facts)}

    @cached_property
    def failing_of(self) -> dict[str, list[Mapping[str, Any]]]:
        """The failing rows of each rule."""
        found: defaultdict[str, list[Mapping[str, Any]]] = defaultdict(list)
        for row in self.failing:
            found[row["rule"]].append(row)
        return dict(found)

    @cached_property
    def outliers(self) -> list[tuple[float, str]]:
        """(score, name) of the accepted images that resemble others least, most alone first."""
        scored = (
            (neighbour.outlier, fact.name)
            for fact, neighbour, judged in zip(
                self.known.facts, self.known.neighbours, self.known.judged, strict=True
            )
            if neighbour and neighbour.outlier is not None and judged is None
        )  # fmt: skip
        return heapq.nsmallest(OUTLIERS_PICTURED, scored, key=lambda pair: (-pair[0], pair[1]))


Thumbnails = Mapping[str, bytes | None]


def pictured(view: View) -> list[str]:
    """Names of the images the page will show, for the caller to make thumbnails of."""
    names = [name for _, shown in _pictures_of_rules(view) for name in shown]
    for section in ("duplicate_groups", "leakage", "label_conflicts"):
        for group in view.record[section]["listed"][:GROUPS_PICTURED]:
            names += group["names"][:PICTURES_PER_GROUP]
    names += [name for _, name in view.outliers]
    names += [row["name"] for row in _some_of_each(view.quarantine)[:QUARANTINE_PICTURED]]
    return list(dict.fromkeys(names))


def render(view: View, thumbnails: Thumbnails) -> str:
    """The page as HTML text. `thumbnails` maps the names of `pictured` to JPEG bytes, or to None."""
    page = Page("Validation of the images", script=True)
    _headline(page, view)
    page.contents()
    _broken_rules(page, view, thumbnails)
    _changes(page, view)
    _classes(page, view)
    _distributions(page, view)
    _groups(page, view, thumbnails)
    _outliers(page, view, thumbnails)
    _left_out(page, view, thumbnails)
    _all_rules(page, view)
    _rows(page, view)
    return page.render()


def headline(record: Mapping[str, Any]) -> tuple[Tone, str, str]:
    """The answer in one sentence, and what to do next."""
    critical = len(failed_rules(record, "critical"))
    warnings = len(failed_rules(record, "warning"))
    notes = len(failed_rules(record, "info"))
    both = f" {_count(warnings, 'warning')} and {_count(notes, 'note')} stand below."
    aside = both if warnings + notes else ""
    if record["verdict"] == "rejected":
        return (
            "bad",
            f"Rejected: {_count(critical, 'critical rule')} broken. Nothing was trained.",
            f"Do what each broken rule below says, then run `dvc repro` again.{aside}",
        )
    if record["verdict"] == "accepted_with_warnings":
        return (
            "warn",
            f"Accepted, with {_count(warnings, 'warning')}.",
            "The pipeline goes on. Read the warnings below before trusting a score."
            + f" {_count(notes, 'note')} below as well." * bool(notes),
        )
    return "good", "Accepted.", f"Every critical rule and every warning was kept; go on.{aside}"


def _headline(page: Page, view: View) -> None:
    record = view.record
    page.banner(*headline(record))
    quarantined = sum(record["quarantined"].values())
    page.figures(
        [
            ("images", Link(record["images"], "#rows")),
            ("accepted", Link(record["accepted"], "#rows?accepted")),
            ("quarantined", Link(quarantined, "#rows?quarantined") if quarantined else 0),
            ("classes", Link(len(record["classes"]), "#classes")),
            ("rules kept", Link(f"{sum(r['success'] for r in record['rules'])} of {len(record['rules'])}", "#rules")),
        ]
    )
    page.links(
        [("all failing rows (failing.csv)", "failing.csv"), ("results.json", "results.json"),
         ("results.md", "results.md"), ("Great Expectations' own pages", "data_docs/index.html"),
         ("the rules as a Great Expectations suite", "expectations.json")]
    )  # fmt: skip
    if view.failing:
        rows = [[row[column] for column in FAILING_COLUMNS] for row in view.failing[:DOWNLOADED]]
        some = f" (the first {DOWNLOADED:,} of {len(view.failing):,})" if len(view.failing) > DOWNLOADED else ""
        page.download(f"Download the failing rows as CSV{some}", "failing.csv", FAILING_COLUMNS, rows)


def _broken_rules(page: Page, view: View, thumbnails: Thumbnails) -> None:
    if not failed_rules(view.record):
        return
    page.heading("Broken rules", id="broken")
    for rule, names in _pictures_of_rules(view):
        page.heading(f"{rule['severity']}: {rule['id']}", 3, id=f"rule-{rule['id']}")
        page.sentence([f"{rule['description']} Observed: ", _observed(rule), f". {rule['advice']}"])
        values = {row["name"]: row["value"] for row in view.failing_of.get(rule["id"], ())}
        if names:
            page.gallery(
                _tile(view, thumbnails, name, [_noted(view, rule, name, values.get(name))], SEVERITY[rule["severity"]])
                for name in names
            )
        elif rule["failing_names"]:
            page.table(
                ["which", "found"],
                [[name, values.get(name)] for name in rule["failing_names"]],
            )


def _pictures_of_rules(view: View) -> list[tuple[dict[str, Any], list[str]]]:
    """Each broken rule, most severe first, with the names of the images pictured for it."""
    order = list(SEVERITY)
    broken = sorted(failed_rules(view.record), key=lambda rule: order.index(rule["severity"]))
    with_pictures = sum(rule["table"] == "images" and bool(rule["failing_names"]) for rule in broken)
    # Every rule gets its share; a third of them broken leaves each a full row.
    each = min(PICTURES_PER_RULE, PICTURES_OF_RULES // max(1, with_pictures))
    return [(rule, rule["failing_names"][:each] if rule["table"] == "images" else []) for rule in broken]


def _noted(view: View, rule: Mapping[str, Any], name: str, value: Any) -> str:
    """What the rule found on one image, in words."""
    if rule["id"] == "extensions":
        return f"contents are {view.known.facts[view.by_name[name]].measured.format}"
    shown = f"{value:.4g}" if isinstance(value, float) else str(value)
    return f"{FOUND.get(rule['id'], rule['id'])} {shown}"


def _changes(page: Page, view: View) -> None:
    page.heading("Since the accepted data", id="changes")
    page.paragraph("`graft changes` compares with the report of any commit.")
    changes = view.record["changes"]
    if changes is None:
        page.paragraph(
            "No data has been accepted yet, so there is nothing to compare with. `graft accept` blesses the data of "
            "this report; later reports then say what changed and whether it has drifted."
        )
        return
    came = changes["pictures"]
    about = "" if came["exact"] else f", each give or take {2 * came['standard_error']:,.0f} (estimated from a sample)"
    page.paragraph(
        f"{_count(came['added'], 'picture')} came, {came['removed']:,} went, {came['kept']:,} stayed{about}. "
        "Copies of one picture count once."
    )
    rows: list[list[Cell]] = []
    for what in ("images", "accepted"):
        before, now = changes[what]
        if before != now:
            rows.append(["all", what, before, now, now - before])
    for what in ("classes", "quarantined", "formats", "rules"):
        rows += [[what, key, before, now, now - before] for key, (before, now) in changes[what].items()]
    if rows:
        page.table(["of", "which", "accepted data", "now", "difference"], rows, id="changed", sortable=True)
    else:
        page.paragraph("No count has changed.")
    _drift(page, view)


def _drift(page: Page, view: View) -> None:
    drifts = view.record["drift"]
    drifted = [one["quantity"] for one in drifts if one["drifted"]]
    tested = [one for one in drifts if one["test"] != "none"]
    page.heading("Drift", 3, id="drift")
    if drifted:
        page.paragraph(f"Drifted: {', '.join(drifted)}.")
    elif tested:
        page.paragraph(
            f"Of {len(tested)} quantities that could be tested none has drifted: no difference is beyond chance and "
            "large enough to matter."
        )
    else:
        page.paragraph(f"Nothing could be tested. {drifts[0]['detail']}.")
    page.table(
        ["quantity", "outcome", "accepted data", "now", "effect", "p", "measured as", "test", "remark"],
        [
            [
                one["quantity"],
                Badge(*_outcome(one)),
                one["accepted"],
                one["current"],
                one["effect"],
                one["adjusted"],
                one["effect_name"],
                one["test"],
                one["detail"] if one["drifted"] or one["test"] == "none" else None,
            ]
            for one in drifts
        ],
        caption="p is adjusted for asking about all quantities at once (Holm)",
        id="drifts",
        sortable=True,
    )


def _outcome(drift: Mapping[str, Any]) -> tuple[str, Tone]:
    if drift["test"] == "none":
        return "untested", "plain"
    return ("drifted", "warn") if drift["drifted"] else ("same", "good")


def _classes(page: Page, view: View) -> None:
    page.heading("Classes", id="classes")
    page.paragraph("Accepted images of each class.")
    classes = view.record["classes"]
    page.bars(
        [(label, row["accepted"]) for label, row in classes.items()],
        unit="images",
        hrefs=[f"#rows?accepted label={label}" for label in classes],
    )
    short: list[list[Cell]] = [
        [label, row["images"], row["accepted"], row["images"] - row["accepted"]]
        for label, row in classes.items()
        if row["images"] != row["accepted"]
    ]
    if short:
        page.table(["class", "images", "accepted", "quarantined"], short, sortable=True, id="short")


def _distributions(page: Page, view: View) -> None:
    accepted = 0
    # Numbers and not objects: there is one of each quantity for every image.
    found = {column: array("q" if column == "shorter_side" else "d") for column, *_ in DISTRIBUTIONS}
    for fact, judged in zip(view.known.facts, view.known.judged, strict=True):
        if judged is None:
            accepted += 1
            for column, values in found.items():
                value = _value(column, fact)
                if value is not None:
                    values.append(value)
    if not accepted:
        return
    page.heading("Sizes, light and colour", id="distributions")
    sample = view.accepted["profile"]["sample"] if view.accepted else None
    page.paragraph(
        "Of accepted images." + " The outline is the data last accepted, one image of each group." * bool(sample)
    )
    for column, axis, limits in DISTRIBUTIONS:
        values = found[column]
        before = [value for value in sample[column] if value is not None] if sample else []
        low, high = limits or (min(chain(values, before)), max(chain(values, before)))
        if low == high:
            page.paragraph(f"{axis}: {low:,.4g} for every image.")
            continue
        counts = np.histogram(values, BINS, (low, high))[0].tolist()
        reference = np.histogram(before, BINS, (low, high))[0].tolist() if before else None
        page.histogram(counts, low, high, label=axis, reference=reference)


def _value(column: str, fact: Facts) -> Any:
    if column == "shorter_side":
        return fact.sides and fact.sides[0]
    return fact.aspect if column == "aspect" else getattr(fact.measured, column)


def _groups(page: Page, view: View, thumbnails: Thumbnails) -> None:
    groups, leakage, conflicts = (view.record[key] for key in ("duplicate_groups", "leakage", "label_conflicts"))
    page.heading("Duplicates", id="duplicates")
    if groups["files"]:
        page.sentence(
            [f"{_count(groups['exact'], 'group')} of exact copies and {_count(groups['near'], 'group')} of images "
             "that look alike, ", Link(f"{_count(groups['files'], 'file')} in all", "#rows?duplicate"),
             ". A group always stays in one split."]
        )  # fmt: skip
        _listing(page, view, thumbnails, groups, "duplicate-groups")
    else:
        page.paragraph("No two accepted images are copies or look alike.")
    page.heading("Label conflicts", id="conflicts")
    if conflicts["groups"]:
        page.paragraph(
            f"{_count(conflicts['groups'], 'group')} of the same picture under several labels, "
            f"{_count(conflicts['files'], 'file')} in all. One of the labels is wrong, or the picture shows both."
        )
        _listing(page, view, thumbnails, conflicts, "label-conflicts")
    else:
        page.paragraph("No picture stands under two labels.")
    page.heading("Leakage", id="leakage")
    if leakage["groups"]:
        page.paragraph(
            f"Leakage: {_count(leakage['groups'], 'group')} with {_count(leakage['files'], 'file')} lie in more than "
            "one of the splits that the data came with. The copies in the less held-out split will be moved."
        )
        _listing(page, view, thumbnails, leakage, "leaking-groups")
    else:
        page.paragraph("Leakage: no picture lies in more than one of the splits that the data came with.")


def _listing(page: Page, view: View, thumbnails: Thumbnails, section: Mapping[str, Any], id: str) -> None:
    """Some groups side by side, more of them in a table."""
    for group in section["listed"][:GROUPS_PICTURED]:
        page.gallery(
            [
                _tile(view, thumbnails, name, _whose(view, name), "plain")
                for name in group["names"][:PICTURES_PER_GROUP]
            ],
            row=True,
        )
    page.table(
        ["kind", "files", "labels", "given splits", "names"],
        [
            [group["kind"], group["files"], _listed(group["labels"]), _listed(group["splits"]),
             _listed(group["names"], group["files"])]
            for group in section["listed"]
        ],
        id=id, sortable=True, filterable=True,
    )  # fmt: skip
    total = section["groups"] if "groups" in section else section["exact"] + section["near"]
    hidden = total - len(section["listed"])
    if hidden:
        page.paragraph(f"{_count(hidden, 'group')} more; facts.parquet has them all, in `group` and `conflicts_with`.")


def _whose(view: View, name: str) -> list[str]:
    fact = view.known.facts[view.by_name[name]]
    return [f"label {fact.label}", *([f"split {fact.given_split}"] if fact.given_split else [])]


def _outliers(page: Page, view: View, thumbnails: Thumbnails) -> None:
    if not view.outliers:
        return
    page.heading("Outliers", id="outliers")
    page.paragraph(
        "The accepted images that resemble others least in colour and layout: their fifth neighbour is this many "
        "times as far as usual. Odd ones are not always wrong."
    )
    page.gallery(
        _tile(view, thumbnails, name, [f"{score:.2f} times", *_whose(view, name)], "plain")
        for score, name in view.outliers
    )


def _left_out(page: Page, view: View, thumbnails: Thumbnails) -> None:
    page.heading("Quarantine", id="quarantine")
    quarantine = view.quarantine
    if not quarantine:
        page.paragraph("No file is quarantined.")
    else:
        page.paragraph("These files are in the data set but are not trained on.")
        reasons = view.record["quarantined"]
        shown = _some_of_each(quarantine)
        page.bars(list(reasons.items()), unit="files", hrefs=[f"#quarantined?reason={reason}" for reason in reasons])
        rows: list[list[Cell]] = [
            [Picture(thumbnails.get(row["name"]), row["name"]), row["name"], row["label"],
             Badge(row["reason"], "warn"), row["detail"], row["image_id"][:8]]
            for row in shown
        ]  # fmt: skip
        page.table(
            ["picture", "name", "label", "reason", "detail", "image_id"], rows, id="quarantined", sortable=True,
            filterable=True, tags=[[f"reason={row['reason']}"] for row in shown],
        )  # fmt: skip
        if len(quarantine) > QUARANTINE_LISTED:
            hidden = len(quarantine) - QUARANTINE_LISTED
            page.paragraph(f"{_count(hidden, 'file')} more; data/validate/quarantine.parquet lists them all.")
    decided = [[row["decision"], row["why"], row["without_effect"] or "applied"] for row in view.record["decisions"]]
    if decided:
        page.heading("Decided by people", 3, id="decisions")
        page.table(["decisions.csv", "why", "outcome"], decided, id="decided", sortable=True)
    skipped = view.record["skipped_by_download"]
    if skipped:
        page.heading("Left out by download", 3)
        page.table(["name", "reason"], [[row["name"], row["reason"]] for row in skipped[:QUARANTINE_LISTED]])
        if len(skipped) > QUARANTINE_LISTED:
            page.paragraph(f"{_count(len(skipped) - QUARANTINE_LISTED, 'file')} more; see results.json.")


def _some_of_each(quarantine: Sequence[Mapping[str, str]]) -> list[Mapping[str, str]]:
    """As many files as are listed, one of each reason in turn."""
    by_reason: defaultdict[str, list[Mapping[str, str]]] = defaultdict(list)
    for row in quarantine:
        by_reason[row["reason"]].append(row)
    turns = zip_longest(*by_reason.values())
    return [row for turn in turns for row in turn if row is not None][:QUARANTINE_LISTED]


def _all_rules(page: Page, view: View) -> None:
    page.heading("All rules", id="rules")
    page.table(
        ["rule", "severity", "outcome", "observed", "allowed", "what it asks"],
        [
            [
                rule["id"],
                rule["severity"],
                Badge("kept", "good") if rule["success"] else Badge("broken", SEVERITY[rule["severity"]]),
                _observed(rule),
                None if rule["threshold"] is None else f"{100 * rule['threshold']:.4g} %",
                rule["description"],
            ]
            for rule in view.record["rules"]
        ],
        id="all-rules",
        sortable=True,
        filterable=True,
    )


def _observed(rule: Mapping[str, Any]) -> Cell:
    """What was found, linked to the rows it is about."""
    target = {
        "images": f"#rows?rule={rule['id']}",
        "classes": "#classes",
        "class_set": "#rule-class_set",
        "drift": "#drifts",
        "decisions": "#decided",
    }
    text = observation(rule)
    return Link(text, target[rule["table"]]) if rule["failing"] else text


def _rows(page: Page, view: View) -> None:
    page.heading("Images", id="images")
    chosen = set(_chosen(view))
    total = len(view.known.facts)
    found: defaultdict[str, list[str]] = defaultdict(list)
    for row in view.failing:
        if row["image_id"]:  # a class may be called as an image is
            found[row["name"]].append(row["rule"])
    rows: list[list[Cell]] = []
    tags: list[list[str]] = []
    every = zip(view.known.facts, view.known.groups, view.known.judged, strict=True)
    for fact, group, judged in (one for at, one in enumerate(every) if at in chosen):
        measured = fact.measured
        size = f"{measured.width} x {measured.height}" if measured.width else None
        rows.append(
            [fact.name, fact.label, fact.given_split, judged[0] if judged else "accepted",
             ", ".join(found.get(fact.name, ())) or None, size, measured.format, measured.brightness and
             round(measured.brightness, 3), fact.sharpness and round(fact.sharpness, 4), fact.image_id[:8]]
        )  # fmt: skip
        tags.append(
            [*(["quarantined"] if judged else ["accepted", f"accepted label={fact.label}"]),
             *(f"rule={rule}" for rule in found.get(fact.name, ())),
             *(["duplicate"] if group in view.known.common_groups and not judged else [])]
        )  # fmt: skip
    page.paragraph(
        "Every image."
        if len(chosen) == total
        else f"{len(chosen):,} of {total:,} images: those that fail a rule, up "
        f"to {ROWS_PER_RULE} of each, then some of every class. failing.csv has every failing row, facts.parquet "
        "every image."
    )
    page.table(
        ["name", "label", "given split", "state", "fails", "size", "format", "brightness", "sharpness", "image_id"],
        rows, id="rows", sortable=True, filterable=True, tags=tags,
    )  # fmt: skip


def _chosen(view: View) -> list[int]:
    """Positions of the images that the table lists; all where they are few."""
    total = len(view.known.facts)
    if total <= ROWS_LISTED:
        return list(range(total))
    order = [view.by_name[row["name"]] for row in _some_of_each(view.quarantine)]
    failing = zip_longest(*(rows[:ROWS_PER_RULE] for rows in view.failing_of.values()))
    # A class may be called as an image is; only rows of images have an image_id.
    order += [view.by_name[row["name"]] for turn in failing for row in turn if row and row["image_id"]]
    for group in view.record["duplicate_groups"]["listed"]:
        order += [view.by_name[name] for name in group["names"]]
    by_class: defaultdict[str, list[int]] = defaultdict(list)
    for at, fact in enumerate(view.known.facts):
        if len(by_class[fact.label]) < ROWS_LISTED:
            by_class[fact.label].append(at)
    # One of each class in turn, so that a small class is not crowded out.
    order += [at for turn in zip_longest(*by_class.values()) for at in turn if at is not None]
    return list(dict.fromkeys(order))[:ROWS_LISTED]


def _tile(view: View, thumbnails: Thumbnails, name: str, notes: Iterable[str], tone: Tone) -> Tile:
    measured = view.known.facts[view.by_name[name]].measured
    size = [f"{measured.width} x {measured.height}"] if measured.width else []
    return Tile(thumbnails.get(name), name, [*size, *notes], tone)


def _listed(names: Sequence[str], total: int | None = None) -> str:
    more = (total or len(names)) - len(names)
    return ", ".join(names) + f" and {more:,} more" * bool(more)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
