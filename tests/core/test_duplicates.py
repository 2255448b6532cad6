"""Grouping: planted copies are found, strangers are kept apart, and the work does not explode."""

from __future__ import annotations

import hashlib
import io
import time
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from stages.core import duplicates, facts

RNG = np.random.default_rng(5)


def scene(size: int = 96) -> Image.Image:
    """A picture with structure at every scale, as photographs have."""
    layers = np.zeros((size, size, 3))
    for cells, weight in ((4, 0.5), (8, 0.3), (24, 0.2)):
        coarse = Image.fromarray(RNG.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        layers += weight * np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC))
    return Image.fromarray(layers.clip(0, 255).astype(np.uint8))


def measured(image: Image.Image, quality: int = 92) -> facts.Facts:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    data = file.getvalue()
    image_id = hashlib.sha256(data).hexdigest()
    row = {"name": image_id, "label": "x", "given_split": None, "image_id": image_id, "bytes": data}
    return facts.measure(row)


def group(found: list[facts.Facts], max_distance: int = 7, min_side: int = 32) -> list[str]:
    return duplicates.group(found, max_distance=max_distance, min_side=min_side)


def test_planted_pairs_are_found_and_strangers_kept_apart() -> None:
    scenes = [scene() for _ in range(60)]
    originals = [measured(image) for image in scenes]
    assert len(set(group(originals))) == 60
    for change in (
        lambda image: measured(image, quality=40),
        lambda image: measured(image.resize((60, 60))),
        lambda image: measured(image.crop((1, 1, 96, 96))),
        lambda image: measured(image.point(lambda value: min(255, int(value * 1.03)))),
    ):
        planted = [change(image) for image in scenes]
        groups = group(originals + planted)
        found = sum(one == other for one, other in zip(groups[:60], groups[60:], strict=True))
        assert found >= 57  # recall 0.95
        assert len(set(groups)) >= 60


def test_group_is_the_smallest_id_and_transitive() -> None:
    base = measured(scene())
    bits = int(base.dhash or "0", 16)
    chain = [
        replace(base, image_id=image_id, dhash=f"{bits ^ flipped:016x}")
        for image_id, flipped in (("c", 0), ("a", 0x7F), ("b", 0x3FFF))  # 0, 7 and 14 bits from the first
    ]
    assert group(chain) == ["a", "a", "a"]
    assert group([chain[0], chain[2]]) == ["c", "b"]  # without the one between, too far apart


def test_every_distance_is_kept_exactly() -> None:
    """The lookup by bands must lose no pair: compared with looking at all pairs."""
    base = measured(scene())
    start = int(base.dhash or "0", 16)
    found = []
    for number in range(300):
        flips = RNG.choice(64, RNG.integers(0, 12), replace=False)
        bits = start
        for bit in flips.tolist():
            bits ^= 1 << bit
        found.append(replace(base, image_id=f"{number:03}", dhash=f"{bits:016x}"))
    for distance in (0, 2, 3, 4, 7):
        parent = list(range(300))
        hashes = [int(fact.dhash or "0", 16) for fact in found]
        for one in range(300):
            for other in range(one):
                if (hashes[one] ^ hashes[other]).bit_count() <= distance:
                    low, high = sorted((parent[one], parent[other]))
                    parent = [low if up == high else up for up in parent]
        assert group(found, distance) == [f"{up:03}" for up in parent]


def test_same_bytes_group_whatever_they_are() -> None:
    broken = replace(measured(scene()), reason="truncated", dhash=None, width=None, contrast=None)
    assert group([broken, replace(broken, name="copy")]) == [broken.image_id] * 2


def test_small_and_flat_images_group_by_bytes_only() -> None:
    small = measured(scene().resize((16, 16)))
    assert group([small, replace(small, image_id="0")]) == [small.image_id, "0"]
    assert group([small, replace(small, image_id="0")], min_side=8) == ["0", "0"]
    flat = measured(Image.new("RGB", (64, 64), (9, 9, 9)))
    assert group([flat, replace(flat, image_id="0")]) == [flat.image_id, "0"]


@pytest.mark.parametrize("change", [{"brightness": 0.9}, {"contrast": 0.45}, {"width": 300}, {"dhash_down": "0" * 16}])
def test_the_same_hash_alone_is_not_enough(change: dict[str, float]) -> None:
    base = replace(measured(scene()), dhash_down="5" * 16)
    assert group([base, replace(base, image_id="0", **change)]) == [base.image_id, "0"]  # type: ignore[arg-type]


def test_order_does_not_matter() -> None:
    scenes = [scene() for _ in range(10)]
    found = [measured(image, quality) for image in scenes for quality in (50, 90)]
    groups = dict(zip((fact.image_id for fact in found), group(found), strict=True))
    shuffled = [found[at] for at in RNG.permutation(20)]
    assert dict(zip((fact.image_id for fact in shuffled), group(shuffled), strict=True)) == groups
    assert len(set(groups.values())) == 10


def test_many_images_take_little_time() -> None:
    base = measured(scene())
    hashes = RNG.integers(0, 2**63, 20_000).tolist()
    found = [replace(base, image_id=f"{at:05}", dhash=f"{bits:016x}") for at, bits in enumerate(hashes)]
    start = time.perf_counter()
    assert len(set(group(found))) == 20_000
    assert time.perf_counter() - start < 20  # all pairs would be 200 million


def test_nothing_to_group() -> None:
    assert group([]) == []
