"""Which images two models are compared on, where classes, splits or labels changed between them."""

from __future__ import annotations

import numpy as np

from stages.core.shared_test import LEAST, Contender, Shared, contender, shared


def model(
    images: range, classes: str = "ab", trained: range = range(0), moved: dict[int, str] | None = None
) -> Contender:
    """Labels in turn; each model is 80 % sure of the right class."""
    predicted, split = [], []
    for number in images:
        label = (moved or {}).get(number, classes[number % len(classes)])
        sure = [0.8 if one == label else 0.2 / (len(classes) - 1) for one in classes]
        predicted.append({"image_id": f"{number:04}", "split": "test", "label": label, "probabilities": sure})
    for number in trained:
        label = classes[number % len(classes)]
        split.append({"image_id": f"{number:04}", "split": "train", "label": label})
        predicted.append({"image_id": f"v{number:04}", "split": "val", "label": label, "probabilities": [1, 0]})
    return contender(predicted, split, list(classes))


def rule(found: Shared, name: str) -> dict[str, object]:
    (one,) = (one for one in found.rules if one["name"] == name)
    return one


def test_nothing_changed() -> None:
    found = shared(model(range(150)), model(range(150)), ())
    assert len(found.image_ids) == 150  # a small test is compared whole
    assert all(one["passed"] and not one["changed"] for one in found.rules)
    assert (found.champion.argmax(1) == found.labels).all()


def test_new_images_are_not_compared_and_need_no_word() -> None:
    found = shared(model(range(300)), model(range(400)), ())
    assert (len(found.image_ids), rule(found, "test-split-changed")["passed"]) == (300, True)
    assert rule(found, "test-split-changed")["new"] == 100


def test_images_that_left_the_test_need_a_word_and_enough_must_be_left() -> None:
    before = model(range(400))
    few_gone = shared(before, model(range(20, 400)), ())
    assert rule(few_gone, "test-split-changed")["passed"]
    gone = shared(before, model(range(100, 400)), ())
    one = rule(gone, "test-split-changed")
    assert (one["passed"], one["gone"], one["needs_accept"]) == (False, 100, True)
    assert "--accept split" in str(one["said"])
    assert rule(shared(before, model(range(100, 400)), ["split"]), "test-split-changed")["passed"]
    left = shared(before, model(range(400 - LEAST + 1, 400)), ["split"])
    assert not rule(left, "test-split-changed")["passed"]
    assert f"at least {LEAST} are needed" in str(rule(left, "test-split-changed")["said"])
    assert not rule(shared(before, model(range(400, 800)), ["split"]), "test-split-changed")["passed"]


def test_what_either_trained_on_is_left_out() -> None:
    found = shared(model(range(400), trained=range(0, 50)), model(range(400), trained=range(350, 400)), ())
    assert found.image_ids == [f"{number:04}" for number in range(50, 350)]
    assert rule(found, "test-split-changed")["trained_on"] == 100


def test_other_classes_need_a_word_and_only_shared_ones_are_compared() -> None:
    before, after = model(range(600), "abc"), model(range(600), "abd")
    refused = rule(shared(before, after, ()), "class-set-changed")
    assert (refused["passed"], refused["gone"], refused["new"]) == (False, ["c"], ["d"])
    assert "--accept classes" in str(refused["said"])
    found = shared(before, after, ["classes"])
    assert rule(found, "class-set-changed")["passed"]
    assert rule(found, "test-split-changed")["passed"]
    assert found.classes == ["a", "b", "c", "d"]
    assert set(found.labels.tolist()) == {0, 1}
    assert len(found.image_ids) == 400
    # A class that a model does not know has no probability there; each row is whole.
    assert (found.champion[:, 3] == 0).all()
    assert (found.challenger[:, 2] == 0).all()
    assert np.allclose(found.champion.sum(1), 1)


def test_the_later_label_counts() -> None:
    found = shared(model(range(300)), model(range(300), moved={0: "b"}), ())
    assert rule(found, "test-split-changed")["relabelled"] == 1
    assert found.labels[0] == 1


def test_a_picture_that_came_twice_counts_once_and_under_two_labels_not_at_all() -> None:
    rows = [
        {"image_id": one, "split": "test", "label": label, "probabilities": [1.0, 0.0]}
        for one, label in (("x", "a"), ("x", "a"), ("y", "a"), ("y", "b"), ("z", "b"))
    ]
    assert set(contender(rows, [], ["a", "b"]).answers) == {"x", "z"}


def test_the_commonest_class_is_that_of_training() -> None:
    assert model(range(10), "ab", trained=range(1, 4)).commonest == "b"
    assert model(range(10), "ab", trained=range(0, 4)).commonest == "a"
