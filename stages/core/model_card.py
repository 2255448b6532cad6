"""The model card: what was trained, on which data, how, how good it is, and what made it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from stages.core.schemas import SPLITS


def write(
    classes: Sequence[str],
    source: Mapping[str, Any],
    dataset: Mapping[str, Any],
    split: Mapping[str, Any],
    trunk: Mapping[str, Any],
    training: Mapping[str, Any],
    metrics: Mapping[str, Any],
    certificate: Mapping[str, Mapping[str, Any]],
    hashes: Mapping[str, str],
    versions: Mapping[str, str],
) -> str:
    """The card as Markdown. Every argument is what a stage recorded of itself; nothing is computed here."""
    extract, tune = trunk["settings"], training["settings"]
    test = metrics["test"]
    parts = [
        "# Model card",
        f"An image classifier with {len(classes)} classes: {extract['backbone']} (alpha {extract['alpha']:g}) with "
        f"{_weights(extract['weights'])} weights, fine-tuned from layer {tune['fine_tune_at']} on "
        f"{split['images']['train']:,} images. On {test['images']:,} test images it never saw, accuracy is "
        f"{test['accuracy']:.4f} (95 % interval {test['accuracy_low']:.4f} to {test['accuracy_high']:.4f}).",
        "## Use",
        "The SavedModel's default signature takes the bytes of JPEG or PNG files, `image_bytes` (string, [N]), and "
        "returns `label` (string, [N]), `probability` (float32, [N]) and `probabilities` (float32, [N, classes], in "
        "the order of labels.txt). Decoding, turning upright, resizing to "
        f"{extract['image_size']} x {extract['image_size']} pixels and preprocessing happen inside. The signature "
        "`pixels` takes float32 [N, side, side, 3] of 0-255 instead.",
        "## Formats",
        "Each was asked in a process without this project's code. All but the SavedModel take pixels as that signature "
        "does, decoded and resized before, and give probabilities.",
        _table(
            ["format", "same class as evaluated", "test images", "largest difference", "MB", "published"],
            [[name, *_compared(one), "yes" if one["published"] else "no"] for name, one in certificate.items()],
        ),
        *_missing(certificate),
        *_tempered(certificate),
        "## Data",
        _table(
            ["", "value"],
            [
                ["source", source["source"]],
                ["source SHA-256", source.get("sha256") or "not one file"],
                ["format", dataset["format"]],
                ["images in the source", f"{dataset['images']:,}"],
                *[[f"images for {name}", f"{count:,}"] for name, count in _in_order(split["images"])],
                ["images per class (train)", _pairs(split["classes"]["train"])],
                ["copies moved out of training", f"{split['moved_to_held_out']:,}"],
            ],
        ),
        "## Metrics",
        _metrics(metrics),
        "Intervals are 95 %: Wilson's for accuracy, a percentile bootstrap over images for the rest.",
        "## Training",
        _table(
            ["phase", "epochs", "best epoch", "learning rate", "trained parameters", "validation accuracy"],
            [
                [
                    name,
                    phase["epochs"],
                    phase["best_epoch"],
                    f"{phase['learning_rate']:g}",
                    f"{phase['trained_parameters']:,}",
                    f"{phase['val_accuracy']:.4f}",
                ]
                for name, phase in training["phases"].items()
            ],
        ),
        f"Trained on: {training['device']}{_half(training)}. The frozen part ends at layer {trunk['cut']} "
        f"(`{trunk['cut_layer']}`); BatchNormalization was frozen throughout.",
        "## Parameters",
        *[
            f"### {stage}\n\n" + _table(["parameter", "value"], [[key, value] for key, value in _flat(values)])
            for stage, values in (("split", split["settings"]), ("feature_extract", extract), ("fine_tune", tune))
        ],
        "## Hashes (SHA-256)",
        _table(["what", "hash"], [[name, value] for name, value in hashes.items()]),
        "## Versions",
        _table(["package", "version"], [[name, value] for name, value in versions.items()]),
        "## Limits",
        "It knows only its classes: a picture of anything else still gets one of their labels. The figures hold for "
        "pictures like those it was tested on.",
    ]
    return "\n\n".join(parts) + "\n"


def _half(training: Mapping[str, Any]) -> str:
    return "" if training["precision"] == "float32" else f", layers computing in {training['precision']}"


def _compared(one: Mapping[str, Any]) -> list[str]:
    """Cells of what a format was measured; empty where there was nothing to measure."""
    if "agreement" not in one:
        return [""] * 4
    return [
        f"{one['agreement']:.2%}, at least {one['least_agreement']:.1%} asked for",
        f"{one['images']:,}",
        "" if one["largest_gap"] is None else f"{one['largest_gap']:.4f}, at most {one['tolerance']} allowed",
        f"{one['bytes'] / 1e6:.1f}",
    ]


def _missing(certificate: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Which formats were asked for and are not there, and why."""
    lines = [f"- `{name}` {_cell(one['why'])}." for name, one in certificate.items() if not one["published"]]
    return ["Asked for, but not published:", "\n".join(lines)] if lines else []


def _tempered(certificate: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """That the formats hold a temperature, if they do."""
    found = {one["temperature"] for one in certificate.values() if "temperature" in one}
    return [
        f"Their logits are divided by {temperature:g}, the temperature fitted on the validation images, and so "
        "were the evaluated ones' that they were compared with. It changes no label. Metrics below, and thresholds in "
        "the evaluation report, are those of the model without it."
        for temperature in found
    ]


def _metrics(metrics: Mapping[str, Any]) -> str:
    rows = []
    models = [("this model", metrics["val"], metrics["test"])]
    models += [(name.replace("_", " "), both.get("val"), both["test"]) for name, both in metrics["baselines"].items()]
    for name, val, test in models:
        cells = [_interval(test, key) for key in ("accuracy", "balanced_accuracy", "macro_f1", "loss", "roc_auc")]
        rows.append([name, f"{val['accuracy']:.4f}" if val else "", *cells])
    columns = ["model", "val accuracy", "test accuracy", "balanced accuracy", "macro F1", "loss", "ROC AUC"]
    return _table(columns, rows)


def _interval(values: Mapping[str, Any], key: str) -> str:
    if key not in values:
        return ""
    if f"{key}_low" not in values:
        return f"{values[key]:.4f}"
    return f"{values[key]:.4f} ({values[f'{key}_low']:.4f} to {values[f'{key}_high']:.4f})"


def _weights(weights: str) -> str:
    return "ImageNet" if weights == "imagenet" else f"`{_cell(weights)}`"


def _in_order(images: Mapping[str, int]) -> list[tuple[str, int]]:
    return [(split, images[split]) for split in SPLITS]


def _pairs(counts: Mapping[str, int]) -> str:
    shown = [f"{label}: {count:,}" for label, count in list(counts.items())[:20]]
    return ", ".join(shown) + (f", and {len(counts) - 20} more classes" if len(counts) > 20 else "")


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for key, value in values.items():
        rows += _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [(f"{prefix}{key}", value)]
    return rows


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(_cell(value) for value in line) + " |" for line in lines)


def _cell(value: Any) -> str:
    """A value as text that cannot end its cell or start markup: labels and paths come from outside."""
    text = re.sub(r"\s+", " ", str(value))
    return re.sub(r"[|<>\\\[\]`*&]", lambda match: f"&#{ord(match[0])};", text)
