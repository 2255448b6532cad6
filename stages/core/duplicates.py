"""Finds images that are the same picture: the same bytes, or nearly the same look.

Two images look alike where a perceptual hash of the one is near to a hash of the other, whole or
with its edges cut off, the coefficients behind the hashes point the same way, and shapes and colours agree.
Candidates come from a fixed set of lookup tables, so that whether two images are found does not
depend on the others, unless crowds share their keys (WINDOW): groups stay as they are when a data set
grows. No step looks at all pairs.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stages.core.facts import Facts
from stages.core.measurement import FREQUENCIES, LAYOUT, ZOOMS

Indices = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]

BITS = 64
LUMA = 6  # numbers of a colour layout before those of chroma
MAX_DISTANCE = 16  # bits; beyond, the tables would miss too many
# Bit sampling (Indyk and Motwani 1998): two hashes d bits apart agree on the KEY_BITS of one table with
# a chance of (1 - d / 64) ** KEY_BITS. With 64 tables a pair at 8 bits is found with 0.9995, at 10 with 0.985,
# at 12 with 0.90; most copies have two or more such chances, one per zoom.
KEY_BITS = 16
TABLES = 64
# Of 3,000 photographs no two strangers agreed so far at 12 bits; of their copies, all recompressed and
# resized ones did, and 99 % of those with 5 % of each side cut off at a random place.
MIN_AGREEMENT = 0.9  # cosine of the angle between the coefficients
MIN_CONTRAST = 0.02  # a nearly flat picture's hash is noise
ASPECT_TOLERANCE = 0.12  # relative; a stretched picture's hash is that of another picture
# Between the chroma of two colour layouts. Of 800 photographs' copies, 5 % cut off or a fifth brighter, 99 %
# stayed within 56; drawn scenes that only a grey hash confuses were 104 and more apart.
MAX_CHROMA = 80
GREY = 6  # chroma of a picture without colour, which may be a copy of one with
WINDOW = 64  # entries of one key that an entry is compared with: a thousand frames of one scene stay linear


def group(facts: Sequence[Facts], *, max_distance: int, min_side: int) -> list[str]:
    """For each image, the smallest image_id among the images it is a duplicate of, itself included.

    The same bytes always make a group. Images of at least `min_side` pixels on their shorter side also do
    where they look alike by hashes at most `max_distance` (0-MAX_DISTANCE) bits apart. Groups are transitive:
    where a is near b and b near c, all three are one group.
    """
    own = [fact.image_id for fact in facts]
    ids = sorted(set(own))
    position = {image_id: at for at, image_id in enumerate(ids)}
    # Positions follow the ids' order, so the smallest position is the smallest id.
    parent = np.arange(len(ids))
    compared: dict[int, None] = {}  # positions, in the order of the images

    def once() -> Iterator[Facts]:
        for fact in facts:
            at = position[fact.image_id]
            if at not in compared and _comparable(fact, min_side):
                compared[at] = None
                yield fact

    looks = _looks(once())
    at = np.fromiter(compared, dtype=np.int64, count=len(compared))
    order = np.argsort(at)
    at, looks = at[order], looks.ordered(order)
    for first, second in _alike(looks, max_distance):
        _union(parent, at[first], at[second])
    _flatten(parent)
    return [ids[parent[position[image_id]]] for image_id in own]


def _comparable(fact: Facts, min_side: int) -> bool:
    contrast = fact.measured.contrast
    return fact.sides is not None and fact.sides[0] >= min_side and contrast is not None and contrast >= MIN_CONTRAST


def near_pairs(facts: Sequence[Facts], max_distance: int) -> Iterator[tuple[Indices, Indices]]:
    """Index pairs of images that look alike, in blocks; a pair may come more than once.

    Every fact must have been decoded. The order of `facts` matters only where more than WINDOW share a key.
    """
    yield from _alike(_looks(facts), max_distance)


@dataclass(frozen=True)
class _Looks:
    """What is compared of N images, as arrays: a fact's own objects take several times the memory."""

    hashes: Hashes  # [N, zooms]
    shapes: npt.NDArray[np.int8]  # [N, zooms, FREQUENCIES**2]
    aspects: npt.NDArray[np.float64]  # [N]
    chroma: npt.NDArray[np.float64]  # [N, 6]

    def ordered(self, order: Indices) -> _Looks:
        return _Looks(self.hashes[order], self.shapes[order], self.aspects[order], self.chroma[order])


def _looks(facts: Iterable[Facts]) -> _Looks:
    hashes, shapes, aspects, chroma = array("Q"), bytearray(), array("d"), array("d")
    for fact in facts:
        hashes.extend(fact.measured.hashes or ())
        shapes += fact.measured.shapes or b""
        aspects.append((fact.measured.width or 1) / (fact.measured.height or 1))
        chroma.extend((fact.measured.layout or ())[LUMA:])
    return _Looks(
        np.array(hashes, dtype=np.uint64).reshape(-1, len(ZOOMS)),
        np.frombuffer(shapes, dtype=np.int8).reshape(-1, len(ZOOMS), FREQUENCIES**2),
        np.array(aspects, dtype=np.float64),
        np.array(chroma, dtype=np.float64).reshape(-1, LAYOUT - LUMA),
    )


def _alike(looks: _Looks, max_distance: int) -> Iterator[tuple[Indices, Indices]]:
    """As near_pairs."""
    if len(looks.aspects) < 2:
        return
    # Entry e is image e // zooms at zoom e % zooms.
    zooms = len(ZOOMS)
    hashes, shapes = looks.hashes.ravel(), looks.shapes.reshape(-1, FREQUENCIES**2)
    aspects, chroma = looks.aspects, looks.chroma
    grey = np.linalg.norm(chroma, axis=1) <= GREY
    for left, right in _candidates(hashes, max_distance):
        one, other = left // zooms, right // zooms
        # A zoomed hash stands for a copy whose edges are gone. Two at one zoom are only another chance to find two
        # wholes that fell into no table together: it is the wholes that must agree.
        level, other_level = left % zooms, right % zooms
        same = (level == other_level) & (level > 0)
        left, right = np.where(same, left - level, left), np.where(same, right - other_level, right)
        fits = (one != other) & (same | (level == 0) | (other_level == 0))
        fits &= np.bitwise_count(hashes[left] ^ hashes[right]) <= max_distance
        fits &= np.abs(aspects[one] - aspects[other]) <= ASPECT_TOLERANCE * np.minimum(aspects[one], aspects[other])
        fits &= grey[one] | grey[other] | (np.linalg.norm(chroma[one] - chroma[other], axis=1) <= MAX_CHROMA)
        left, right = left[fits], right[fits]
        lines, others = shapes[left].astype(np.int32), shapes[right].astype(np.int32)
        product = np.einsum("ij,ij->i", lines, others)
        lengths = np.einsum("ij,ij->i", lines, lines).astype(float) * np.einsum("ij,ij->i", others, others)
        # A pattern too fine for the miniature has no coefficients, and agrees with nothing.
        alike = (product > 0) & (product >= MIN_AGREEMENT * np.sqrt(lengths))
        yield left[alike] // zooms, right[alike] // zooms


def _candidates(hashes: Hashes, max_distance: int) -> Iterator[tuple[Indices, Indices]]:
    """Pairs of entries that share a key in some table and are at most `max_distance` bits apart."""
    # Big-endian, so that bit k means the same on every machine.
    bits = np.unpackbits(hashes.astype(">u8").view(np.uint8).reshape(-1, 8), axis=1)
    columns = np.ascontiguousarray(bits.T)
    del bits
    for chosen in _tables():
        keys = np.packbits(columns[chosen], axis=0)
        key = keys[0].astype(np.uint16) << 8 | keys[1]
        order = np.argsort(key, kind="stable")
        ranked = key[order]
        sorted_hashes = hashes[order]
        for lag in range(1, min(WINDOW, len(order) - 1) + 1):
            same = ranked[lag:] == ranked[:-lag]
            if not same.any():
                break
            at = np.flatnonzero(same)
            at = at[np.bitwise_count(sorted_hashes[at] ^ sorted_hashes[at + lag]) <= max_distance]
            if len(at):
                yield order[at], order[at + lag]


def _tables() -> npt.NDArray[np.int64]:
    """The bits that make each table's key: [TABLES, KEY_BITS]. Fixed for ever: another draw is other groups."""
    generator = np.random.Generator(np.random.PCG64(20_241_113))
    # The first bit of every hash is 0: it stands for the mean, which is left out.
    return np.stack([generator.permutation(BITS - 1)[:KEY_BITS] + 1 for _ in range(TABLES)])


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
