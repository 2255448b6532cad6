"""The rules a data set must keep, as plain descriptions of Great Expectations' expectations.

Each asks something of one of evidence's tables. Great Expectations answers; what follows from
the answer is decided here and in `verdict`: a broken `critical` rule rejects the data, a broken
`warning` or `info` is reported and passes. Relations between images are columns of those tables, so
that Great Expectations' own expectations say everything, and the suite can be used without graft.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

from stages.core import evidence, quarantine

Severity = Literal["critical", "warning", "info"]
SEVERITIES: tuple[Severity, ...] = ("critical", "warning", "info")
TableName = Literal["images", "classes", "class_set", "decisions", "drift"]
# Broken, they mean that the tables are wrong and not the data.
UNCHANGEABLE = ("columns", "file_count")
USUAL_MODES = ["RGB", "L", "1", "P", "PA", "LA", "RGBA"]


class Limits(quarantine.Limits, Protocol):
    """The parameters of `validate` that judge the data set as a whole."""

    @property
    def min_images_per_class(self) -> int: ...
    @property
    def max_bad_fraction(self) -> float: ...
    @property
    def max_imbalance(self) -> float: ...
    @property
    def max_exact_duplicate_fraction(self) -> float: ...
    @property
    def max_near_duplicate_fraction(self) -> float: ...
    @property
    def max_leaking_fraction(self) -> float: ...
    @property
    def max_mismatched_extension_fraction(self) -> float: ...
    @property
    def max_multi_frame_fraction(self) -> float: ...
    @property
    def dark_below(self) -> float: ...
    @property
    def max_dark_fraction(self) -> float: ...
    @property
    def bright_above(self) -> float: ...
    @property
    def max_bright_fraction(self) -> float: ...
    @property
    def max_turned_fraction(self) -> float: ...
    @property
    def max_unusual_mode_fraction(self) -> float: ...
    @property
    def max_deep_fraction(self) -> float: ...
    @property
    def max_odd_colour_fraction(self) -> float: ...
    @property
    def outlier_above(self) -> float: ...
    @property
    def max_outlier_fraction(self) -> float: ...
    @property
    def drift_false_alarm_rate(self) -> float: ...
    @property
    def severity(self) -> Mapping[str, Severity | Literal["off"]]: ...
    @property
    def blurred_below(self) -> float: ...
    @property
    def max_blurred_fraction(self) -> float: ...
    @property
    def uniform_below(self) -> float: ...
    @property
    def max_uniform_fraction(self) -> float: ...


@dataclass(frozen=True)
class Rule:
    """One expectation, and what a person needs to know about it."""

    id: str
    table: TableName
    severity: Severity
    expectation: str  # Great Expectations' name for it, e.g. expect_column_values_to_be_null
    arguments: dict[str, Any]
    description: str  # the rule as a sentence, with its threshold
    advice: str  # why it matters and what to do where it is broken
    threshold: float | None = None  # largest share of rows that may fail, 0-1; None: asked of a whole table


@dataclass(frozen=True)
class Situation:
    """What rules there are to ask, beside the parameters."""

    classes: Sequence[str]
    images: int  # files that `download` says it stored
    class_set: bool = False  # there is an accepted class set, and params.yaml names no other
    decisions: bool = False  # people decided on single images
    drift: bool = False  # there is accepted data to compare with


def rules(limits: Limits, situation: Situation) -> list[Rule]:
    """Every rule to ask, critical ones first, with the severities that params.yaml gives them."""
    asked = []
    for rule in (*_critical(limits, situation), *_warnings(limits, situation), *_infos(limits)):
        severity = limits.severity.get(rule.id, rule.severity)
        if severity != "off":
            asked.append(replace(rule, severity=severity))
    return sorted(asked, key=lambda rule: SEVERITIES.index(rule.severity))


def changeable(limits: Limits) -> list[str]:
    """The ids of rules whose severity params.yaml may set."""
    every = Situation(classes=(), images=0, class_set=True, decisions=True, drift=True)
    found = [rule.id for rule in (*_critical(limits, every), *_warnings(limits, every), *_infos(limits))]
    return [id for id in found if id not in UNCHANGEABLE]


def _critical(limits: Limits, situation: Situation) -> list[Rule]:
    return [
        Rule(
            "columns", "images", "critical", "expect_table_columns_to_match_set",
            {"column_set": evidence.IMAGES.names, "exact_match": True},
            "The table of facts has the columns that the rules ask about.",
            "A defect of graft, not of the data: report it.",
        ),
        Rule(
            "file_count", "images", "critical", "expect_table_row_count_to_equal", {"value": situation.images},
            f"There are as many files as download stored: {situation.images:,}.",
            "Part of data/download is missing or stale: run `dvc repro -f download`.",
        ),
        _rows("names_present", "critical", "not_be_null", "name", "Every file has a name.", 0.0,
              "A file without a name cannot be traced: fix the source."),
        _rows("names_unique", "critical", "be_unique", "name", "No two files share a name.", 0.0,
              "Two files of one name cannot be told apart in splits and reports: rename one."),
        _rows("labels_known", "critical", "be_in_set", "label",
              "Every label is a class of the data set.", 0.0,
              "Fix the folder's name, or add the class to validate.classes if it is meant.",
              value_set=list(situation.classes)),
        *([_rows("class_set", "critical", "be_null", "change",
                 "The classes are those of the accepted data.", 0.0,
                 "A class that is new, gone or written otherwise changes what the model's outputs mean. Undo it, "
                 "or bless it: `graft accept`, or name the classes in validate.classes.",
                 table="class_set")] if situation.class_set else []),
        Rule(
            "class_count", "classes", "critical", "expect_table_row_count_to_be_between", {"min_value": 2},
            "There are at least 2 classes.",
            "With one class there is nothing to learn: add a folder per class.",
        ),
        _rows("images_per_class", "critical", "be_between", "accepted",
              f"Every class has at least {limits.min_images_per_class:,} accepted images.", 0.0,
              "Add images, remove the class's folder, or lower validate.min_images_per_class.",
              table="classes", min_value=limits.min_images_per_class),
        _rows("bad_files", "critical", "be_null", "quarantine",
              f"At most {_percent(limits.max_bad_fraction)} of the files are quarantined, those not counted that "
              "people decided on.",
              limits.max_bad_fraction,
              "Repair or remove these files, allow single ones in data/review/decisions.csv, or raise "
              "validate.max_bad_fraction to train without them."),
        _rows("label_conflicts", "critical", "be_null", "conflicts_with",
              "No two files of the same bytes carry different labels.", 0.0,
              "One of the two labels is wrong: delete the wrong copy, or deny it in data/review/decisions.csv."),
    ]  # fmt: skip


def _warnings(limits: Limits, situation: Situation) -> list[Rule]:
    return [
        _rows("size", "warning", "be_between", "shorter_side",
              f"Every image's shorter side has at least {limits.min_side:,} pixels.", 0.0,
              "Smaller ones are quarantined as too_small. validate.min_side sets the limit.",
              min_value=limits.min_side),
        _rows("longest_side", "warning", "be_between", "longer_side",
              f"Every image's longer side has at most {limits.max_side:,} pixels.", 0.0,
              "Larger ones are quarantined as too_large. validate.max_side sets the limit.",
              max_value=limits.max_side),
        _rows("aspect", "warning", "be_between", "aspect",
              f"Every image's longer side is at most {limits.max_aspect:g} times the shorter one.", 0.0,
              "Training stretches images to a square. Longer ones are quarantined; validate.max_aspect "
              "sets the limit.",
              max_value=limits.max_aspect),
        _rows("imbalance", "warning", "be_between", "times_smaller",
              f"No class is more than {limits.max_imbalance:g} times smaller than the largest one.", 0.0,
              "A rare class is learnt badly and hidden by overall accuracy: add images of it, and read "
              "the figures per class.",
              table="classes", max_value=limits.max_imbalance),
        _rows("exact_duplicates", "warning", "be_null", "copy_of",
              f"At most {_percent(limits.max_exact_duplicate_fraction)} of the files are exact copies.",
              limits.max_exact_duplicate_fraction,
              "Copies weigh a picture more than the others. They are kept in one split, so they do not "
              "leak; remove them at the source."),
        _rows("near_duplicates", "warning", "be_null", "near_copy_of",
              f"At most {_percent(limits.max_near_duplicate_fraction)} of the images look like another one.",
              limits.max_near_duplicate_fraction,
              "Resized, recompressed or burst pictures. They are kept in one split; look at the groups "
              "below."),
        _rows("near_duplicate_labels", "warning", "be_null", "disagrees_with",
              "No two images that look alike carry different labels.", 0.0,
              "One of the two may be labelled wrongly: look at the groups below."),
        _rows("leakage", "warning", "be_null", "leaks_into",
              f"At most {_percent(limits.max_leaking_fraction)} of the images have a duplicate in another "
              "split that the data came with.",
              limits.max_leaking_fraction,
              "A test image that was trained on flatters the score: remove it from one of the splits."),
        _rows("extensions", "warning", "be_in_set", "extension_matches",
              f"At most {_percent(limits.max_mismatched_extension_fraction)} of the names end otherwise "
              "than their contents ask for.",
              limits.max_mismatched_extension_fraction,
              "Harmless here, where contents decide, but other software goes by the name: rename them.",
              value_set=[True]),
        _rows("name_case", "warning", "be_null", "same_name_as",
              "No two names differ in upper and lower case alone.", 0.0,
              "Unpacked on Windows or macOS, one would overwrite the other: rename one."),
        _rows("trailing_bytes", "warning", "be_between", "trailing_bytes",
              "No JPEG or PNG has bytes behind the end of its picture.", 0.0,
              "Some cameras and phones put a second picture or a film there; otherwise a transfer or a tool left "
              "rubbish. No pixel comes of it: look at where such files come from.", max_value=0),
        _rows("uniform", "warning", "be_between", "contrast",
              f"At most {_percent(limits.max_uniform_fraction)} of the images are nearly one colour "
              f"(contrast below {limits.uniform_below:g} of full scale).",
              limits.max_uniform_fraction,
              "Often a failed scan or a placeholder: look at them.",
              min_value=limits.uniform_below),
        *([_rows("decisions", "warning", "be_null", "without_effect",
                 "Every line of data/review/decisions.csv has an effect.", 0.0,
                 "The image is gone, its bytes are others than those decided on, or it has no pixels: look, "
                 "then mend or delete the line.",
                 table="decisions")] if situation.decisions else []),
        *([_rows("drift", "warning", "be_null", "drifted",
                 "Nothing has drifted from the accepted data (false alarms: at most "
                 f"{_percent(limits.drift_false_alarm_rate)} of the runs on unchanged sources).", 0.0,
                 "Look at what came in since. Where it is meant, bless it: `graft accept`.",
                 table="drift")] if situation.drift else []),
    ]  # fmt: skip


def _infos(limits: Limits) -> list[Rule]:
    return [
        _rows("multi_frame", "info", "be_between", "frames",
              f"At most {_percent(limits.max_multi_frame_fraction)} of the images have more than one frame.",
              limits.max_multi_frame_fraction,
              "Only the first frame of an animation is used; validate.multi_frame: quarantine leaves them "
              "out.",
              max_value=1),
        _rows("dark", "info", "be_between", "brightness",
              f"At most {_percent(limits.max_dark_fraction)} of the images are dark "
              f"(brightness below {limits.dark_below:g} of full scale).",
              limits.max_dark_fraction, "Look whether anything can be seen on them.",
              min_value=limits.dark_below),
        _rows("bright", "info", "be_between", "brightness",
              f"At most {_percent(limits.max_bright_fraction)} of the images are nearly white "
              f"(brightness above {limits.bright_above:g} of full scale).",
              limits.max_bright_fraction, "Look whether they are overexposed or empty.",
              max_value=limits.bright_above),
        _rows("blurred", "info", "be_between", "sharpness",
              f"At most {_percent(limits.max_blurred_fraction)} of the images are blurred "
              f"(sharpness below {limits.blurred_below:g}; asked of images of 64 pixels and more).",
              limits.max_blurred_fraction, "Look whether the subject can be told.",
              min_value=limits.blurred_below),
        _rows("turned", "info", "be_in_set", "orientation",
              f"At most {_percent(limits.max_turned_fraction)} of the images are turned by a note in their EXIF "
              "data.",
              limits.max_turned_fraction,
              "graft turns them upright in training, evaluation and export; other software may not.",
              value_set=[1]),
        _rows("mode", "info", "be_in_set", "mode",
              f"At most {_percent(limits.max_unusual_mode_fraction)} of the images are stored otherwise than in grey, "
              "RGB or a palette.",
              limits.max_unusual_mode_fraction,
              "CMYK is made for printing; its colours are converted by one fixed rule, and may look off.",
              value_set=USUAL_MODES),
        _rows("bit_depth", "info", "be_between", "bit_depth",
              f"At most {_percent(limits.max_deep_fraction)} of the images have more than 8 bits per channel.",
              limits.max_deep_fraction,
              "The 8 highest bits are used. A picture that lives in the lower ones comes out black.",
              max_value=8),
        _rows("odd_colour", "info", "be_null", "odd_colour",
              f"At most {_percent(limits.max_odd_colour_fraction)} of the images are grey where nearly all are "
              "coloured, or the other way round.",
              limits.max_odd_colour_fraction,
              "Another scanner or camera? A class that has most of them can be told by colour alone."),
        _rows("outliers", "info", "be_between", "outlier",
              f"At most {_percent(limits.max_outlier_fraction)} of the images resemble no other in colour and layout "
              f"({limits.outlier_above:g} times as far from their fifth neighbour as usual).",
              limits.max_outlier_fraction, "Look whether they belong here.",
              max_value=limits.outlier_above),
    ]  # fmt: skip


def _rows(
    id: str, severity: Severity, asks: str, column: str, description: str, threshold: float, advice: str,
    *, table: TableName = "images", **arguments: Any,
) -> Rule:  # fmt: skip
    """A rule that every row of a column keeps, but for a share of `threshold`."""
    # Rounded, because 1 - 0.07 is a hair below 0.93 and would be shown so.
    arguments = {"column": column, "mostly": round(1 - threshold, 9), **arguments}
    return Rule(id, table, severity, f"expect_column_values_to_{asks}", arguments, description, advice, threshold)


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.4g} %"
