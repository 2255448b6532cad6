"""Finds images that are the same picture: the same bytes, or nearly the same look."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from stages.core.facts import Facts

Indices = npt.NDArray[np.int64]

BANDS = 4  # of 16 bits; two hashes at most 7 apart agree in one band but for a single bit
MAX_DISTANCE = 2 * BANDS - 1
PAIRS_AT_ONCE = 1 << 20  # candidate pairs held in memory

# One hash alone also pairs strangers: of 3,000 photographs, 14 pairs of different ones lie at most 5
# bits apart. A hash of the other direction tells them from copies: there they are 11 or more apart,
# while shifted, resized and recompressed copies of the same photographs stay within 10.
SLACK = 3  # bits that the second hash may differ by more than the first
# Scaling and recompressing hardly change the overall look.
BRIGHTNESS_TOLERANCE = 0.04  # of full scale
CONTRAST_TOLERANCE = 0.04
# A nearly flat picture's hash is noise, and a stretched one's is that of another picture.
MIN_CONTRAST = 0.02
ASPECT_TOLERANCE = 0.1  # relative


def group(facts: Sequence[Facts], *, max_distance: int, min_side: int) -> list[str]:
    """For each image, the smallest image_id among the images it is a duplicate of, itself included.

    The same bytes always make a group. Images of at least `min_side` pixels on their shorter side
    also do where their difference hashes are at most `max_distance` (0-7) bits apart and a second
    hash, brightness, contrast and shape agree. Groups are transitive: where a is near b and b near c, all
    three are one group. Time grows with the number of images and of found pairs, not with its square.
    """
    ids = sorted({fact.image_id for fact in facts})
    position = {image_id: at for at, image_id in enumerate(ids)}
    # Positions follow the ids' order, so the smallest position is the smallest id.
    parent = np.arange(len(ids))
    near = {fact.image_id: fact for fact in facts if _comparable(fact, min_side)}
    at = np.array([position[image_id] for image_id in near], dtype=np.int64)
    for first, second in _near_pairs(list(near.values()), max_distance):
        _union(parent, at[first], at[second])
    _flatten(parent)
    return [ids[parent[position[fact.image_id]]] for fact in facts]


def _comparable(fact: Facts, min_side: int) -> bool:
    if fact.width is None or fact.height is None or fact.contrast is None:
        return False
    return min(fact.width, fact.height) >= min_side and fact.contrast >= MIN_CONTRAST


def _near_pairs(facts: list[Facts], max_distance: int) -> Iterator[tuple[Indices, Indices]]:
    """Index pairs of images that look alike, in blocks; a pair may come more than once.

    Pigeonhole: 64 bits are four bands of 16; hashes d apart differ by at most d // 4 bits in some
    band. So only images whose band is equal, or (d > 3) one bit off, need comparing.
    """
    if not facts:
        return
    hashes = np.array([int(fact.dhash or "0", 16) for fact in facts], dtype=np.uint64)
    down = np.array([int(fact.dhash_down or "0", 16) for fact in facts], dtype=np.uint64)
    looks = np.array([(f.brightness, f.contrast, (f.width or 1) / (f.height or 1)) for f in facts])
    flips = [0] + ([1 << bit for bit in range(16)] if max_distance >= BANDS else [])
    for band in range(BANDS):
        # Every fourth bit: neighbouring bits are alike in plain areas and would crowd few keys.
        keys = np.zeros(len(facts), dtype=np.uint64)
        for bit in range(16):
            keys |= ((hashes >> np.uint64(bit * BANDS + band)) & np.uint64(1)) << np.uint64(bit)
        order = np.argsort(keys, kind="stable")
        ranked = keys[order]
        for flip in flips:
            wanted = keys ^ np.uint64(flip)
            start = np.searchsorted(ranked, wanted, "left")
            counts = np.searchsorted(ranked, wanted, "right") - start
            for left, right in _expand(start, counts, order):
                close = np.bitwise_count(hashes[left] ^ hashes[right]) <= max_distance
                close &= np.bitwise_count(down[left] ^ down[right]) <= max_distance + SLACK
                close &= left < right
                left, right = left[close], right[close]
                difference = np.abs(looks[left] - looks[right])
                alike = difference[:, 0] <= BRIGHTNESS_TOLERANCE
                alike &= difference[:, 1] <= CONTRAST_TOLERANCE
                alike &= difference[:, 2] <= ASPECT_TOLERANCE * looks[left, 2]
                yield left[alike], right[alike]


def _expand(start: Indices, counts: Indices, order: Indices) -> Iterator[tuple[Indices, Indices]]:
    """Pairs (i, order[j]) for j in start[i] … start[i] + counts[i], a bounded block at a time."""
    ends = np.cumsum(counts)
    total = int(ends[-1])
    for begin in range(0, total, PAIRS_AT_ONCE):
        flat = np.arange(begin, min(begin + PAIRS_AT_ONCE, total))
        left = np.searchsorted(ends, flat, "right")
        within = flat - (ends[left] - counts[left])
        yield left, order[start[left] + within]


def _union(parent: Indices, first: Indices, second: Indices) -> None:
    _flatten(parent)
    apart = parent[first] != parent[second]
    for one, other in zip(first[apart].tolist(), second[apart].tolist(), strict=True):
        low, high = sorted((_root(parent, one), _root(parent, other)))
        parent[high] = low


def _root(parent: Indices, node: int) -> int:
    while parent[node] != node:
        parent[node] = parent[parent[node]]
        node = int(parent[node])
    return node


def _flatten(parent: Indices) -> None:
    while not np.array_equal(parent[parent], parent):
        parent[:] = parent[parent]
