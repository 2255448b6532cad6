"""Predictions as tables."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_curve

from stages.core import predictions
from stages.core.errors import DataRejected

CLASSES = ["cat", "dog"]
ROWS = [
    {"name": f"{number}.jpg", "image_id": str(number), "split": split, "label": label}
    for number, (split, label) in enumerate([("test", "cat"), ("val", "dog"), ("test", "dog"), ("test", "dog")])
]
PROBABILITIES = np.array([[0.2, 0.8], [0.4, 0.6], [0.9, 0.1], [0.7, 0.3]])  # ordered: test 0, 2, 3, then val 1


def test_rows_are_ordered_and_the_worst_mistakes_come_first() -> None:
    rows = predictions.ordered(ROWS, CLASSES)
    assert rows.names == ["0.jpg", "2.jpg", "3.jpg", "1.jpg"]
    assert rows.labels.tolist() == [0, 1, 1, 1]
    assert predictions.worst(rows, np.array([[0.2, 0.8], [0.9, 0.1], [0.3, 0.7], [0.9, 0.1]]), 5) == [1, 0]
    assert predictions.worst(rows, PROBABILITIES, 0) == []
    assert predictions.caption(rows, PROBABILITIES, CLASSES, 0) == "cat, taken for dog (80%): 0.jpg"


def test_the_table_and_what_is_counted_from_it() -> None:
    rows = predictions.ordered(ROWS, CLASSES)
    table = predictions.table(rows, np.array([[0.2, 0.8], [0.9, 0.1], [0.7, 0.3], [0.4, 0.6]]), CLASSES)
    assert [row["predicted"] for row in table] == ["dog", "cat", "cat", "dog"]
    assert table[0]["probabilities"] == pytest.approx([0.2, 0.8])
    assert predictions.confusion(table, "val") == [{"actual": "dog", "predicted": "dog"}]
    assert predictions.mix_ups(table, "test", 5) == [("dog", "cat", 2), ("cat", "dog", 1)]


def test_roc_points_are_scikit_learns() -> None:
    random = np.random.default_rng(1)
    rows = predictions.ordered(
        [{"name": f"{n:03}", "image_id": "", "split": "test", "label": CLASSES[n % 2]} for n in range(60)], CLASSES
    )
    scores = np.round(random.random(60) * 0.6 + 0.4 * (rows.labels == 1), 2)
    points = predictions.roc(rows, np.stack([1 - scores, scores], 1), CLASSES, "test")
    dogs = [(p["false_positive_rate"], p["true_positive_rate"]) for p in points if p["class"] == "dog"]
    false_rate, true_rate, _ = roc_curve(rows.labels, scores, drop_intermediate=False)
    assert dogs == [(round(float(x), 6), round(float(y), 6)) for x, y in zip(false_rate, true_rate, strict=True)]


@pytest.mark.parametrize(
    ("probabilities", "said"),
    [
        ([[0.3, 0.7]] * 5, "gives all 5 held-out images the same probabilities"),
        ([[0.3, 0.7], [0.3 + 1e-8, 0.7 - 1e-8]], "the same probabilities"),
        ([[0.3, 0.7], [np.nan, np.nan]], "NaN or infinite"),
    ],
)
def test_a_model_that_says_nothing_is_refused_with_exit_3(probabilities: list[list[float]], said: str) -> None:
    with pytest.raises(DataRejected, match=said) as caught:
        predictions.check(np.array(probabilities))
    assert caught.value.exit_code == 3


def test_a_model_that_says_little_or_of_one_image_is_not() -> None:
    predictions.check(np.array([[0.3, 0.7], [0.301, 0.699], [0.3, 0.7]]))
    predictions.check(np.array([[0.3, 0.7]]))
