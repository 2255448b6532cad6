"""The evaluation page and the model card say what the metrics say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from stages.core import (
    baselines,
    calibration,
    certificate,
    comparison,
    evaluation_report,
    metrics,
    model_card,
    operating_points,
    slices,
)
from stages.core.page import Tile

CLASSES = ["<b>cat</b>", "dog|[wolf](x)"]


LABELS = np.arange(200) % 2


def probabilities(right: int) -> Any:
    """Of a model that gets the first `right` images."""
    return np.eye(2)[np.where(np.arange(200) < right, LABELS, 1 - LABELS)] * 0.8 + 0.1


def scores(right: int) -> dict[str, Any]:
    return metrics.evaluate(probabilities(right), LABELS, CLASSES, 20, 1)


def result(model: int, frozen: int) -> dict[str, Any]:
    """Metrics out of 200 test images for the model and the frozen features."""
    majority = metrics.majority_class(np.array([0]), LABELS, 2)
    this, other = scores(model), scores(frozen)
    pairs = {"majority_class": majority, "frozen_features": other}
    right, bins = np.arange(200), calibration.reliability(probabilities(model), LABELS)
    curve = {"error": calibration.expected_error(bins), "bins": bins}
    return {
        "val": this,
        "test": this,
        "baselines": {name: {"val": scored, "test": scored} for name, scored in pairs.items()},
        "compared": {"frozen_features": comparison.paired(right < model, right < frozen)},
        "calibration": {"temperature": 1.5, "before": curve, "after": curve},
        "thresholds": operating_points.table(probabilities(model), LABELS),
        "slices": slices.table(right < model, {"class": [CLASSES[label] for label in LABELS]}),
        "slices_left_out": {},
        "doubtful_labels": [{"name": "a.jpg", "label": CLASSES[0], "looks_like": CLASSES[1]}],
    }


@pytest.mark.parametrize(
    ("model", "frozen", "tone", "words"),
    [
        (195, 160, "good", "Fine-tuning helped: +0.1750 accuracy"),
        (186, 180, "good", "Fine-tuning helped: +0.0300 accuracy"),
        (182, 180, "plain", "may have helped: +0.0100 accuracy over frozen features, but that can be chance"),
        (180, 182, "warn", "did not help: -0.0100"),
        (160, 195, "bad", "did harm: -0.1750"),
        (101, 99, "bad", "no better than always naming the commonest class"),
    ],
)
def test_the_verdict_follows_the_intervals(model: int, frozen: int, tone: str, words: str) -> None:
    said = evaluation_report.verdict(result(model, frozen))
    assert said[0] == tone
    assert words in said[1]


@pytest.mark.parametrize(
    ("left", "tone", "words"),
    [
        (["frozen_features"], "good", "Fine-tuning helped: +0.1750 accuracy over frozen features"),
        (["from_scratch"], "good", "Fine-tuning helped: +0.1750 accuracy over the same network from random weights"),
        (["majority_class"], "plain", "Whether fine-tuning helped is not told"),
        ([], "plain", "Whether fine-tuning helped is not told"),
    ],
)
def test_page_verdict_and_short_figures_cope_with_baselines_left_out(left: list[str], tone: str, words: str) -> None:
    figures = result(195, 160)
    for part in ("baselines", "compared"):
        figures[part]["from_scratch"] = figures[part]["frozen_features"]
        figures[part] = {name: figures[part][name] for name in left if name in figures[part]}
    assert evaluation_report.verdict(figures)[0] == tone
    assert words in evaluation_report.verdict(figures)[1]
    page = evaluation_report.build(CLASSES, figures, [], [], [], None)
    for name, said in baselines.NAMES.items():
        assert (f"<td>{said}</td>" in page) == (name in left)
    assert ("compared with no other network" in page) == (not figures["compared"])
    short = metrics.headline(figures)
    assert set(short["baselines"]) == set(left)
    assert set(short["gain_over"]) == set(left) - {"majority_class"}


def test_the_page_shows_the_figures_and_escapes_labels() -> None:
    figures = result(180, 150)
    page = evaluation_report.build(CLASSES, figures, [(b"png", "<i>caption</i>")], [(b"png", "<i>doubt</i>")], [], None)
    test = figures["test"]
    assert f"Accuracy 0.9000 on 200 test images (95 % interval {test['accuracy_low']:.4f}" in page
    assert "frozen features with a head" in page
    assert "&lt;b&gt;cat&lt;/b&gt;" in page
    assert "<b>cat" not in page
    assert "<i>caption" not in page
    assert "<i>doubt" not in page
    gain = figures["compared"]["frozen_features"]
    assert f"+0.1500 accuracy on the same 200 test images (95 % interval {gain['gain_low']:+.4f}" in page
    assert "Only this model was right on 30, only the other on 0" in page
    assert "Expected calibration error on the test images 0.0000. A temperature of 1.5" in page
    assert "Labels of 1 of 400 validation and test images are doubtful" in page
    assert "<polyline class='now' points='90.0,10.0'/>" in page
    low, high = metrics.wilson(180, 200)
    assert f"<path class='interval now' d='M90.0,{100 - 100 * low:.1f}V{100 - 100 * high:.1f}'/>" in page
    assert f"90 % sure, 90 % right ({100 * low:.3g} to {100 * high:.3g} %), 200 images" in page
    assert "are left out" not in page
    assert "What it looked at" not in page
    hidden = evaluation_report.build(CLASSES, figures, [], [], [], None)  # evaluate.mistakes: 0
    assert "No test image was classified wrongly" not in hidden
    assert "Labels of 1 of 400" in hidden
    assert "by chance in less than 0.01 % of cases" in hidden
    many = evaluation_report.build([f"c{n}" for n in range(30)], figures, [], [], [("c1", "c2", 7)], None)
    assert "Commonest mix-ups" in many
    perfect = evaluation_report.build(CLASSES, result(200, 200), [], [], [], None)
    assert "No test image was classified wrongly." in perfect
    assert "by chance in 100 % of cases" in perfect


def test_slices_that_are_left_out_are_counted() -> None:
    figures = result(180, 150)
    names = [f"class {number % 27}" for number in range(200)]
    kinds = {"class": names, "file": ["PNG"] * 100 + ["JPEG"] * 100}
    figures["slices"] = slices.table(np.arange(200) < 180, kinds)
    figures["slices_left_out"] = slices.left_out(kinds)
    page = evaluation_report.build(CLASSES, figures, [], [], [], None)
    assert page.count("<td>class</td>") == 20
    assert "By class the 20 with most images are shown; the other 7 are left out." in page
    assert "By file" not in page


def test_two_classes_have_a_threshold_between_them_named() -> None:
    figures = result(180, 150)
    called = probabilities(180)[:, 1]
    figures["two_classes"] = {
        "class": CLASSES[1],
        "other": CLASSES[0],
        "chosen": 0.37,
        "rows": operating_points.two_classes(called, LABELS, 0.37),
    }
    page = evaluation_report.build(CLASSES, figures, [], [], [], None)
    assert "A threshold of 0.37 best parts the validation images: the share of dog" in page
    low, high = (f"{100 * bound:.3g}" for bound in metrics.wilson(90, 100))
    assert f"With it 90 % ({low} to {high} %) of the test&#x27;s dog|[wolf](x) are found, and " in page
    low, high = (f"{100 * bound:.3g}" for bound in metrics.wilson(10, 100))
    assert f"and 10 % ({low} to {high} %) of its &lt;b&gt;cat&lt;/b&gt; are taken for dog" in page
    assert page.count("best on validation") == 1
    assert "two_classes.csv" in page
    figures["two_classes"]["chosen"] = 0.5
    figures["two_classes"]["rows"] = operating_points.two_classes(called, LABELS, 0.5)
    same = evaluation_report.build(CLASSES, figures, [], [], [], None)
    assert "No other threshold parts the validation images better: " in same
    three = evaluation_report.build(CLASSES, result(180, 150), [], [], [], None)
    assert "Where to draw the line" not in three


def test_explained_pictures_stand_beside_their_maps() -> None:
    mistakes = [Tile(b"\x89PNG mistake", "<i>wrong</i>", ["for a, then for b"])]
    right = [Tile(b"\x89PNG right", "right", ["for a"]), Tile(b"\x89PNG right", "right too", ["for b"])]
    shown = evaluation_report.Explained(mistakes, right, (5, 7))
    page = evaluation_report.build(CLASSES, result(180, 150), [], [], [], shown)
    assert "tells 5 x 7 fields of a picture apart" in page
    before, _, after = page.partition('<div class="gallery abreast-3">')
    assert "<figure" not in before.partition('id="explained"')[2]
    three, _, two = after.partition('<div class="gallery abreast-2">')
    assert (three.count("<figure>"), two.partition('id="labels"')[0].count("<figure>")) == (1, 2)
    assert "<i>wrong" not in page
    only_right = evaluation_report.Explained([], right, (5, 7))
    assert 'class="gallery abreast-3"' not in evaluation_report.build(CLASSES, result(200, 200), [], [], [], only_right)


@pytest.mark.parametrize("temperature", [None, 1.25])
def test_the_card_holds_every_fact_and_no_label_breaks_its_tables(temperature: float | None) -> None:
    figures = result(180, 150)
    counts = {"train": 50, "val": 20, "test": 200}
    card = model_card.write(
        CLASSES,
        source={"source": "photos|2026", "sha256": None},
        dataset={"format": "folder", "images": 275},
        split={
            "images": counts,
            "classes": {"train": dict.fromkeys(CLASSES, 25)},
            "moved_to_held_out": 3,
            "settings": {"seed": 4},
        },
        trunk={
            "settings": {"backbone": "MobileNet", "alpha": 0.5, "weights": "imagenet", "image_size": 64},
            "cut": 9,
            "cut_layer": "conv_9",
        },
        training={
            "settings": {"fine_tune_at": 12, "head": {"epochs": 7}},
            "device": "CPU",
            "precision": "float32",
            "phases": {
                "head": {
                    "epochs": 7,
                    "best_epoch": 6,
                    "learning_rate": 0.01,
                    "trained_parameters": 1234,
                    "val_accuracy": 0.875,
                }
            },
        },
        metrics=figures,
        certificate={"litert": certificate.compare("litert", np.eye(2), np.eye(2) * 0.9, 1_500_000, 0.2, temperature)},
        hashes={"model.keras": "abc123"},
        versions={"keras": "3.0"},
    )
    low = figures["test"]["accuracy_low"]
    for fact in (
        f"accuracy is 0.9000 (95 % interval {low:.4f}",
        "| source | photos&#124;2026 |",
        "| images for train | 50 |\n| images for val | 20 |\n| images for test | 200 |",
        "| copies moved out of training | 3 |",
        "| head | 7 | 6 | 0.01 | 1,234 | 0.8750 |",
        "| head.epochs | 7 |",
        "| litert | 100.00%, at least 99.5% asked for | 2 | 0.1000, at most 0.2 allowed | 1.5 | yes |",
        "| model.keras | abc123 |",
        "| keras | 3.0 |",
        "layer 9 (`conv_9`)",
        "&#60;b&#62;cat&#60;/b&#62;: 25, dog&#124;&#91;wolf&#93;(x): 25",
    ):
        assert fact in card
    assert ("Their logits are divided by 1.25, " in card) == (temperature is not None) == ("temperature" in card)
    tables = [line for line in card.splitlines() if line.startswith("|")]
    assert all(line.endswith("|") for line in tables)
