"""How often does drift alarm where there is none, and what does it find?

    python -m benchmarks.drift_false_alarms 200

On the 3,000 photographs of ../shared/data/cats_and_dogs_filtered.zip; says so and ends where they are
not there. False alarms: random halves, and a random set with a tenth of it new; any alarm is false,
and no effect is too small. Detection, at a rate of 0.01 and effects from 0.1: photographs that are
altered, as the new tenth of 3,000 and as a set of its own. Prints tables. 200 rounds: about four minutes
on two cores.
"""

from __future__ import annotations

import hashlib
import io
import math
import sys
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from stages.core import drift, profile
from stages.core.facts import Facts
from stages.core.measurement import Measurement, measure

ARCHIVE = Path("../shared/data/cats_and_dogs_filtered.zip")
POOL = 1000  # photographs that are also measured altered
RATES = (0.01, 0.05)
EFFECT = 0.1
CHUNK = 25


def brighter(factor: float, red: float = 1.0, blue: float = 1.0) -> Callable[[Image.Image], Image.Image]:
    """Multiplies all channels, and red and blue once more."""

    def alter(image: Image.Image) -> Image.Image:
        factors = factor * np.array([red, 1.0, blue])
        return Image.fromarray(np.clip(np.asarray(image) * factors + 0.5, 0, 255).astype(np.uint8))

    return alter


LOOKS = {
    "brightness -5 %": brighter(0.95),
    "brightness -10 %": brighter(0.9),
    "brightness -20 %": brighter(0.8),
    "brightness -30 %": brighter(0.7),
    "camera: darker by 10 %, warmer": brighter(0.9, red=1.08, blue=0.92),
}
AS_PNG = "a tenth re-encoded as PNG"
MIX = "classes 60:40"


def fact(name: str, image_id: str, measured: Measurement) -> Facts:
    """Facts of a photograph; the folder is its class."""
    return Facts(name, PurePosixPath(name).parent.name, None, image_id, measured)


def plain(files: list[tuple[str, bytes]]) -> list[Facts]:
    """Photographs as they are."""
    measured = measure([data for _, data in files])
    return [fact(name, hashlib.sha256(data).hexdigest(), m) for (name, data), m in zip(files, measured, strict=True)]


def altered(files: list[tuple[str, bytes]]) -> list[dict[str, Facts]]:
    """Each photograph in every alteration. In LOOKS size and format stay what they were: only the look drifts."""
    before = plain(files)
    found: list[dict[str, Facts]] = [{} for _ in files]
    for kind in (*LOOKS, AS_PNG):
        encoded = []
        for _, data in files:
            image = Image.open(io.BytesIO(data)).convert("RGB")
            out = io.BytesIO()
            if kind == AS_PNG:
                image.save(out, "PNG")
            else:
                LOOKS[kind](image).save(out, "BMP")
            encoded.append(out.getvalue())
        for row, (old, new) in enumerate(zip(before, measure(encoded), strict=True)):
            kept = old.measured
            if kind != AS_PNG:
                new = replace(new, size_bytes=kept.size_bytes, format=kept.format, mode=kept.mode)
            image_id = hashlib.sha256(f"{kind} {old.image_id}".encode()).hexdigest()
            found[row][kind] = replace(old, image_id=image_id, measured=new)
    return found


def photographs() -> tuple[list[Facts], list[dict[str, Facts]]]:
    """All photographs, the pool first, and the pool altered."""
    with zipfile.ZipFile(ARCHIVE) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".jpg"))
        order = np.random.default_rng(0).permutation(len(names))
        files = [(names[at], archive.read(names[at])) for at in order]
    chunks = [files[at : at + CHUNK] for at in range(0, len(files), CHUNK)]
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as workers:
        facts = [entry for chunk in workers.map(plain, chunks) for entry in chunk]
        others = [entry for chunk in workers.map(altered, chunks[: POOL // CHUNK]) for entry in chunk]
    return facts, others


def profiled(facts: Sequence[Facts]) -> dict[str, Any]:
    """A profile. Every photograph is its own group: the set has few copies."""
    return profile.profile(facts, [entry.image_id for entry in facts], [None] * len(facts))


def alarms(before: dict[str, Any], after: dict[str, Any], rate: float, effect: float) -> list[str]:
    """The quantities that alarm."""
    found = drift.compare(before, after, false_alarm_rate=rate, min_effect=effect)
    return [entry.quantity for entry in found if entry.drifted]


def wilson(hits: int, rounds: int) -> str:
    """A share and its 95 % interval (Wilson 1927)."""
    z, share = 1.96, hits / rounds
    middle = (share + z**2 / (2 * rounds)) / (1 + z**2 / rounds)
    half = z * math.sqrt(share * (1 - share) / rounds + z**2 / (4 * rounds**2)) / (1 + z**2 / rounds)
    return f"{share:.3f} ({max(0.0, middle - half):.3f} to {min(1.0, middle + half):.3f})"


def say(line: str = "") -> None:
    """A line on standard output, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def false_alarms(facts: list[Facts], rounds: int) -> None:
    """The first table."""
    generator = np.random.default_rng(1)
    hits: Counter[tuple[str, float]] = Counter()
    for _ in range(rounds):
        drawn = [facts[at] for at in generator.permutation(len(facts))]
        half = len(drawn) // 2
        halves = profiled(drawn[:half]), profiled(drawn[half:])
        grown = profiled(drawn[: -len(drawn) // 10]), profiled(drawn)
        for rate in RATES:
            hits["halves", rate] += bool(alarms(*halves, rate, 0.0))
            hits["a tenth new", rate] += bool(alarms(*grown, rate, 0.0))
    say(f"Any false alarm among {drift.QUANTITIES} quantities, {rounds} rounds, 95 % interval")
    say(f"{'':32}" + "".join(f"{f'rate {rate:g}':>26}" for rate in RATES))
    for name in ("halves", "a tenth new"):
        say(f"{name:32}" + "".join(f"{wilson(hits[name, rate], rounds):>26}" for rate in RATES))


def detection(facts: list[Facts], others: list[dict[str, Facts]], rounds: int) -> None:
    """The second table."""
    generator = np.random.default_rng(2)
    pool, rest = facts[:POOL], facts[POOL:]
    hits: Counter[tuple[str, str]] = Counter()
    by: dict[str, Counter[str]] = {}
    for _ in range(rounds):
        order = generator.permutation(POOL).tolist()
        cats = [at for at in order if pool[at].label == "cats"]
        dogs = [at for at in order if pool[at].label == "dogs"]
        own = [rest[at] for at in generator.permutation(len(rest))[:1500]]
        for kind in ("nothing", *LOOKS, AS_PNG, MIX):
            for design, size in (("a tenth new", 300), ("a set of its own", 750)):
                chosen = cats[: size * 6 // 10] + dogs[: size * 4 // 10] if kind == MIX else order[:size]
                new = [pool[at] for at in chosen]
                if kind in LOOKS:
                    new = [others[at][kind] for at in chosen]
                elif kind == AS_PNG:
                    new[: size // 10] = [others[at][kind] for at in chosen[: size // 10]]
                taken = set(chosen)
                old = [*rest, *(pool[at] for at in order if at not in taken)]
                before, after = (old, old + new) if design == "a tenth new" else (own, new)
                found = alarms(profiled(before), profiled(after), RATES[0], EFFECT)
                hits[kind, design] += bool(found)
                by.setdefault(kind, Counter()).update(found)
    say()
    say(f"Found at rate {RATES[0]:g} with an effect of {EFFECT:g} or more, {rounds} rounds, and what alarmed most")
    say(f"{'':32}{'a tenth of 3,000 new':>26}{'1,500 against 750':>26}")
    for kind, quantities in by.items():
        most = ", ".join(f"{name} {count}" for name, count in quantities.most_common(4))
        shares = (wilson(hits[kind, design], rounds) for design in ("a tenth new", "a set of its own"))
        say(f"{kind:32}" + "".join(f"{share:>26}" for share in shares) + f"  {most}")


def main(rounds: int) -> None:
    """Measure, and print both tables; a quarter of the rounds for detection."""
    if not ARCHIVE.exists():
        say(f"{ARCHIVE} is not here: nothing measured")
        return
    facts, others = photographs()
    say(f"{len(facts)} photographs measured, {len(others)} of them in {len(LOOKS) + 1} alterations")
    false_alarms(facts, rounds)
    detection(facts, others, max(1, rounds // 4))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
