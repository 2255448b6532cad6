"""Which picture each picture resembles most in colour and layout, and which resembles none.

Distances are between colour layouts (ISO/IEC 15938-3), in grey levels: 12 numbers say where a picture
is light, dark, warm or cold, not what is on it.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

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

    own: list[str | None] = []  # image_ids, in the images' order
    layouts = array("i")
    position: dict[str, int] = {}  # of an image_id among those that have a layout
    for fact in facts:
        layout = fact.measured.layout
        own.append(None if layout is None else fact.image_id)
        if layout is not None and fact.image_id not in position:
            position[fact.image_id] = len(position)
            layouts.extend(layout)
    ids = sorted(position)
    if len(ids) < 2:
        return [None] * len(facts)
    numbers = np.array(layouts, dtype=np.int32).reshape(len(ids), -1)
    numbers = numbers[np.fromiter((position[image_id] for image_id in ids), dtype=np.int64, count=len(ids))]
    position = {image_id: at for at, image_id in enumerate(ids)}
    points = numbers.astype(np.float64)
    wanted = min(RANK + 1, len(ids))
    # A tree cannot part equal points and would look at all of them for each: as many as are asked for are enough.
    kept = np.flatnonzero(_copies_before(numbers) < wanted)
    distances, places = KDTree(points[kept]).query(points, k=wanted, eps=APPROXIMATE)
    places = kept[places]
    # The picture itself is among the found, but not always first or at all: others may have the same layout.
    itself = places == np.arange(len(ids))[:, None]
    itself[~itself.any(axis=1), -1] = True
    others, far = places[~itself].reshape(len(ids), -1), distances[~itself].reshape(len(ids), -1)
    alone = far[:, -1] if wanted == RANK + 1 else np.full(len(ids), np.nan)
    middle = float(np.median(alone))
    found = [
        Neighbour(ids[other], round(distance, 3), round(fifth / middle, 4) if middle > 0 else None)
        for other, distance, fifth in zip(others[:, 0].tolist(), far[:, 0].tolist(), alone.tolist(), strict=True)
    ]
    return [None if image_id is None else found[position[image_id]] for image_id in own]


def _copies_before(rows: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
    """For each row how many equal ones stand before it."""
    _, kind = np.unique(rows, axis=0, return_inverse=True)
    kind = kind.reshape(-1)  # NumPy 2.0 gave it an axis more
    order = np.argsort(kind, kind="stable")
    ranked = kind[order]
    first = np.searchsorted(ranked, ranked)  # where its kind begins
    before = np.empty(len(rows), dtype=np.int64)
    before[order] = np.arange(len(rows)) - first
    return before
