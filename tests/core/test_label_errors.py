"""Labels that were swapped on purpose are found, and others are left alone."""

from __future__ import annotations

from typing import Any

import numpy as np

from stages.core import label_errors


def suspects(probabilities: Any, labels: Any) -> list[tuple[int, int]]:
    """Judged by their own means."""
    return label_errors.suspects(probabilities, labels, label_errors.own_means(probabilities, labels))


def test_swapped_labels_are_found_first_and_others_hardly() -> None:
    random = np.random.default_rng(1)
    truth = random.integers(0, 5, 1000)
    logits = random.normal(size=(1000, 5)) + 9 * np.eye(5)[truth]  # right but for about one in a thousand
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = truth.copy()
    swapped = random.choice(1000, 40, replace=False)
    labels[swapped] = (labels[swapped] + 1) % 5
    found = suspects(probabilities, labels)
    images = [at for at, _ in found]
    assert len(set(images) & set(swapped.tolist())) >= 36
    assert len(set(images) - set(swapped.tolist())) <= 10
    assert set(images[:20]) <= set(swapped.tolist())
    assert all(other == truth[at] for at, other in found[:20])


def test_good_labels_and_absent_classes_raise_no_suspicion() -> None:
    labels = np.array([0, 0, 1, 1])
    probabilities = np.array([[0.9, 0.1, 0.0], [0.6, 0.4, 0.0], [0.2, 0.8, 0.0], [0.3, 0.1, 0.6]])
    assert suspects(probabilities, labels) == []  # class 2 has no image to compare with
    assert suspects(np.zeros((0, 3)), np.zeros(0, np.int64)) == []


def test_one_wrong_among_right_ones_by_hand() -> None:
    """Class 0's own mean is 0.6 and class 1's 0.9: the third image, labelled 0, reaches class 1's."""
    labels = np.array([0, 0, 0, 1])
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.1, 0.9]])
    assert suspects(probabilities, labels) == [(2, 1)]


def test_others_are_judged_by_the_means_they_are_given() -> None:
    reference = np.array([[0.9, 0.1], [0.4, 0.6]])
    needed = label_errors.own_means(reference, np.array([0, 1]))
    assert needed.tolist() == [0.9, 0.6]
    probabilities = np.array([[0.35, 0.65], [0.45, 0.55], [0.89, 0.11], [0.95, 0.05]])
    assert label_errors.suspects(probabilities, np.array([0, 0, 1, 1]), needed) == [(3, 0), (0, 1)]
    assert label_errors.own_means(reference, np.array([0, 0])).tolist() == [0.65, np.inf]
