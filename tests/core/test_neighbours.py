"""The nearest picture in colour and layout, compared with looking at every other; and which picture is alone."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence

import numpy as np
import pytest

from stages.core import neighbours
from stages.core.facts import Facts
from stages.core.measurement import LAYOUT, Measurement
from stages.core.neighbours import APPROXIMATE, RANK, Neighbour

Layout = Sequence[int]


def fact(image_id: str, layout: Layout | None) -> Facts:
    if layout is None:
        return Facts(image_id, "x", None, image_id, Measurement(9, "PNG", "truncated", "cut"))
    numbers = tuple(int(number) for number in layout)
    return Facts(image_id, "x", None, image_id, Measurement(9, "PNG", width=90, height=90, layout=numbers))


def facts(layouts: Sequence[Layout]) -> list[Facts]:
    return [fact(f"{at:05}", layout) for at, layout in enumerate(layouts)]


def cloud(count: int, seed: int = 0) -> list[Layout]:
    """As of photographs: the mean varies most, fine structure least."""
    spread = 400 / np.arange(1, LAYOUT + 1)
    return list(np.random.default_rng(seed).normal(0, spread, (count, LAYOUT)).round().astype(int).tolist())


def there(found: Sequence[Neighbour | None]) -> list[Neighbour]:
    assert None not in found
    return [one for one in found if one is not None]


@pytest.mark.parametrize("seed", range(5))
def test_the_nearest_is_hardly_further_than_the_true_one(seed: int) -> None:
    layouts = cloud(200, seed)
    points = np.array(layouts, dtype=float)
    distances = np.sqrt(((points[:, None] - points[None]) ** 2).sum(axis=2))
    np.fill_diagonal(distances, np.inf)
    ranked = np.sort(distances, axis=1)
    fifth, middle = ranked[:, RANK - 1], np.median(ranked[:, RANK - 1])
    allowed = 1 + APPROXIMATE
    exact = 0
    for at, found in enumerate(there(neighbours.nearest(facts(layouts)))):
        assert found.distance == pytest.approx(distances[at, int(found.image_id)], abs=0.001)
        assert ranked[at, 0] - 0.001 <= found.distance <= allowed * ranked[at, 0] + 0.001
        exact += int(found.distance <= ranked[at, 0] + 0.001)
        assert found.outlier is not None
        assert fifth[at] / middle / allowed - 0.001 <= found.outlier <= fifth[at] / middle * allowed + 0.001
    assert exact >= 150  # the bound is for the worst case


def test_pictures_of_one_layout_are_neighbours_at_no_distance() -> None:
    layouts = [*cloud(30), *[(7,) * LAYOUT] * 20]
    found = there(neighbours.nearest(facts(layouts)))
    for at in range(30, 50):
        assert found[at].distance == 0
        assert 30 <= int(found[at].image_id) < 50
        assert int(found[at].image_id) != at
        assert found[at].outlier == 0
    assert all(int(one.image_id) != at and one.distance > 0 for at, one in enumerate(found[:30]))


def test_where_most_pictures_are_of_one_layout_no_outlier_can_be_told() -> None:
    found = there(neighbours.nearest(facts([*[(7,) * LAYOUT] * 20, *cloud(3)])))
    assert {one.outlier for one in found} == {None}
    assert [one.distance for one in found[:20]] == [0.0] * 20
    assert all(one.image_id != f"{at:05}" for at, one in enumerate(found))


@pytest.mark.parametrize("count", range(2, 9))
def test_small_sets_have_neighbours_but_no_outliers(count: int) -> None:
    found = there(neighbours.nearest(facts(cloud(count))))
    assert all(int(one.image_id) != at for at, one in enumerate(found))
    assert {one.outlier is None for one in found} == {count < RANK + 1}


def test_without_another_picture_there_is_no_neighbour() -> None:
    assert neighbours.nearest([]) == []
    assert neighbours.nearest([fact("a", (1,) * LAYOUT)]) == [None]
    assert neighbours.nearest([fact("a", None), fact("b", None)]) == [None, None]
    # The same bytes under two names are one picture.
    assert neighbours.nearest([fact("a", (1,) * LAYOUT)] * 2) == [None, None]


def test_undecodable_images_have_none_and_are_nobodys() -> None:
    layouts = cloud(10)
    whole = neighbours.nearest(facts(layouts))
    mixed = [*facts(layouts), fact("broken", None)]
    assert neighbours.nearest([mixed[-1], *mixed[:-1]]) == [None, *whole]


def test_a_planted_loner_has_the_highest_score() -> None:
    for seed in range(5):
        layouts = cloud(300, seed)
        middle = np.median([one.outlier or 0 for one in there(neighbours.nearest(facts(layouts)))])
        assert middle == pytest.approx(1, abs=0.01)
        layouts[17] = [1500] * LAYOUT
        scores = [one.outlier or 0 for one in there(neighbours.nearest(facts(layouts)))]
        assert max(range(300), key=scores.__getitem__) == 17
        assert scores[17] > 5


def test_copies_do_not_hide_a_loner() -> None:
    layouts = cloud(300)
    for at in range(RANK):
        layouts[at] = [1500 + at] * LAYOUT
    scores = [one.outlier or 0 for one in there(neighbours.nearest(facts(layouts)))]
    assert min(scores[:RANK]) > max(scores[RANK:])


def test_order_does_not_matter() -> None:
    found = facts([*cloud(100), *[(7,) * LAYOUT] * 9, *[(8,) * LAYOUT] * 2])
    expected = {one.image_id: near for one, near in zip(found, neighbours.nearest(found), strict=True)}
    for seed in range(5):
        shuffled = random.Random(seed).sample(found, len(found))
        again = {one.image_id: near for one, near in zip(shuffled, neighbours.nearest(shuffled), strict=True)}
        assert again == expected


def test_thousands_of_blank_pictures_take_little_time() -> None:
    """A tree cannot part points that are one: every search of one leaf of them all would be quadratic."""
    found = facts([*cloud(50), *[(2040, *[0] * (LAYOUT - 1))] * 60_000])
    start = time.perf_counter()
    assert {one.distance for one in there(neighbours.nearest(found))[50:]} == {0.0}
    assert time.perf_counter() - start < 15  # 60,000 times 60,000 distances of 12 numbers take longer
