"""Does any stage need more memory, or more time an image, for ten times as many images?

    python -m benchmarks.memory [--quick]           # 10,000, 30,000 and 100,000 images; quick: 300, 900 and 3,000
    python -m benchmarks.memory --images 2000       # 2,000, 6,000 and 20,000

All seven stages as processes, each size from an empty memo, on drawn pictures of 32 x 32 pixels in class folders,
with the small base that this project pretrained and one epoch of each phase: what is measured is what a stage holds
and does for each image, not the network. The sizes grow in one folder, so that the larger hold the smaller.

Memory    the largest sum, over a stage's process and all its children, of what only they can hold: anonymous and
          shared pages (RssAnon + RssShmem of /proc/<pid>/status), looked at every 50 ms. Pages of mapped files are
          not counted: the system takes them back when it needs them. VmHWM of the stage's own process, which counts
          them, stands beside it. Pages shared by a fork count twice. The figure is the worst stage's peak at 10 n
          over its peak at n.
Time      the worst stage's seconds for each further image between 3 n and 10 n over those between n and 3 n. A stage
          that takes less than 1.5 times its seconds at n and one more for 10 n is its start-up, and is left out.

Needs Linux.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import math
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
from PIL import Image
from ruamel.yaml import YAML

from benchmarks import photographs
from benchmarks.progress import tell

STAGES = ("download", "validate", "split", "feature_extract", "fine_tune", "evaluate", "export")
IMAGES, QUICK_IMAGES = 10_000, 300
SIZES = (1, 3, 10)  # times IMAGES
MEMORY_BOUND, TIME_BOUND = 1.20, 1.15
PERIOD = 0.05  # seconds between two looks at the processes
# A stage below `START_UP[0] x` its seconds at n `+ START_UP[1]` at 10 n has too little to measure beside its start-up.
START_UP = (1.5, 1.0)
LAST_LINES = 30

SIDE = 32  # pixels
CELLS = 8  # a picture is a random grid of CELLS x CELLS colours, enlarged; no two look alike
TINT = 0.4  # share of a picture that is its class's colour
COLOURS = {"blue": (40, 70, 220), "green": (40, 200, 60), "red": (220, 50, 40), "yellow": (220, 210, 40)}
PER_FOLDER = 2000  # files of a class in one sub-folder
WEIGHTS = "pretraining/mobilenet_v2_0.35_96_letters.weights.h5"


class Taken(NamedTuple):
    """What one stage took at one size."""

    seconds: float
    anonymous: int  # bytes, of the whole tree at its peak
    resident: int  # bytes, VmHWM of the stage's own process: with pages of files


Table = Mapping[str, Mapping[int, Taken]]  # by stage, then by the number of images


def measure(quick: bool, images: int | None = None) -> list[dict[str, Any]] | dict[str, Any]:
    """Both figures, or why they were skipped. `images` is the smallest size."""
    if not Path("/proc/self/status").exists():
        return {"skipped": "needs /proc, which tells a process's memory"}
    smallest = images or (QUICK_IMAGES if quick else IMAGES)
    sizes = [times * smallest for times in SIZES]
    load = round(os.getloadavg()[0], 2)
    table: dict[str, dict[int, Taken]] = {stage: {} for stage in STAGES}
    with tempfile.TemporaryDirectory(prefix="graft-memory-") as name:
        folder = Path(name)
        with (folder / "params.yaml").open("w") as file:
            YAML().dump(settings(), file)
        drawn = 0
        for size in sizes:
            draw(folder / "data/images", range(drawn, size))
            drawn = size
            for stage in STAGES:
                table[stage][size] = taken = run(stage, folder)
                tell(f"{size:,} images, {stage}: {taken.anonymous / 1e6:.0f} MB, {taken.seconds:.1f} s")
            _clear(folder)
    return figures(table, sizes, load)


def settings() -> dict[str, Any]:
    """params.yaml of all stages: everything at its smallest, and no rule that drawn pictures could break."""
    digest = hashlib.sha256((photographs.ROOT / WEIGHTS).read_bytes()).hexdigest()
    phase = {"epochs": 1, "learning_rate": 0.001, "batch_size": 32}
    return {
        "download": {"source": "data/images", "watch": "data/images"},
        "validate": {
            "max_imbalance": 100.0,
            "severity": {"bad_files": "warning", "label_conflicts": "warning"},
        },
        "split": {"val_fraction": 0.1, "test_fraction": 0.1},
        "feature_extract": {
            "backbone": "MobileNetV2", "alpha": 0.35, "image_size": SIDE, "views": 1, "cut_at": 100,
            "weights": str(photographs.ROOT / WEIGHTS), "weights_sha256": digest,
        },
        "fine_tune": {"fine_tune_at": 100, "head": phase, "tail": phase, "from_scratch": False},
        "evaluate": {},
        "export": {},
    }  # fmt: skip


def picture(number: int) -> bytes:
    """A PNG of SIDE x SIDE pixels, the same for the same number and unlike any other's."""
    cells = np.random.default_rng(number).integers(0, 256, (CELLS, CELLS, 3), dtype=np.uint8)
    enlarged = Image.fromarray(cells).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    tinted = Image.blend(enlarged, Image.new("RGB", (SIDE, SIDE), COLOURS[label(number)]), TINT)
    file = io.BytesIO()
    tinted.save(file, "PNG", compress_level=1)
    return file.getvalue()


def label(number: int) -> str:
    """The class of a picture, each in turn."""
    return list(COLOURS)[number % len(COLOURS)]


def draw(folder: Path, numbers: Iterable[int]) -> None:
    """Write pictures into class folders."""
    for number in numbers:
        path = folder / label(number) / str(number // (PER_FOLDER * len(COLOURS))) / f"{number:06}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(number))


def run(stage: str, folder: Path) -> Taken:
    """One stage as a process in `folder`. Raises RuntimeError with its last lines where it fails."""
    environment = photographs.environment() | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    with tempfile.TemporaryFile("w+") as said:
        start = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", f"stages.{stage}"],
            cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT,
        )  # fmt: skip
        watch = Watch(process.pid)
        watch.start()
        try:
            code = process.wait()
            seconds = time.perf_counter() - start
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            watch.stop()
        if code:
            said.seek(0)
            lines = said.read().splitlines()[-LAST_LINES:]
            raise RuntimeError("\n".join([f"stages.{stage} ended with {code}:", *lines]))
    return Taken(round(seconds, 3), watch.anonymous, watch.resident)


class Watch(threading.Thread):
    """Looks at a process and its children until told to stop, and keeps the largest it saw."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.anonymous = 0  # bytes
        self.resident = 0  # bytes
        self._pid = pid
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.is_set():
            every = [_status(pid) for pid in self._pids()]
            self.anonymous = max(self.anonymous, sum(map(anonymous, every)))
            self.resident = max(self.resident, field(every[0], "VmHWM") if every else 0)
            self._over.wait(PERIOD)

    def stop(self) -> None:
        """Return when it has ended."""
        self._over.set()
        self.join()

    def _pids(self) -> list[int]:
        try:
            return [self._pid, *(child.pid for child in psutil.Process(self._pid).children(recursive=True))]
        except psutil.NoSuchProcess:
            return []


def _status(pid: int) -> str:
    """What the system tells of a process; nothing of one that is gone."""
    try:
        return Path(f"/proc/{pid}/status").read_text(errors="replace")
    except OSError:
        return ""


def anonymous(status: str) -> int:
    """Bytes that cannot be given back to a file, from the text of /proc/<pid>/status."""
    return field(status, "RssAnon") + field(status, "RssShmem")


def field(status: str, name: str) -> int:
    """Bytes of one line of /proc/<pid>/status; 0 where there is none, as of a process that has ended."""
    found = re.search(rf"^{name}:\s*(\d+) kB$", status, re.MULTILINE)
    return 1024 * int(found[1]) if found else 0


def figures(table: Table, sizes: Sequence[int], load: float) -> list[dict[str, Any]]:
    """The two figures of what every stage took at three sizes, the smallest first; `load` is the machine's before."""
    growth = {stage: taken[sizes[-1]].anonymous / taken[sizes[0]].anonymous for stage, taken in table.items()}
    bends = {stage: bend({size: one.seconds for size, one in taken.items()}) for stage, taken in table.items()}
    judged = {stage: value for stage, value in bends.items() if value is not None}
    details = {
        "images": list(sizes),
        "peak memory, MB": {
            stage: [round(taken[size].anonymous / 1e6, 1) for size in sizes] for stage, taken in table.items()
        },
        "VmHWM with file pages, MB": {
            stage: [round(taken[size].resident / 1e6, 1) for size in sizes] for stage, taken in table.items()
        },
        "seconds": {stage: [taken[size].seconds for size in sizes] for stage, taken in table.items()},
        "load": load,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }
    memory, slowest = max(growth.values()), max(judged.values(), default=1.0)
    return [
        {
            "figure": f"Peak memory at {sizes[-1]:,} images ÷ at {sizes[0]:,}, the worst of the seven stages",
            "bound": f"<= {MEMORY_BOUND:.2f}",
            "value": round(memory, 3),
            "passed": memory <= MEMORY_BOUND,
            "details": {
                **details,
                "worst": max(growth, key=growth.__getitem__),
                "ratios": {stage: round(value, 3) for stage, value in growth.items()},
            },
        },
        {
            "figure": f"Seconds per further image, {sizes[1]:,} to {sizes[-1]:,} ÷ {sizes[0]:,} to {sizes[1]:,}, "
            "the worst stage",
            "bound": f"<= {TIME_BOUND:.2f}",
            "value": round(slowest, 3),
            "passed": slowest <= TIME_BOUND,
            "details": {
                **details,
                "worst": max(judged, key=judged.__getitem__, default=None),
                "ratios": {stage: round(value, 3) for stage, value in judged.items()},
                "left out, start-up decides": [stage for stage, value in bends.items() if value is None],
            },
        },
    ]


def bend(seconds: Mapping[int, float]) -> float | None:
    """Seconds per further image at the end over those at the start, of three sizes; 1 is a straight line.

    None where a stage's start-up decides. Infinite where the first stretch took no time and the second did.
    """
    (few, at_few), (some, at_some), (many, at_many) = sorted(seconds.items())
    factor, beyond = START_UP
    if at_many < factor * at_few + beyond:
        return None
    first, last = (at_some - at_few) / (some - few), (at_many - at_some) / (many - some)
    return last / first if first > 0 else math.inf


def _clear(folder: Path) -> None:
    """Leave the images alone: the next size starts cold."""
    for path in [folder / ".graft", folder / "reports", *folder.glob("data/*")]:
        if path.name != "images":
            shutil.rmtree(path, ignore_errors=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print one JSON line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory")
    parser.add_argument("--quick", action="store_true", help="300, 900 and 3,000 images")
    parser.add_argument("--images", type=int, help="the smallest size; the others are 3 and 10 times as many")
    given = parser.parse_args(arguments)
    if given.images is not None and given.images < 100:
        parser.error("--images must be 100 or more")
    sys.stdout.write(json.dumps(measure(given.quick, given.images)) + "\n")


if __name__ == "__main__":
    main()
