"""What does validate cost beside decoding, beside doing it all again, and for 100,000 images?

    python -m benchmarks.validation_speed decoding      # facts against bare decoding, images a second
    python -m benchmarks.validation_speed growing       # 1 % of new images against all
    python -m benchmarks.validation_speed large         # 100,000 images: time, memory, size of the page

Without a word: all three, about six minutes of two cores. On the 3,000 photographs of
../shared/data/cats_and_dogs_filtered.zip; says so and ends where they are not there.

decoding  `measure` against `images.decode` alone, which ends in an array, and against what Pillow needs for the
          pixels, which is the least there can be; in turn, three rounds; with two workers, and in one process
          without any; also on 30 pictures of 12 megapixels, photographs enlarged and given a grain.
growing   `measurements.of_shards` with no memo against one that knows 99 % of the photographs, in turn, three
          rounds; and the same for the stage as a process.
large     100,000 facts from the photographs' own, with layouts jittered by a few grey levels and hashes 20-32 bits
          off; then everything that follows measuring, in a process of its own: groups, neighbours, quarantine,
          tables, Great Expectations, the page with the photographs' own thumbnails.

Times on a machine that does other things are read as ratios: medians of the rounds' own.
"""

from __future__ import annotations

import functools
import io
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

# More is imported where it is needed: a worker that is to decode alone imports this module, too.
from stages.core import images

ROUNDS = 3
MEGAPIXELS = (4000, 3000)
LARGE_PICTURES = 30
NEW = 0.01  # share of the images
LARGEST = 100_000
PROCESSOR_SECONDS, MEMORY = 20.0, 2**30  # what one image may take, as validate's defaults


def decode_only(files: Sequence[bytes]) -> list[None]:
    """The decoder alone, a chunk at a time as `measure` is called."""
    for data in files:
        images.decode(data)
    return [None] * len(files)


def load_only(files: Sequence[bytes]) -> list[None]:
    """Pillow's decoding alone: not even an array is made of the pixels."""
    for data in files:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
    return [None] * len(files)


def seconds(action: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def in_turn(actions: Sequence[Callable[[], object]]) -> list[list[float]]:
    """Seconds of each action, one list a round."""
    rounds = []
    for number in range(ROUNDS):
        # Another one goes first each time, because the later ones find warmer caches.
        order = [(number + step) % len(actions) for step in range(len(actions))]
        taken = {at: seconds(actions[at]) for at in order}
        rounds.append([taken[at] for at in range(len(actions))])
    return rounds


def decoding() -> None:
    """The first table."""
    from benchmarks import fault_set, validation_speed
    from stages.core.measurement import measure
    from stages.store.isolation import map_isolated

    # By their module's name: a worker cannot import what belongs to __main__.
    functions = (validation_speed.load_only, validation_speed.decode_only, measure)
    photographs = [row.data for row in fault_set.photographs()]

    def workers(function: Callable[[list[bytes]], list[Any]], files: Sequence[bytes]) -> None:
        found = map_isolated(function, iter(files), workers=2, cpu_seconds=PROCESSOR_SECONDS, memory_bytes=MEMORY)
        assert sum(1 for _ in found) == len(files)

    def here(function: Callable[[list[bytes]], list[Any]], files: Sequence[bytes]) -> None:
        for at in range(0, len(files), 64):
            function(list(files[at : at + 64]))

    say(f"{'images a second':36}{'Pillow':>9}{'decode':>9}{'facts':>9}{'facts / Pillow':>16}{'facts / decode':>16}")
    for what in ("photographs", "12 megapixels"):
        # Made only now: an allocator that has seen large pictures freed is faster with small ones ever after.
        files = photographs if what == "photographs" else enlarged(photographs[::100])
        for how, run in (("two workers", workers), ("one process", here)):
            rounds = in_turn([functools.partial(run, function, files) for function in functions])
            speeds = [len(files) / statistics.median(times) for times in zip(*rounds, strict=True)]
            ratios = [statistics.median(times[at] / times[2] for times in rounds) for at in (0, 1)]
            row = "".join(f"{speed:>9.1f}" for speed in speeds) + "".join(f"{ratio:>16.3f}" for ratio in ratios)
            say(f"{f'{len(files):,} {what}, {how}':36}{row}")


def enlarged(files: Sequence[bytes]) -> list[bytes]:
    """Photographs at MEGAPIXELS, with a grain: without one they would decode faster than a camera's do."""
    from benchmarks.fault_set import encode

    width, height = MEGAPIXELS
    grain = np.random.default_rng(0).normal(0, 6, (height, width, 1)).astype(np.int16)
    made = []
    for number, data in enumerate(files[:LARGE_PICTURES]):
        image = Image.fromarray(images.decode(data)).resize((width, height), Image.Resampling.BICUBIC)
        pixels = np.asarray(image, dtype=np.int16) + np.roll(grain, 997 * number, axis=(0, 1))
        made.append(encode(Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)), quality=88))
    return made


def growing() -> None:
    """The second table."""
    from benchmarks import fault_set, validation_faults
    from stages.store import measurements

    rows = fault_set.photographs()
    order = np.random.default_rng(0).permutation(len(rows)).tolist()
    known = [rows[at] for at in sorted(order[round(NEW * len(rows)) :])]
    limits = measurements.Limits(2, PROCESSOR_SECONDS, MEMORY)
    with tempfile.TemporaryDirectory() as folder:
        root, before = Path(folder) / "all", Path(folder) / "before"
        for where, some in ((root, rows), (before, known)):
            where.mkdir()
            validation_faults.prepare(where, some)
        with inside(before):
            measurements.of_shards(Path("data/download/images"), len(known), limits)

        def facts(memo: bool) -> float:
            with fresh(root, before / ".graft" if memo else None):
                return seconds(lambda: list(measurements.of_shards(Path("data/download/images"), len(rows), limits)))

        def stage(memo: bool) -> float:
            with fresh(root, before / ".graft" if memo else None):
                return seconds(lambda: validation_faults.run_stage(root))

        say(f"{'seconds':36}{'all new':>10}{'1 % new':>10}{'1 % new / all new':>19}")
        for what, run in (("facts of 3,000 photographs", facts), ("the stage, as a process", stage)):
            pairs = [(run(False), run(True)) for _ in range(ROUNDS)]
            cold, warm = (statistics.median(times) for times in zip(*pairs, strict=True))
            ratio = statistics.median(one / other for other, one in pairs)
            say(f"{what:36}{cold:>10.2f}{warm:>10.2f}{ratio:>19.3f}")


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    """The working directory is `folder` for as long."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@contextmanager
def fresh(root: Path, memo: Path | None) -> Iterator[None]:
    """Works in `root` with a memo copied from `memo`, or with none."""
    shutil.rmtree(root / ".graft", ignore_errors=True)
    if memo:
        shutil.copytree(memo, root / ".graft")
    with inside(root):
        yield


def large() -> None:
    """The third table, from a process that does nothing else."""
    command = [sys.executable, "-m", "benchmarks.validation_speed", "after-measuring", str(LARGEST)]
    found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    say(f"{LARGEST:,} images, all that follows measuring")
    for name, value in found.items():
        say(f"{name:36}{value:>10.1f}")


def after_measuring(count: int) -> None:
    """Runs validate's own main with facts that are made up, and prints what it took as JSON."""
    from benchmarks import fault_set, near_duplicates, validation_faults
    from stages import validate
    from stages.core import duplicates, evidence, neighbours, validation_report
    from stages.core.errors import DataRejected
    from stages.store import data_docs, documents, measurements, tables

    rows = fault_set.photographs()
    generator = np.random.default_rng(0)
    facts = []
    for fact in near_duplicates.multiplied(near_duplicates.measured(rows), count, 0):
        assert fact.measured.layout is not None
        moved = np.asarray(fact.measured.layout) + generator.integers(-6, 7, len(fact.measured.layout))
        facts.append(replace(fact, measured=replace(fact.measured, layout=tuple(moved.tolist()))))
    facts.sort(key=lambda fact: fact.name)
    # A made-up image is told from its photograph by name alone: <stem>-<number>.
    by_name = {row.name: row.data for row in rows}

    def drawn(folder: Path, names: Collection[str], limits: Any) -> dict[str, bytes | None]:
        originals = (by_name.get(name) or by_name[name.rpartition("-")[0] + ".jpg"] for name in names)
        return dict(zip(names, images.thumbnails(list(originals)), strict=True))

    took: Counter[str] = Counter()

    def clocked(module: Any, name: str, what: str) -> None:
        function = getattr(module, name)

        def timed(*arguments: Any, **named: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                took[what] += time.perf_counter() - start

        setattr(module, name, timed)

    measurements.of_shards = lambda folder, stored, limits: facts
    measurements.thumbnails = drawn
    clocked(duplicates, "group", "groups, s")
    clocked(neighbours, "nearest", "neighbours, s")
    clocked(evidence, "image_table", "table for the rules, s")
    clocked(tables, "write_rows", "facts.parquet, s")
    clocked(data_docs, "inquire", "Great Expectations and its pages, s")
    clocked(validation_report, "render", "page, s")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        validation_faults.prepare(root, rows[:1])
        dataset = documents.read(root / "data/download/dataset.json")
        labels = sorted({fact.label for fact in facts})
        documents.write(root / "data/download/dataset.json", {**dataset, "classes": labels, "images": count})
        before = _peak()
        with inside(root):
            try:
                total = seconds(validate.main)
            except DataRejected as error:
                raise AssertionError("made-up facts of clean photographs were rejected") from error
        sizes = {path: path.stat().st_size / 1e6 for path in root.rglob("*") if path.is_file()}
        page = root / "reports/validate/index.html"
        documentation = sum(size for path, size in sizes.items() if "data_docs" in path.parts)
        rest = total - sum(took.values())
        say(
            json.dumps(
                {
                    **took, "the rest, s": rest, "all, s": total, "peak memory before, MB": before,
                    "peak memory, MB": _peak(), "index.html, MB": sizes[page], "data_docs, MB": documentation,
                }
            )
        )  # fmt: skip


def _peak() -> float:
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, kB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def say(line: str = "") -> None:
    """A line on standard output, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


TABLES = {"decoding": decoding, "growing": growing, "large": large}


def main(words: Sequence[str]) -> None:
    """Measure, and print the tables asked for."""
    from benchmarks.fault_set import ARCHIVE

    if words[:1] == ["after-measuring"]:
        after_measuring(int(words[1]))
        return
    if not ARCHIVE.exists():
        say(f"{ARCHIVE} is not here: nothing measured")
        return
    for word in words or TABLES:
        TABLES[word]()
        say()
    say(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


if __name__ == "__main__":
    main(sys.argv[1:])
