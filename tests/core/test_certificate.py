"""What counts as agreement, and what does not."""

from __future__ import annotations

import numpy as np
import pytest

from stages.core import certificate

EVALUATED = np.random.default_rng(0).dirichlet([1.0] * 3, 200).astype(np.float32)


def disagreeing(count: int) -> np.ndarray:
    """The same answers, but for `count` images another class."""
    answered = EVALUATED.copy()
    answered[:count] = np.roll(answered[:count], 1, axis=1)
    return answered


@pytest.mark.parametrize(("format_", "most"), [("litert", 1), ("saved_model", 1), ("litert_int8", 4)])
def test_a_format_is_published_within_its_bound(format_: str, most: int) -> None:
    """99.5 % of 200 images leave one, 98 % four."""
    for wrong in (0, most):
        found = certificate.compare(format_, EVALUATED, disagreeing(wrong), 10, 1.0)
        assert (found["agreement"], found["published"]) == (1 - wrong / 200, True)
    found = certificate.compare(format_, EVALUATED, disagreeing(most + 1), 10, 1.0)
    assert not found["published"]
    assert f"{format_} names the same class for {1 - (most + 1) / 200:.2%} of 200" in certificate.refusal(
        format_, found
    )


def test_the_gap_is_the_largest_of_a_probability() -> None:
    answered = EVALUATED.copy()
    answered[7, 2] += 0.1234
    found = certificate.compare("keras", EVALUATED, answered, 10, 0.2)
    assert found["largest_gap"] == pytest.approx(0.1234)
    assert (found["images"], found["bytes"]) == (200, 10)


def test_a_temperature_stands_in_it_only_where_one_is_inside() -> None:
    assert "temperature" not in certificate.compare("keras", EVALUATED, EVALUATED, 10, 0.02)
    assert certificate.compare("keras", EVALUATED, EVALUATED, 10, 0.02, 1.25)["temperature"] == 1.25


@pytest.mark.parametrize("answered", [np.full((200, 3), np.nan), EVALUATED[:, :2], EVALUATED[:100]])
def test_what_is_no_answer_agrees_with_nothing(answered: np.ndarray) -> None:
    found = certificate.compare("openvino", EVALUATED, answered, 10, 0.2)
    assert (found["agreement"], found["largest_gap"], found["published"]) == (0.0, None, False)


def test_one_answer_that_is_no_number_is_one_image() -> None:
    answered = EVALUATED.copy()
    answered[0, 0] = np.inf
    assert certificate.compare("keras", EVALUATED, answered, 10, 0.2)["agreement"] == 199 / 200


def halves(gap: float) -> np.ndarray:
    """200 answers of two classes, the first of which is likelier by twice `gap` than at a half."""
    return np.tile([0.5 + gap, 0.5 - gap], (200, 1)).astype(np.float32)


@pytest.mark.parametrize("format_", ["saved_model", "keras", "litert", "litert_int8", "openvino", "onnx"])
def test_a_format_is_published_within_its_largest_gap(format_: str) -> None:
    """The bound itself is allowed, although no float32 is 0.02; the next figure that a certificate can show is not."""
    name = {"litert_int8": "export.tolerance_int8"}.get(format_, "export.tolerance")
    for allowed in (0.0001, 0.02, 0.2, 0.48):
        answered = halves(0.49)
        answered[77] = halves(0.49 - allowed)[0]
        found = certificate.compare(format_, halves(0.49), answered, 10, allowed)
        assert (found["agreement"], found["largest_gap"], found["published"]) == (1.0, allowed, True)
        assert "why" not in found
        answered[77] = halves(0.4899 - allowed)[0]
        found = certificate.compare(format_, halves(0.49), answered, 10, allowed)
        assert (found["agreement"], found["tolerance"], found["published"]) == (1.0, allowed, False)
        said = f"{format_} is up to {allowed + 0.0001:.4f} off in a probability, and {name} allows {allowed} ("
        assert certificate.refusal(format_, found).startswith(said)
        assert found["why"].endswith(f"raise {name})")
        assert ("leave it out of export.formats" in found["why"]) == (format_ != "saved_model")


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("which", [0, 1])
def test_a_gap_that_is_no_number_is_within_no_bound(broken: float, which: int) -> None:
    """One image of 200 costs less agreement than is allowed; the wider bound is the widest there is."""
    both = [halves(0.3), halves(0.3)]
    both[which][0, 1] = broken
    found = certificate.compare("litert", both[0], both[1], 10, 1.0)
    assert (found["agreement"], found["largest_gap"], found["published"]) == (199 / 200, None, False)
    assert found["why"] == "gives no probabilities to compare for 1 of 200 test images"
