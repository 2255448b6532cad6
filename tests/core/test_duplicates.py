"""Grouping: planted copies are found, strangers are kept apart, and the work does not explode."""

from __future__ import annotations

import functools
import hashlib
import io
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stages.core import duplicates
from stages.core.duplicates import TABLES, WINDOW
from stages.core.facts import Facts
from stages.core.measurement import ZOOMS, measure

SIDE = 120  # pixels of a scene


@functools.cache
def scene(seed: int, size: int = SIDE) -> Image.Image:
    """A picture with structure at every scale, as photographs have."""
    rng = np.random.default_rng(seed)
    layers = np.zeros((size, size, 3))
    for cells, weight in ((4, 0.5), (8, 0.3), (24, 0.2)):
        coarse = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        layers += weight * np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC))
    return Image.fromarray(layers.clip(0, 255).astype(np.uint8))


def fact(image: Image.Image, format: str = "JPEG", quality: int = 92) -> Facts:
    file = io.BytesIO()
    image.save(file, format, quality=quality)
    (measured,) = measure([file.getvalue()])
    image_id = hashlib.sha256(file.getvalue()).hexdigest()
    return Facts(image_id, "x", None, image_id, measured)


def changed(base: Facts, image_id: str, **figures: Any) -> Facts:
    return replace(base, name=image_id, image_id=image_id, measured=replace(base.measured, **figures))


def stranger(base: Facts, image_id: str, rng: random.Random) -> Facts:
    """A picture that resembles no other, made without drawing it."""
    coefficients = rng.randbytes(64 * len(ZOOMS))
    return changed(base, image_id, hashes=tuple(rng.getrandbits(63) for _ in ZOOMS), shapes=coefficients)


def group(found: Sequence[Facts], max_distance: int = 12, min_side: int = 32) -> list[str]:
    return duplicates.group(found, max_distance=max_distance, min_side=min_side)


def pairs(found: Sequence[Facts], max_distance: int = 12) -> set[tuple[str, str]]:
    """The related images, as ids."""
    related = set()
    for first, second in duplicates.near_pairs(found, max_distance):
        for one, other in zip(first.tolist(), second.tolist(), strict=True):
            low, high = sorted((found[one].image_id, found[other].image_id))
            related.add((low, high))
    return related


def noisy(image: Image.Image) -> Image.Image:
    grain = np.random.default_rng(1).normal(0, 8, (*image.size[::-1], 3))
    return Image.fromarray((np.asarray(image) + grain).clip(0, 255).astype(np.uint8))


CHANGES: dict[str, Callable[[Image.Image], Facts]] = {
    "recompressed": lambda image: fact(image, quality=30),
    "another format": lambda image: fact(image, "WEBP"),
    "smaller": lambda image: fact(image.resize((50, 50))),
    "larger": lambda image: fact(image.resize((400, 400), Image.Resampling.BICUBIC)),
    "brighter": lambda image: fact(image.point(lambda value: min(255, int(value * 1.1)))),
    "paler": lambda image: fact(image.point(lambda value: 26 + int(value * 0.8))),
    "grey": lambda image: fact(image.convert("L")),
    "noisy": lambda image: fact(noisy(image)),
    "a little stretched": lambda image: fact(image.resize((SIDE, SIDE - 8))),
    "without 2 % of each side": lambda image: fact(image.crop((2, 2, SIDE - 2, SIDE - 2))),
    "without 5 % of each side": lambda image: fact(image.crop((6, 6, SIDE - 6, SIDE - 6))),
    "without 5 % of one side": lambda image: fact(image.crop((6, 0, SIDE, SIDE))),
    # A hand moves by 2 % between two frames of a burst, the light by 3 %, and each has noise of its own.
    "next of a burst": lambda image: fact(
        noisy(image.crop((3, 2, SIDE, SIDE)).point(lambda value: min(255, int(value * 1.03))))
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_planted_copies_are_found_and_strangers_kept_apart(change: str) -> None:
    originals = [fact(scene(seed)) for seed in range(60)]
    assert len(set(group(originals))) == 60
    planted = [CHANGES[change](scene(seed)) for seed in range(60)]
    groups = group(originals + planted)
    found = sum(one == other for one, other in zip(groups[:60], groups[60:], strict=True))
    assert found >= 57  # recall 0.95
    assert len(set(groups)) >= 60  # no two scenes are glued together


def test_fine_patterns_are_no_copies_of_each_other() -> None:
    """Stripes and dots that average out to grey: the low frequencies, all that a hash sees, say nothing."""
    y, x = np.mgrid[:96, :96]
    patterns = [x % 3 == 0, y % 3 == 0, (x + y) % 3 == 0, (x % 3 == 1) & (y % 3 == 1), x % 2 == 0, (x + y) % 2 == 0]
    found = [fact(Image.fromarray(np.where(pattern, 255, 0).astype(np.uint8)), "PNG") for pattern in patterns]
    assert len(set(group(found))) == len(patterns)


def test_group_is_the_smallest_id_and_transitive() -> None:
    base = fact(scene(0))
    bits = base.measured.hashes[0] if base.measured.hashes else 0
    chain = [
        changed(base, image_id, hashes=(bits ^ flipped,) * len(ZOOMS))
        for image_id, flipped in (("c", 0), ("a", 0x7F), ("b", 0x3FFF))  # 0, 7 and 14 bits from the first
    ]
    assert group(chain, max_distance=7) == ["a", "a", "a"]
    assert group([chain[0], chain[2]], max_distance=7) == ["c", "b"]  # without the one between, too far apart
    assert group(chain[::-1], max_distance=7) == ["a", "a", "a"]


@pytest.mark.parametrize("distance", [0, 4, 8, 12, 16])
def test_hashes_further_apart_are_never_related_and_near_ones_hardly_ever_missed(distance: int) -> None:
    """Compared with looking at all pairs, on hashes alone."""
    base, rng = fact(scene(0)), random.Random(distance)
    found, hashes = [], []
    for number in range(150):
        # Two of a kind, some bits apart; kinds are strangers.
        bits = rng.getrandbits(63) if number % 2 == 0 else hashes[-1]
        for bit in rng.sample(range(63), rng.randrange(distance + 4) if number % 2 else 0):
            bits ^= 1 << bit
        hashes.append(bits)
        found.append(changed(base, f"{number:03}", hashes=(bits,) * len(ZOOMS)))
    near = {
        (f"{other:03}", f"{one:03}")
        for one in range(150)
        for other in range(one)
        if (hashes[one] ^ hashes[other]).bit_count() <= distance
    }
    related = pairs(found, distance)
    assert related <= near

    def share(bits: int) -> float:
        """Of the pairs at most so many bits apart, how many are found."""
        some = [pair for pair in near if (hashes[int(pair[0])] ^ hashes[int(pair[1])]).bit_count() <= bits]
        return len(related.intersection(some)) / len(some)

    assert share(8) == 1.0
    assert share(12) >= 0.9
    assert share(16) >= 0.7


def test_same_bytes_group_whatever_they_are() -> None:
    broken = fact(scene(0))
    measured = replace(broken.measured, reason="truncated", hashes=None, shapes=None, width=None, height=None)
    broken = replace(broken, measured=replace(measured, contrast=None, layout=None))
    assert group([broken, replace(broken, name="copy", label="y")]) == [broken.image_id] * 2
    assert group([broken, changed(broken, "0")]) == [broken.image_id, "0"]


def test_small_and_flat_images_group_by_bytes_only() -> None:
    small = fact(scene(0).resize((16, 16)))
    assert group([small, changed(small, "0")]) == [small.image_id, "0"]
    assert group([small, changed(small, "0")], min_side=8) == ["0", "0"]
    assert group([small, replace(small, name="again")]) == [small.image_id] * 2
    # The shorter side decides.
    low = fact(scene(0).resize((90, 31)))
    assert group([low, changed(low, "0")]) == [low.image_id, "0"]
    flat = fact(Image.new("RGB", (64, 64), (9, 9, 9)))
    assert group([flat, changed(flat, "0")]) == [flat.image_id, "0"]


@pytest.mark.parametrize(
    ("width", "height", "alike"),
    [(120, 120, True), (240, 240, True), (130, 120, True), (120, 130, True), (160, 120, False), (120, 160, False)],
)
def test_the_shapes_must_agree(width: int, height: int, alike: bool) -> None:
    base = fact(scene(0))
    assert (len(set(group([base, changed(base, "0", width=width, height=height)]))) == 1) is alike


def test_the_same_hash_alone_is_not_enough() -> None:
    base, stranger = fact(scene(0)), fact(scene(1))
    assert group([base, changed(base, "0", shapes=stranger.measured.shapes)]) == [base.image_id, "0"]


def test_the_same_pattern_in_other_colours_is_another_picture() -> None:
    """A hash sees grey alone."""
    rng = np.random.default_rng(6)
    for _ in range(10):
        pattern = np.asarray(Image.fromarray(rng.integers(60, 190, (8, 8), dtype=np.uint8)).resize((SIDE, SIDE)))
        orange, blue = np.array([70, -12, -112]), np.array([-70, 10, 130])  # next to no luma
        found = [fact(Image.fromarray((pattern[..., None] + c).clip(0, 255).astype(np.uint8))) for c in (orange, blue)]
        assert len(set(group(found))) == 2
        assert len(set(group([*found, fact(Image.fromarray(pattern))]))) < 3  # a grey one may be a copy of either


def test_order_does_not_matter() -> None:
    found = [fact(scene(seed), quality=quality) for seed in range(15) for quality in (50, 70, 90)]
    groups = dict(zip((one.image_id for one in found), group(found), strict=True))
    assert len(set(groups.values())) == 15
    for seed in range(5):
        shuffled = random.Random(seed).sample(found, len(found))
        assert dict(zip((one.image_id for one in shuffled), group(shuffled), strict=True)) == groups


def test_the_relation_of_two_images_does_not_depend_on_the_others() -> None:
    """Or a group, and with it a split, would change when an unrelated picture is added."""
    found = [change(scene(seed)) for seed in range(12) for change in
             list(CHANGES.values())[seed % 3 :: 3]]  # fmt: skip
    whole = pairs(found)
    assert len(whole) > 40
    rng = random.Random(2)
    for size in (2, 5, 20, 40):
        for _ in range(20):
            some = rng.sample(found, size)
            ids = {one.image_id for one in some}
            assert pairs(some) == {pair for pair in whole if set(pair) <= ids}


def test_a_copy_is_found_among_many_strangers() -> None:
    base = fact(scene(0))
    rng = random.Random(3)
    crowd = [stranger(base, f"{number:064x}", rng) for number in range(5000)]
    copies = [fact(scene(7), quality=quality) for quality in (40, 90)]
    groups = group([*crowd, *copies])
    assert groups[-1] == groups[-2]
    assert groups[:-2] == [one.image_id for one in crowd]


def test_many_images_take_little_time() -> None:
    base, rng = fact(scene(0)), random.Random(4)
    found = [stranger(base, f"{at:05}", rng) for at in range(20_000)]
    start = time.perf_counter()
    assert len(set(group(found))) == 20_000
    assert time.perf_counter() - start < 60  # all pairs would be 200 million


def test_a_thousand_frames_of_one_scene_are_one_group_in_linear_work() -> None:
    base = fact(scene(0))
    hashes = base.measured.hashes or ()
    rng = random.Random(5)

    def frames(count: int) -> list[Facts]:
        return [
            changed(base, f"{number:04}", hashes=tuple(bits ^ 1 << rng.randrange(63) for bits in hashes))
            for number in range(count)
        ]

    def compared(count: int) -> int:
        return sum(len(first) for first, _ in duplicates.near_pairs(frames(count), 12))

    assert set(group(frames(1000))) == {"0000"}
    assert compared(1000) < 1000 * len(ZOOMS) * TABLES * WINDOW
    assert compared(1000) < 2.2 * compared(500)


def test_nothing_to_group() -> None:
    assert group([]) == []
    alone = fact(scene(0))
    assert group([alone]) == [alone.image_id]
    assert group([alone], max_distance=0) == [alone.image_id]
