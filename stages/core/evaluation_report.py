"""The evaluation page: is the model good, better than the baselines, and where is it wrong?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stages.core import augmentation_sheet
from stages.core.baselines import NAMES
from stages.core.page import Badge, Estimate, Page, Tile

OVER = {"frozen_features": "frozen features", "from_scratch": NAMES["from_scratch"]}  # in the banner
LARGEST_MATRIX = 25  # classes; beyond that the matrix is a page of its own and the commonest mix-ups say more


@dataclass(frozen=True)
class Explained:
    """Test images, each a PNG of the picture and beside it, coloured, what speaks for a class."""

    mistakes: Sequence[Tile]  # three abreast: the picture, for the named class, for the label
    right: Sequence[Tile]  # two abreast
    fields: tuple[int, int]  # rows and columns of the map


def build(
    classes: Sequence[str],
    result: Mapping[str, Any],
    mistakes: Sequence[tuple[bytes, str]],
    doubts: Sequence[tuple[bytes, str]],
    mix_ups: Sequence[Any],
    explained: Explained | None,
    views: Sequence[Any] | None = None,
) -> str:
    """The page as HTML, from the content of details.json.

    `mistakes` and `doubts` pair a PNG with its caption; `mix_ups` holds (actual, predicted, count); `explained` is
    None where none is to be shown; `views` is what augmentation_sheet.add takes.
    """
    test = result["test"]
    page = Page("Evaluation", script=True)
    tone, headline = verdict(result)
    page.banner(
        tone,
        headline,
        f"Accuracy {test['accuracy']:.4f} on {test['images']:,} test images "
        f"(95 % interval {test['accuracy_low']:.4f} to {test['accuracy_high']:.4f}).",
    )
    links = [
        ("metrics as JSON", "details.json"),
        ("every prediction, Parquet", "predictions.parquet"),
        ("slices, CSV", "slices.csv"),
        ("thresholds, CSV", "thresholds.csv"),
    ]
    page.links(links + [("thresholds between the two classes, CSV", "two_classes.csv")] * ("two_classes" in result))
    page.contents()
    _baselines(page, result)
    _classes(page, classes, test, mix_ups)
    _slices(page, result["slices"], result["slices_left_out"])
    _calibration(page, result["calibration"])
    if "two_classes" in result:
        _two_classes(page, result["two_classes"])
    _thresholds(page, result["thresholds"])
    page.heading("Worst mistakes", id="mistakes")
    page.paragraph(
        "No test image was classified wrongly."
        if test["accuracy"] == 1
        else f"Test images with the largest loss first, {len(mistakes):,} of them (evaluate.mistakes says how many)."
    )
    page.gallery(mistakes)
    if explained is not None:
        _explained(page, explained)
    page.heading("Doubtful labels", id="labels")
    page.paragraph(
        f"Labels of {len(result['doubtful_labels']):,} of {test['images'] + result['val']['images']:,} validation and "
        "test images are doubtful: the model, which did not train on them, takes each for another class with at least "
        "the certainty it has on average of that class's own validation images (confident learning). The surest first; "
        "look at them, and correct the label or say in data/review/decisions.csv that the image is out."
        if result["doubtful_labels"]
        else "None of the validation and test images is as sure of another class as that class's own images are."
    )
    page.gallery(doubts)
    if views is not None:
        augmentation_sheet.add(page, *views)
    page.heading("Validation", id="validation")
    page.paragraph(
        f"Accuracy {result['val']['accuracy']:.4f} on {result['val']['images']:,} validation images, which chose "
        "the epoch and so flatter the model; judge by the test."
    )
    return page.render()


def _baselines(page: Page, result: Mapping[str, Any]) -> None:
    page.heading("Did fine-tuning help?", id="baselines")
    if not result["compared"]:
        page.paragraph("It was compared with no other network: evaluate.baselines leaves them out.")
    for name, compared in result["compared"].items():
        page.paragraph(
            f"Over {NAMES[name]}: {compared['gain']:+.4f} accuracy on the same {compared['images']:,} test images "
            f"(95 % interval {compared['gain_low']:+.4f} to {compared['gain_high']:+.4f}). Only this model was right "
            f"on {compared['only_this_right']:,}, only the other on {compared['only_other_right']:,}; as uneven or "
            f"more so by chance in {_percent(compared['p_value'])} of cases."
        )
    models = [("this model", result["test"])]
    models += [(NAMES[name], both["test"]) for name, both in result["baselines"].items()]
    columns = {
        "accuracy": "accuracy",
        "balanced_accuracy": "balanced accuracy",
        "macro_f1": "macro F1",
        "loss": "loss",
        "roc_auc": "ROC AUC",
    }
    page.table(
        ["model", *columns.values()],
        [[name, *(_with_interval(values, column) for column in columns)] for name, values in models],
        caption="Test images. 95 % intervals: Wilson's for accuracy, a percentile bootstrap over images for the rest; "
        "gains above: Newcombe's for paired shares, McNemar's exact test.",
    )


def _classes(page: Page, classes: Sequence[str], test: Mapping[str, Any], mix_ups: Sequence[Any]) -> None:
    page.heading("Per class, on the test images", id="classes")
    page.table(
        ["class", "images", "precision", "recall", "F1"],
        [
            [label, row["images"], *(f"{row[name]:.4f}" for name in ("precision", "recall", "f1"))]
            for label, row in test["per_class"].items()
        ],
        sortable=True,
    )
    if len(classes) <= LARGEST_MATRIX:
        page.heading("Confusion matrix, on the test images", level=3)
        page.table(
            ["actual \\ predicted", *classes],
            [[label, *row] for label, row in zip(classes, test["confusion"], strict=True)],
        )
    elif mix_ups:
        page.heading("Commonest mix-ups, on the test images", level=3)
        page.table(["actual", "predicted", "images"], mix_ups)


def _slices(page: Page, rows: Sequence[Mapping[str, Any]], left_out: Mapping[str, Mapping[str, int]]) -> None:
    page.heading("Parts of the test", id="slices")
    parts = "".join(
        f" By {kind} the {count['shown']:,} with most images are shown; the other {count['left_out']:,} are left out."
        for kind, count in left_out.items()
    )
    page.table(
        ["by", "slice", "images", "accuracy", ""],
        [
            [
                row["kind"], row["slice"], row["images"], _with_interval(row, "accuracy"),
                Badge("apart", "warn") if row["apart"] else "",
            ]
            for row in rows
        ],
        caption="Apart: the slice's 95 % interval does not hold the accuracy of all test images. Of many slices one "
        f"in twenty is so by chance.{parts}",
        sortable=True,
    )  # fmt: skip


def _calibration(page: Page, found: Mapping[str, Any]) -> None:
    page.heading("Are its probabilities honest?", id="calibration")
    before, after = found["before"]["error"], found["after"]["error"]
    sure = "too sure" if found["temperature"] > 1 else "not sure enough"
    fitted = (
        f"A temperature of {found['temperature']:.3g}, fitted on the validation images, on which the model was {sure}, "
        f"makes it {after:.4f}. It changes no label; the exported model applies it only by export.temperature."
        if found["temperature"] != 1
        else "No temperature is fitted where every validation image is right: the surest would seem the best."
    )
    page.paragraph(f"Expected calibration error on the test images {before:.4f}. {fitted}")
    page.reliability(
        [
            (said, style, found[name]["bins"])
            for name, said, style in (("before", "as it is", "now"), ("after", "with that temperature", "accepted"))
        ],
        label="Share that was right by the probability of the named class",
    )


def _two_classes(page: Page, found: Mapping[str, Any]) -> None:
    one, other, chosen = found["class"], found["other"], found["chosen"]
    page.heading("Where to draw the line between the two", id="line")
    best = next(row for row in found["rows"] if row["threshold"] == chosen)
    said = f"the share of {one} found less the share of {other} taken for it is largest there (Youden's index)"
    page.paragraph(
        f"The model says {one} from a probability of 0.5 on, else {other}. "
        + ("No other threshold parts" if chosen == 0.5 else f"A threshold of {chosen:g} best parts")
        + f" the validation images{' better' if chosen == 0.5 else ''}: {said}. With it {_share(best, 'found')} of the "
        f"test's {one} are found, and {_share(best, 'raised')} of its {other} are taken for {one}. Lower it where "
        f"missing {one} costs more, raise it where a false alarm does; the exported model gives the probabilities and "
        "leaves the threshold to you."
    )
    page.table(
        [f"{one} from", f"named {one}", f"of {one} found", f"of {other} taken for it", "right among named", ""],
        [
            [
                f"{row['threshold']:g}", row["named"],
                *(_with_interval(row, name) for name in ("found", "raised", "precision")),
                Badge("best on validation", "good") if row["threshold"] == chosen
                else Badge("as exported") if row["threshold"] == 0.5 else "",
            ]
            for row in found["rows"]
        ],
        caption="Test images, Wilson's 95 % intervals. Also called recall, false alarm rate and precision.",
    )  # fmt: skip


def _share(row: Mapping[str, Any], name: str) -> str:
    if row[name] is None:
        return "none"
    return f"{100 * row[name]:.3g} % ({100 * row[f'{name}_low']:.3g} to {100 * row[f'{name}_high']:.3g} %)"


def _explained(page: Page, explained: Explained) -> None:
    page.heading("What it looked at", id="explained")
    rows, columns = explained.fields
    page.paragraph(
        "Beside each picture, in orange over grey, the places that speak for a class (Grad-CAM): for the one it named, "
        "and in a mistake then for the label. The strongest place of each is full orange, so two pictures do not "
        f"compare. The network tells {rows} x {columns} fields of a picture apart, no finer, and each field has seen "
        "much around it; evaluate.explained says how many are shown."
    )
    if explained.mistakes:
        page.heading("Worst mistakes", level=3)
        page.gallery(explained.mistakes, abreast=3)
    if explained.right:
        page.heading("Surest right answers, of each class in turn", level=3)
        page.gallery(explained.right, abreast=2)


def _thresholds(page: Page, rows: Sequence[Mapping[str, Any]]) -> None:
    page.heading("If it answers only when sure", id="thresholds")
    page.table(
        ["least probability", "answered", "share answered", "wrong among them", "accuracy"],
        [
            [
                f"{row['threshold']:g}", row["answered"], f"{100 * row['coverage']:.1f} %", row["errors"],
                _with_interval(row, "accuracy"),
            ]
            for row in rows
        ],
        caption="Test images; the rest is left to people.",
    )  # fmt: skip


def _percent(chance: float) -> str:
    return f"{100 * chance:.3g} %" if chance >= 0.0001 else "less than 0.01 %"


def verdict(result: Mapping[str, Any]) -> tuple[Any, str]:
    """Tone and one sentence: did fine-tuning help over the first baseline there is? Compared on the same images."""
    test, baselines = result["test"], result["baselines"]
    if "majority_class" in baselines and test["accuracy"] <= baselines["majority_class"]["test"]["accuracy_high"]:
        return "bad", "This model is no better than always naming the commonest class."
    if not result["compared"]:
        return "plain", "Whether fine-tuning helped is not told: evaluate.baselines names no other network."
    name, compared = next(iter(result["compared"].items()))
    gain = f"{compared['gain']:+.4f} accuracy over {OVER[name]}"
    interval = f"95 % interval {compared['gain_low']:+.4f} to {compared['gain_high']:+.4f}"
    if compared["gain_low"] > 0:
        return "good", f"Fine-tuning helped: {gain} ({interval})."
    if compared["gain_high"] < 0:
        return "bad", f"Fine-tuning did harm: {gain} ({interval})."
    if compared["gain"] > 0:
        return "plain", f"Fine-tuning may have helped: {gain}, but that can be chance ({interval})."
    return "warn", f"Fine-tuning did not help: {gain} ({interval})."


def _with_interval(values: Mapping[str, Any], name: str) -> str | Estimate:
    if values.get(name) is None:
        return ""
    if f"{name}_low" not in values:
        return f"{values[name]:.4f}"
    return Estimate(values[name], values[f"{name}_low"], values[f"{name}_high"])
