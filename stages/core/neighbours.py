"""Which picture each picture resembles most in colour and layout, and which resembles none.

Distances are between colour layouts (ISO/IEC 15938-3), in grey levels: 12 numbers say where a picture
is light, dark, warm or cold, not what is on it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stages.core.facts import Facts

RANK = 5  # an outlier is far from its fifth neighbour, so that four copies of it do not hide it
APPROXIMATE = (
    0.3  # a reported neighbour is at most 1.3 times as far as the true one; exact search is slow in 12 dimensions
)


@dataclass(frozen=True, slots=True)
class Neighbour:
    """The nearest other picture of an image, and how alone the image is."""

    image_id: str
    distance: float  # grey levels
    outlier: float | None  # distance to the fifth neighbour / the median of that; None in sets too small to say


def nearest(facts: Sequence[Facts]) -> list[Neighbour | None]:
    """For each image its nearest picture of other bytes; None where it does not decode or is alone.

    Time grows as n log n: a k-d tree (Maneewongvatana and Mount 1999), searched approximately.
    """
    from scipy.spatial import KDTree

    layouts = {fact.image_id: fact.measured.layout for fact in facts if fact.measured.layout is not None}
    ids = sorted(layouts)
    if len(ids) < 2:
        return [None] * len(facts)
    points = np.array([layouts[image_id] for image_id in ids], dtype=np.float64)
    wanted = min(RANK + 1, len(ids))
    # A tree cannot part equal points and would look at all of them for each: as many as are asked for are enough.
    copies: Counter[tuple[int, ...]] = Counter()
    kept = []
    for at, image_id in enumerate(ids):
        copies[layouts[image_id]] += 1
        if copies[layouts[image_id]] <= wanted:
            kept.append(at)
    distances, places = KDTree(points[kept]).query(points, k=wanted, eps=APPROXIMATE)
    places = np.array(kept)[places]
    # The picture itself is among the found, but not always first or at all: others may have the same layout.
    own = places == np.arange(len(ids))[:, None]
    own[~own.any(axis=1), -1] = True
    others, far = places[~own].reshape(len(ids), -1), distances[~own].reshape(len(ids), -1)
    alone = far[:, -1] if wanted == RANK + 1 else np.full(len(ids), np.nan)
    middle = float(np.median(alone))
    found = {
        image_id: Neighbour(
            ids[others[at, 0]],
            round(float(far[at, 0]), 3),
            round(float(alone[at]) / middle, 4) if middle > 0 else None,
        )
        for at, image_id in enumerate(ids)
    }
    return [found.get(fact.image_id) for fact in facts]
