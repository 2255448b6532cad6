"""How many near duplicates are found, how many of the found are right, and what does the search cost?

    python -m benchmarks.near_duplicates

On the 3,000 photographs of ../shared/data/cats_and_dogs_filtered.zip; says so and ends where they are not there.
Beside each photograph one copy: resized, recompressed, with 5 % of each side cut off at a random place, with 5 %
cut off at every edge, or two of the first three at once, 600 of each. A pair is right where both are of one photograph;
train/dogs/dog.74.jpg and dog.180.jpg are one, too: two shots of one scene, told by eye. graft groups at validate's
defaults. Beside it, where `pip install imagededup` was done, that package's PHash at its own threshold of 10 bits.

Then the search for pairs alone, over hashes that are the same for both: the photographs', and others that differ
from one of theirs in 20-32 random bits. In turn, three rounds, medians; one round where imagededup takes more
than a minute. Last graft alone on 100,000, in a process of its own, with its peak memory. Prints two tables. A minute
of two cores, ten with imagededup.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import resource
import statistics
import subprocess
import sys
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image

from benchmarks import fault_set
from benchmarks.fault_set import Row
from stages.core import duplicates, images
from stages.core.facts import Facts
from stages.core.measurement import Measurement, measure
from stages.store.isolation import Lost, map_isolated
from stages.validate import ValidateParams

ROUNDS = 3
PATIENCE = 60.0  # seconds; what takes longer is timed once
SIZES = (3_000, 10_000, 30_000)
LARGEST = 100_000
THEIR_DISTANCE = 10  # bits; imagededup's default
SAME_SCENE = ("train/dogs/dog.180.jpg", "train/dogs/dog.74.jpg")
KINDS = ("resized", "recompressed", "cropped at random", "cropped at every edge", "two at once")

Pair = tuple[str, str]  # names, the smaller first


def trimmed(image: Image.Image, generator: np.random.Generator) -> bytes:
    """5 % of each side cut off: 2.5 % at either end."""
    across, down = round(image.width * 0.025), round(image.height * 0.025)
    return fault_set.encode(image.crop((across, down, image.width - across, image.height - down)))


def twice(image: Image.Image, generator: np.random.Generator) -> bytes:
    """Two different ones of the first three, in random order."""
    changes = (fault_set.resized, fault_set.recompressed, fault_set.cropped)
    for at in generator.permutation(3)[:2].tolist():
        data = changes[at](image, generator)
        image = Image.open(io.BytesIO(data)).convert("RGB")
    return data


COPIERS = dict(zip(KINDS, (fault_set.resized, fault_set.recompressed, fault_set.cropped, trimmed, twice), strict=True))


def planted(rows: Sequence[Row], seed: int) -> tuple[list[Row], dict[str, list[Pair]]]:
    """The photographs and a copy of each, and the pairs by kind."""
    generator = np.random.default_rng(seed)
    copies: list[Row] = []
    pairs: dict[str, list[Pair]] = {kind: [] for kind in KINDS}
    for number, at in enumerate(generator.permutation(len(rows)).tolist()):
        kind = KINDS[number % len(KINDS)]
        image = Image.open(io.BytesIO(rows[at].data)).convert("RGB")
        path = PurePosixPath(rows[at].name)
        name = str(path.with_name(f"{path.stem} copy.jpg"))
        copies.append(replace(rows[at], name=name, data=COPIERS[kind](image, generator)))
        pairs[kind].append(pair(rows[at].name, name))
    return [*rows, *copies], pairs


def pair(one: str, other: str) -> Pair:
    """Two names in order."""
    return (one, other) if one < other else (other, one)


def measured(rows: Sequence[Row]) -> list[Facts]:
    """The facts of every row, measured as validate does."""
    defaults = ValidateParams()
    found = map_isolated(
        measure, (row.data for row in rows),
        workers=2, cpu_seconds=defaults.decode_seconds, memory_bytes=defaults.decode_megabytes * 2**20,
    )  # fmt: skip
    return [fact(row.name, row.label, row.given_split, row.data, m) for row, m in zip(rows, found, strict=True)]


def fact(name: str, label: str, split: str | None, data: bytes, found: Measurement | Lost) -> Facts:
    """Facts of a file that decodes."""
    assert isinstance(found, Measurement), found
    return Facts(name, label, split, hashlib.sha256(data).hexdigest(), found)


def group(facts: Sequence[Facts]) -> list[str]:
    """graft's groups at validate's defaults."""
    defaults = ValidateParams()
    return duplicates.group(
        facts, max_distance=defaults.near_duplicate_distance, min_side=defaults.near_duplicate_min_side
    )


def pairs_within(names: Sequence[str], groups: Sequence[str]) -> set[Pair]:
    """Every two names of one group."""
    members = defaultdict(list)
    for name, key in zip(names, groups, strict=True):
        members[key].append(name)
    return {pair(*two) for within in members.values() for two in combinations(within, 2)}


def joined(names: Sequence[str], pairs: set[Pair]) -> list[str]:
    """The groups that pairs make when they are followed from one to the next."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    at = {name: number for number, name in enumerate(names)}
    ends = np.array([(at[one], at[other]) for one, other in sorted(pairs)]).reshape(-1, 2).T
    graph = coo_array((np.ones(ends.shape[1]), (ends[0], ends[1])), shape=(len(names), len(names)))
    return [str(label) for label in connected_components(graph, directed=False)[1]]


def picture(name: str) -> str:
    """The photograph that a name is a version of."""
    original = name.replace(" copy", "")
    return SAME_SCENE[0] if original in SAME_SCENE else original


def their_hasher() -> Any | None:
    """imagededup's PHash; None where it is not installed."""
    # The package imports its neural network and its plots, and with them torch and matplotlib, beside everything
    # else. Hashing uses neither, so empty modules stand for them.
    for name in ("methods.cnn", "utils.models", "utils.plotter"):
        sys.modules[f"imagededup.{name}"] = _Empty(name)
    try:
        from imagededup.methods import PHash
    except ImportError as error:
        say(f"imagededup is not installed ({error}): graft alone. pip install imagededup")
        return None
    # It logs every search, verbose or not.
    logging.disable(logging.INFO)
    warnings.filterwarnings("ignore", "Parameter num_enc_workers", RuntimeWarning)
    return PHash(verbose=False)


class _Empty(ModuleType):
    """A module in which every name is None."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


def their_pairs(hasher: Any, encodings: Mapping[str, str]) -> set[Pair]:
    """What find_duplicates lists, with its default search and its default number of processes."""
    found = hasher.find_duplicates(encoding_map=dict(encodings), max_distance_threshold=THEIR_DISTANCE)
    return {pair(name, other) for name, others in found.items() for other in others}


def quality(rows: Sequence[Row], facts: Sequence[Facts], pairs: Mapping[str, list[Pair]], hasher: Any | None) -> None:
    """The first table."""
    names = [row.name for row in rows]
    results = {"graft": pairs_within(names, group(facts))}
    if hasher:
        encodings = {row.name: hasher.encode_image(image_array=images.decode(row.data)) for row in rows}
        listed = their_pairs(hasher, encodings)
        results |= {
            "imagededup, as listed": listed,
            "imagededup, as groups": pairs_within(names, joined(names, listed)),
        }
    say(f"{'share found':28}" + "".join(f"{name:>24}" for name in results))
    for kind in KINDS:
        shares = [f"{sum(p in found for p in pairs[kind]) / len(pairs[kind]):.4f}" for found in results.values()]
        say(f"{f'{kind} ({len(pairs[kind])})':28}" + "".join(f"{share:>24}" for share in shares))
    every = [p for kind in KINDS for p in pairs[kind]]
    row = "".join(f"{sum(p in found for p in every) / len(every):>24.4f}" for found in results.values())
    say(f"{f'all ({len(every)})':28}{row}")
    right = {name: sum(picture(a) == picture(b) for a, b in found) for name, found in results.items()}
    say(f"{'pairs found':28}" + "".join(f"{len(found):>24}" for found in results.values()))
    say(f"{'wrong ones':28}" + "".join(f"{len(found) - right[name]:>24}" for name, found in results.items()))
    shares = [right[name] / max(1, len(found)) for name, found in results.items()]
    say(f"{'precision':28}" + "".join(f"{share:>24.4f}" for share in shares))
    strangers = [two for two in results["graft"] if picture(two[0]) != picture(two[1])]
    for two in sorted(strangers)[:10]:
        say(f"graft, wrong: {two[0]} and {two[1]}")
    missed = Counter(kind for kind in KINDS for p in pairs[kind] if p not in results["graft"])
    say(f"graft, missed: {', '.join(f'{kind} {count}' for kind, count in missed.items()) or 'none'}")


def multiplied(facts: Sequence[Facts], count: int, seed: int) -> list[Facts]:
    """`count` facts: the given ones, then others whose hashes are 20-32 random bits from one of theirs."""
    generator = np.random.default_rng(seed)
    made = list(facts[:count])
    for number in range(len(made), count):
        origin = facts[number % len(facts)]
        flipped = generator.permutation(duplicates.BITS - 1)[: generator.integers(20, 33)]
        mask = sum(1 << int(bit) for bit in flipped)
        assert origin.measured.hashes is not None
        hashes = tuple(value ^ mask for value in origin.measured.hashes)
        image_id = hashlib.sha256(f"{number} {origin.image_id}".encode()).hexdigest()
        path = PurePosixPath(origin.name)
        name = str(path.with_name(f"{path.stem}-{number}{path.suffix}"))
        made.append(replace(origin, name=name, image_id=image_id, measured=replace(origin.measured, hashes=hashes)))
    return made


def seconds(action: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def cost(facts: Sequence[Facts], hasher: Any | None) -> None:
    """The second table."""
    say(f"{'search, images':28}{'graft, s':>12}{'imagededup, s':>16}{'graft / imagededup':>22}")
    ours: dict[int, float] = {}
    for count in SIZES:
        some = multiplied(facts, count, 1)
        encodings = {entry.name: f"{entry.measured.hashes[0]:016x}" for entry in some if entry.measured.hashes}
        taken: list[tuple[float, float]] = []
        for _ in range(ROUNDS):
            own = seconds(lambda some=some: group(some))  # type: ignore[misc]
            other = float("nan")
            if hasher:
                other = seconds(lambda encodings=encodings: their_pairs(hasher, encodings))  # type: ignore[misc]
            taken.append((own, other))
            if other > PATIENCE:
                break
        ours[count] = statistics.median(own for own, _ in taken)
        other = statistics.median(other for _, other in taken)
        ratio = statistics.median(own / other for own, other in taken)
        theirs = f"{other:>16.2f}{ratio:>22.4f}" if hasher else f"{'-':>16}{'-':>22}"
        say(f"{count:<28,}{ours[count]:>12.2f}{theirs}")
    found = subprocess.run(
        [sys.executable, "-m", "benchmarks.near_duplicates", "--alone", str(LARGEST)],
        check=True, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    took, before, peak = map(float, found.stdout.split())
    say(f"{LARGEST:<28,}{took:>12.2f}   peak memory {peak:,.0f} MB, {before:,.0f} MB of it before the search")
    growth = took / ours[10_000]
    say(f"10,000 to {LARGEST:,}: {growth:.1f} times the time for 10 times the images; quadratic would be 100")


def alone(count: int) -> None:
    """Prints seconds (median of three), and the process's peak memory before and after, MB."""
    some = multiplied(measured(fault_set.photographs()), count, 1)
    before = _peak()
    took = statistics.median(seconds(lambda: group(some)) for _ in range(ROUNDS))
    say(f"{took} {before} {_peak()}")


def _peak() -> float:
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, kB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def say(line: str = "") -> None:
    """A line on standard output, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    """Measure, and print both tables."""
    if not Path(fault_set.ARCHIVE).exists():
        say(f"{fault_set.ARCHIVE} is not here: nothing measured")
        return
    rows, pairs = planted(fault_set.photographs(), 1)
    facts = measured(rows)
    hasher = their_hasher()
    quality(rows, facts, pairs, hasher)
    say()
    cost(facts[: len(rows) // 2], hasher)
    say(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--alone"]:
        alone(int(sys.argv[2]))
    else:
        main()
