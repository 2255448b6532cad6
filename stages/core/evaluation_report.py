"""The evaluation page: is the model good, better than the baselines, and where is it wrong?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stages.core.page import Badge, Page

NAMES = {
    "majority_class": "always the commonest class",
    "frozen_features": "frozen features with a head",
    "from_scratch": "same network from random weights",
}
LARGEST_MATRIX = 25  # classes; beyond that the matrix is a page of its own and the commonest mix-ups say more


def build(
    classes: Sequence[str], metrics: Mapping[str, Any], mistakes: Sequence[tuple[bytes, str]], mix_ups: Sequence[Any]
) -> str:
    """The page as HTML. `mistakes` pairs a PNG with its caption; `mix_ups` holds (actual, predicted, count)."""
    test = metrics["test"]
    page = Page("Evaluation")
    tone, headline = verdict(metrics)
    page.banner(
        tone,
        headline,
        f"Accuracy {test['accuracy']:.4f} on {test['images']:,} test images "
        f"(95 % interval {test['accuracy_low']:.4f} to {test['accuracy_high']:.4f}).",
    )
    page.links([("metrics as JSON", "details.json"), ("every prediction, Parquet", "predictions.parquet")])
    page.heading("This model and its baselines, on the test images")
    models = [("this model", test)]
    models += [(NAMES[name], both["test"]) for name, both in metrics["baselines"].items()]
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
        caption="95 % intervals: Wilson's for accuracy, a percentile bootstrap over images for the rest.",
    )
    page.heading("Per class, on the test images")
    page.table(
        ["class", "images", "precision", "recall", "F1"],
        [
            [label, row["images"], row["precision"], row["recall"], row["f1"]]
            for label, row in test["per_class"].items()
        ],
    )
    if len(classes) <= LARGEST_MATRIX:
        page.heading("Confusion matrix, on the test images")
        page.table(
            ["actual \\ predicted", *classes],
            [[label, *row] for label, row in zip(classes, test["confusion"], strict=True)],
        )
    elif mix_ups:
        page.heading("Commonest mix-ups, on the test images")
        page.table(["actual", "predicted", "images"], mix_ups)
    page.heading("Worst mistakes")
    page.paragraph(
        "Test images with the largest loss first. A picture whose label looks wrong here is worth correcting."
        if mistakes
        else "No test image was classified wrongly."
    )
    page.gallery(mistakes)
    page.heading("Validation")
    page.paragraph(
        f"Accuracy {metrics['val']['accuracy']:.4f} on {metrics['val']['images']:,} validation images, which chose "
        "the epoch and so flatter the model; judge by the test."
    )
    return page.render()


def verdict(metrics: Mapping[str, Any]) -> tuple[Any, str]:
    """Tone and one sentence: did fine-tuning help over the frozen features? Compared by their intervals."""
    test, frozen = metrics["test"], metrics["baselines"]["frozen_features"]["test"]
    gain = test["accuracy"] - frozen["accuracy"]
    if test["accuracy"] <= metrics["baselines"]["majority_class"]["test"]["accuracy_high"]:
        return "bad", "This model is no better than always naming the commonest class."
    if test["accuracy_low"] > frozen["accuracy_high"]:
        return "good", f"Fine-tuning helped: {gain:+.4f} accuracy over frozen features, beyond both intervals."
    if gain > 0:
        return "plain", f"Fine-tuning gained {gain:+.4f} accuracy over frozen features; the intervals overlap."
    return "warn", f"Fine-tuning did not help: {gain:+.4f} accuracy over frozen features."


def _with_interval(values: Mapping[str, Any], name: str) -> str | Badge:
    if name not in values:
        return ""
    if f"{name}_low" not in values:
        return f"{values[name]:.4f}"
    return f"{values[name]:.4f} ({values[f'{name}_low']:.4f} to {values[f'{name}_high']:.4f})"
