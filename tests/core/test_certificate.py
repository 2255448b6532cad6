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
        found = certificate.compare(format_, EVALUATED, disagreeing(wrong), 10)
        assert (found["agreement"], found["published"]) == (1 - wrong / 200, True)
    found = certificate.compare(format_, EVALUATED, disagreeing(most + 1), 10)
    assert not found["published"]
    assert f"{format_} names the same class for {1 - (most + 1) / 200:.2%} of 200" in certificate.refusal(
        format_, found
    )


def test_the_gap_is_the_largest_of_a_probability() -> None:
    answered = EVALUATED.copy()
    answered[7, 2] += 0.1234
    found = certificate.compare("keras", EVALUATED, answered, 10)
    assert found["largest_gap"] == pytest.approx(0.1234)
    assert (found["images"], found["bytes"]) == (200, 10)


def test_a_temperature_stands_in_it_only_where_one_is_inside() -> None:
    assert "temperature" not in certificate.compare("keras", EVALUATED, EVALUATED, 10)
    assert certificate.compare("keras", EVALUATED, EVALUATED, 10, 1.25)["temperature"] == 1.25


@pytest.mark.parametrize("answered", [np.full((200, 3), np.nan), EVALUATED[:, :2], EVALUATED[:100]])
def test_what_is_no_answer_agrees_with_nothing(answered: np.ndarray) -> None:
    found = certificate.compare("openvino", EVALUATED, answered, 10)
    assert (found["agreement"], found["largest_gap"], found["published"]) == (0.0, None, False)


def test_one_answer_that_is_no_number_is_one_image() -> None:
    answered = EVALUATED.copy()
    answered[0, 0] = np.inf
    assert certificate.compare("keras", EVALUATED, answered, 10)["agreement"] == 199 / 200
