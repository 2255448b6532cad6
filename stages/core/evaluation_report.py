"""The evaluation page: is the model good, better than the baselines, and where is it wrong?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stages.core import augmentation_sheet
from stages.core.page import Badge, Page

NAMES = {
    "majority_class": "always naming the commonest class",
    "frozen_features": "frozen features with a head",
    "from_scratch": "the same network from random weights",
}
LARGEST_MATRIX = 25  # classes; beyond that the matrix is a page of its own and the commonest mix-ups say more


def build(
    classes: Sequence[str],
    result: Mapping[str, Any],
    mistakes: Sequence[tuple[bytes, str]],
    doubts: Sequence[tuple[bytes, str]],
    mix_ups: Sequence[Any],
    views: Sequence[Any] | None = None,
) -> str:
    """The page as HTML, from the content of details.json.

    `mistakes` and `doubts` pair a PNG with its caption; `mix_ups` holds (actual, predicted, count);
    `views` is what augmentation_sheet.add takes.
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
    page.links(
        [
            ("metrics as JSON", "details.json"),
            ("every prediction, Parquet", "predictions.parquet"),
            ("slices, CSV", "slices.csv"),
            ("thresholds, CSV", "thresholds.csv"),
        ]
    )
    page.contents()
    _baselines(page, result)
    _classes(page, classes, test, mix_ups)
    _slices(page, result["slices"])
    _calibration(page, result["calibration"])
    _thresholds(page, result["thresholds"])
    page.heading("Worst mistakes", id="mistakes")
    page.paragraph(
        "No test image was classified wrongly."
        if test["accuracy"] == 1
        else f"Test images with the largest loss first, {len(mistakes):,} of them (`evaluate.mistakes` says how many)."
    )
    page.gallery(mistakes)
    page.heading("Doubtful labels", id="labels")
    page.paragraph(
        f"Labels of {len(result['doubtful_labels']):,} of {test['images'] + result['val']['images']:,} validation and "
        "test images are doubtful: the model, which did not train on them, takes each for another class with at least "
        "the certainty it has on average of that class's own images (confident learning). The surest first; look at "
        "them, and correct the label or say in data/review/decisions.csv that the image is out."
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
            [label, row["images"], row["precision"], row["recall"], row["f1"]]
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


def _slices(page: Page, rows: Sequence[Mapping[str, Any]]) -> None:
    page.heading("Parts of the test", id="slices")
    page.table(
        ["by", "slice", "images", "accuracy", ""],
        [
            [
                row["kind"], row["slice"], row["images"], _with_interval(row, "accuracy"),
                Badge("apart", "warn") if row["apart"] else None,
            ]
            for row in rows
        ],
        caption="Apart: the slice's 95 % interval does not hold the accuracy of all test images. Of many slices one "
        "in twenty is so by chance. Of a kind with many slices the 20 with most images.",
        sortable=True,
    )  # fmt: skip


def _calibration(page: Page, found: Mapping[str, Any]) -> None:
    page.heading("Are its probabilities honest?", id="calibration")
    before, after = found["before"]["error"], found["after"]["error"]
    sure = "too sure" if found["temperature"] > 1 else "not sure enough"
    fitted = (
        f"A temperature of {found['temperature']:.3g}, fitted on the validation images, on which the model was {sure}, "
        f"makes it {after:.4f}. It changes no label; the exported model does not apply it."
        if found["temperature"] != 1
        else "No temperature is fitted where every validation image is right: the surest would seem the best."
    )
    page.paragraph(f"Expected calibration error on the test images {before:.4f}. {fitted}")
    page.reliability(
        [
            (said, style, [(row["confidence"], row["accuracy"], row["images"]) for row in found[name]["bins"]])
            for name, said, style in (("before", "as it is", "now"), ("after", "with that temperature", "accepted"))
        ],
        label="Share that was right by the probability of the named class",
    )


def _thresholds(page: Page, rows: Sequence[Mapping[str, Any]]) -> None:
    page.heading("If it answers only when sure", id="thresholds")
    page.table(
        ["least probability", "answered", "share answered", "wrong among them", "accuracy"],
        [
            [
                row["threshold"], row["answered"], round(row["coverage"], 4), row["errors"],
                "" if row["accuracy"] is None else _with_interval(row, "accuracy"),
            ]
            for row in rows
        ],
        caption="Test images; the rest is left to people.",
    )  # fmt: skip


def _percent(chance: float) -> str:
    return f"{100 * chance:.3g} %" if chance >= 0.0001 else "less than 0.01 %"


def verdict(result: Mapping[str, Any]) -> tuple[Any, str]:
    """Tone and one sentence: did fine-tuning help over the frozen features? Compared on the same images."""
    test, compared = result["test"], result["compared"]["frozen_features"]
    gain = f"{compared['gain']:+.4f} accuracy over frozen features"
    interval = f"95 % interval {compared['gain_low']:+.4f} to {compared['gain_high']:+.4f}"
    if test["accuracy"] <= result["baselines"]["majority_class"]["test"]["accuracy_high"]:
        return "bad", "This model is no better than always naming the commonest class."
    if compared["gain_low"] > 0:
        return "good", f"Fine-tuning helped: {gain} ({interval})."
    if compared["gain_high"] < 0:
        return "bad", f"Fine-tuning did harm: {gain} ({interval})."
    if compared["gain"] > 0:
        return "plain", f"Fine-tuning may have helped: {gain}, but that can be chance ({interval})."
    return "warn", f"Fine-tuning did not help: {gain} ({interval})."


def _with_interval(values: Mapping[str, Any], name: str) -> str | Badge:
    if name not in values:
        return ""
    if f"{name}_low" not in values:
        return f"{values[name]:.4f}"
    return f"{values[name]:.4f} ({values[f'{name}_low']:.4f} to {values[f'{name}_high']:.4f})"
