"""Mixed batches: labels say exactly what is in the picture, and the draws alone decide."""

from __future__ import annotations

import numpy as np
import pytest

from stages.core.mixing import Mixing

LABELS = np.array([0, 1, 2, 1, 0, 2, 1, 0], np.int32)
CLASSES = 3
# Each example holds its own number everywhere: what is mixed can be told from the values.
NUMBERS = np.broadcast_to(np.arange(8, dtype=np.float32)[:, None, None, None], (8, 10, 6, 2)).copy()


def mixed(kind: Mixing, seed: int = 0, inputs: np.ndarray = NUMBERS) -> tuple[np.ndarray, np.ndarray]:
    return kind.apply(inputs, LABELS, np.random.default_rng(seed))


@pytest.mark.parametrize("shape", [(8, 10, 6, 2), (8, 5)])
def test_mixup_averages_pairs_and_their_labels_with_the_same_shares(shape: tuple[int, ...]) -> None:
    random = np.random.default_rng(1)
    inputs = random.normal(size=shape).astype(np.float32)
    for seed in range(20):
        found, labels = mixed(Mixing(0.4, 0.0, CLASSES), seed, inputs)
        draws = np.random.default_rng(seed)
        partners = draws.permutation(8)
        kept = draws.beta(0.4, 0.4, 8)
        for one in range(8):
            expected = kept[one] * inputs[one] + (1 - kept[one]) * inputs[partners[one]]
            np.testing.assert_allclose(found[one], expected, atol=1e-5)
            own = kept[one] * np.eye(CLASSES)[LABELS[one]] + (1 - kept[one]) * np.eye(CLASSES)[LABELS[partners[one]]]
            np.testing.assert_allclose(labels[one], own, atol=1e-6)
        assert found.dtype == labels.dtype == np.float32


def test_cutmix_gives_each_class_the_area_it_has() -> None:
    shares = []
    for seed in range(60):
        found, labels = mixed(Mixing(0.0, 1.0, CLASSES), seed)
        for one in range(8):
            area = np.zeros(CLASSES)
            numbers, counts = np.unique(found[one, :, :, 0], return_counts=True)
            assert len(numbers) <= 2
            for number, count in zip(numbers, counts, strict=True):
                area[LABELS[int(number)]] += count / 60
            np.testing.assert_allclose(labels[one], area, atol=1e-6)
            pasted = found[one, :, :, 0] != one
            rows, columns = np.flatnonzero(pasted.any(1)), np.flatnonzero(pasted.any(0))
            if len(rows):
                assert pasted[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all(), "a rectangle"
            assert np.array_equal(found[one, :, :, 0], found[one, :, :, 1])
            shares.append(pasted.mean())
    # Beta(1, 1) is uniform; rectangles that reach outside lose a part.
    assert np.min(shares) == 0.0
    assert np.max(shares) > 0.8
    assert 0.2 < np.mean(shares) < 0.5


@pytest.mark.parametrize("kind", [Mixing(0.2, 0.0, CLASSES), Mixing(0.0, 1.0, CLASSES), Mixing(0.3, 0.7, CLASSES)])
def test_labels_sum_to_one_nothing_leaves_its_range_and_the_draws_decide(kind: Mixing) -> None:
    before = NUMBERS.copy()
    for seed in range(30):
        found, labels = mixed(kind, seed)
        np.testing.assert_allclose(labels.sum(1), 1.0, atol=1e-6)
        assert labels.min() >= 0
        assert found.min() >= 0
        assert found.max() <= 7 + 1e-5  # rounding
        again, labels_again = mixed(kind, seed)
        assert np.array_equal(found, again)
        assert np.array_equal(labels, labels_again)
    assert np.array_equal(NUMBERS, before)
    assert not np.array_equal(mixed(kind, 1)[0], mixed(kind, 2)[0])


def test_of_two_that_are_on_a_coin_decides_per_batch() -> None:
    def pasted(found: np.ndarray) -> bool:
        return bool(np.array_equal(found, np.rint(found)))

    both = [pasted(mixed(Mixing(1.0, 1.0, CLASSES), seed)[0]) for seed in range(200)]
    assert 70 <= sum(both) <= 130
    assert not any(pasted(mixed(Mixing(1.0, 0.0, CLASSES), seed)[0]) for seed in range(20))
    assert all(pasted(mixed(Mixing(0.0, 1.0, CLASSES), seed)[0]) for seed in range(20))


@pytest.mark.parametrize("alpha", [1e-6, 1e-3, 10.0])
def test_the_ends_of_alphas_range_give_numbers(alpha: float) -> None:
    for kind in (Mixing(alpha, 0.0, CLASSES), Mixing(0.0, alpha, CLASSES)):
        for seed in range(50):
            found, labels = mixed(kind, seed)
            assert np.isfinite(found).all()
            assert np.isfinite(labels).all()


def test_an_example_alone_in_its_batch_is_its_own_partner() -> None:
    for kind in (Mixing(1.0, 0.0, CLASSES), Mixing(0.0, 1.0, CLASSES)):
        found, labels = kind.apply(NUMBERS[3:4], LABELS[3:4], np.random.default_rng(0))
        np.testing.assert_allclose(found, NUMBERS[3:4], rtol=1e-6)
        np.testing.assert_allclose(labels, [[0, 1, 0]], atol=1e-6)
