"""Where an ordered list of names is cut into shards, and what each shard's file is called.

Both follow from the names themselves, so that one image more or less changes the shard it falls into
and leaves the others as they are, names included. A cut falls after a name whose hash is a multiple of
the target. A run that grew too long or too heavy is cut once more after its name of smallest hash,
again and again: unlike "after every n-th", that too depends on nothing outside the run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import accumulate

MOST_IMAGES = 8  # times the target
MOST_BYTES = 64 * 2**20  # of one shard, unless a single image is larger
# A file name holds at most 255 bytes; this many of an image's name fit as hex with room to spare.
PREFIX_BYTES = 96


def spans(names: Sequence[str], sizes: Sequence[int], target: int) -> list[range]:
    """Index ranges of the shards of `names` (sorted, unique), in order and without a gap.

    `sizes` are bytes, one per name. A shard has `target` images on average, at most MOST_IMAGES times
    as many, and at most MOST_BYTES where it has more than one image.
    """
    marks = [_mark(name) for name in names]
    ends = [0, *accumulate(sizes)]
    found: list[range] = []
    start = 0
    for index, mark in enumerate(marks):
        if mark % target == 0 or index == len(marks) - 1:
            found += _bounded(range(start, index + 1), marks, ends, target)
            start = index + 1
    return found


def file_names(first_names: Sequence[str]) -> list[str]:
    """File names of shards that begin with these names (sorted, unique); they sort as the names do.

    A name is its first PREFIX_BYTES bytes as hex. Where several shards begin alike beyond that, a
    counter tells them apart: only those can be renamed by a change in one of them.
    """
    prefixes = [name.encode()[:PREFIX_BYTES].hex() for name in first_names]
    found = []
    alike = 0
    for index, prefix in enumerate(prefixes):
        alike = alike + 1 if index > 0 and prefix == prefixes[index - 1] else 0
        # "_" sorts behind the "." of a name without a counter.
        found.append(f"{prefix}_{alike:06d}.parquet" if alike else f"{prefix}.parquet")
    return found


def _mark(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")


def _bounded(run: range, marks: Sequence[int], ends: Sequence[int], target: int) -> list[range]:
    """The run in pieces that keep the bounds, in order; `ends[i]` is the bytes before name i."""
    found = []
    waiting = [run]
    while waiting:
        piece = waiting.pop()
        heavy = ends[piece.stop] - ends[piece.start] > MOST_BYTES
        if len(piece) > 1 and (heavy or len(piece) > MOST_IMAGES * target):
            cut = min(piece[:-1], key=marks.__getitem__) + 1
            waiting += [range(cut, piece.stop), range(piece.start, cut)]
        else:
            found.append(piece)
    return found
