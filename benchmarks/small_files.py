"""How long do 100,000 small images take until they are tracked and pushed, beside `dvc add folder && dvc push`?

    python -m benchmarks.small_files            # 100,000 files, three rounds: about 15 minutes of two cores
    python -m benchmarks.small_files --quick    # 5,000 files, one round; the figure asks for 100,000

Two projects beside each other, each with a remote that is a folder, take the same files; then the same file is
changed in both and both are told again. Every round starts with fresh projects and a fresh cache, and the sides take
turns in going first.

graft   `graft add --push` on download.source: data/images, download.watch: data/images.listing.json
DVC     `dvc add folder && dvc push`

Every round ends with graft's side being made sure of: DVC finds nothing to do, a clone that pulls gets every image
of the folder byte for byte, and one that pulls from a remote with a flipped byte is refused.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
FILES, ROUNDS = 100_000, 3
QUICK_FILES, QUICK_ROUNDS = 5_000, 1
CLASSES = 10
SIDE = 20  # pixels; 1.3 kB of noise
FIRST, CHANGED = 10.0, 20.0  # times faster than DVC, at least
FLIPPED = 100  # the byte of a file that is flipped; well inside the pixels
Run = dict[str, float]  # seconds of the two measurements: first, changed


def picture(noise: random.Random) -> bytes:
    """A PNG of random pixels, made by hand: that is faster than any library."""
    rows = b"".join(b"\0" + noise.randbytes(3 * SIDE) for _ in range(SIDE))
    header = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 1)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def make(folder: Path, count: int) -> None:
    """`count` pictures in CLASSES folders, the same on every call."""
    noise = random.Random(0)
    for label in range(CLASSES):
        (folder / f"class_{label}").mkdir(parents=True)
    for number in range(count):
        (folder / f"class_{number % CLASSES}" / f"{number:06d}.png").write_bytes(picture(noise))


def flip(path: Path) -> None:
    """Change one byte of a file in place, read-only or not."""
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[FLIPPED] ^= 0xFF
    path.write_bytes(data)


def call(folder: Path, *command: str, fails: bool = False) -> str:
    """Run a command in `folder`; returns what it printed. Raises RuntimeError where it ends otherwise than expected."""
    environment = {**os.environ, "DVC_SITE_CACHE_DIR": str(folder.parent / "site"), "DVC_NO_ANALYTICS": "1"}
    done = subprocess.run(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if (done.returncode != 0) != fails:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}\n{done.stdout[-2000:]}")
    return done.stdout


def took(folder: Path, *commands: Sequence[str]) -> float:
    """Wall time of commands run one after the other, in seconds."""
    start = time.perf_counter()
    for command in commands:
        call(folder, *command)
    return time.perf_counter() - start


def dvc(*words: str) -> list[str]:
    """A command line of DVC."""
    return [sys.executable, "-m", "dvc", *words]


def changed_file(folder: Path, count: int) -> Path:
    """The picture that both sides have changed."""
    return folder / f"class_{count // 2 % CLASSES}" / f"{count // 2:06d}.png"


def by_dvc(folder: Path, source: Path, count: int) -> Run:
    """DVC's side, in an empty `folder`."""
    project = folder / "project"
    project.mkdir(parents=True)
    call(project, "git", "init", "-q")
    call(project, *dvc("init", "-q"))
    call(project, *dvc("remote", "add", "-q", "-d", "store", str(folder / "remote")))
    shutil.copytree(source, project / "folder")
    commands = (dvc("add", "folder"), dvc("push"))
    first = took(project, *commands)
    flip(changed_file(project / "folder", count))
    return {"first": first, "changed": took(project, *commands)}


def by_graft(folder: Path, source: Path, count: int) -> tuple[Run, dict[str, Any]]:
    """graft's side, in an empty `folder`, and what was found when its result was tried."""
    project = folder / "project"
    folder.mkdir(parents=True)
    call(folder, "git", "clone", "-q", str(ROOT), "project")
    images = project / "data/images"
    shutil.copytree(source, images, dirs_exist_ok=True)
    settings = (project / "recipes/your_images.yaml").read_text()
    watch = "watch: data/images.listing.json"
    (project / "params.yaml").write_text(settings.replace("watch: *folder", watch))
    call(project, *dvc("remote", "add", "-q", "-d", "store", str(folder / "remote")))
    command = [sys.executable, "-m", "commands", "add", "--push"]
    first = took(project, command)
    flip(changed_file(images, count))
    changed = took(project, command)
    return {"first": first, "changed": changed}, tried(folder, project, images)


def tried(folder: Path, project: Path, images: Path) -> dict[str, Any]:
    """What DVC says of graft's project, and whether bytes are verified on the way back."""
    start = time.perf_counter()
    nothing_to_do = "didn't change" in call(project, *dvc("repro", "-s", "download"))
    no_op = time.perf_counter() - start
    expected = {
        path.relative_to(images).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in images.glob("*/*.png")
    }
    whole = pulled(folder / "whole", project)
    call(whole.parent, *dvc("pull", "download"))
    intact = stored(whole) == expected
    shutil.rmtree(folder / "site")  # what DVC remembers of files with other bytes at the same place
    victim = max((folder / "remote").rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else -1)
    flip(victim)
    refused = pulled(folder / "refused", project)
    said = call(refused.parent, *dvc("pull", "download"), fails=True)
    flipped = victim.read_bytes()
    arrived = [path.read_bytes() for path in refused.parent.rglob("*") if path.is_file()]
    return {
        "no_op_seconds": round(no_op, 2),
        "nothing_to_do_afterwards": nothing_to_do,
        "pulled_byte_for_byte": intact,
        "flipped_byte_refused": flipped not in arrived,
        "refusal": said.strip().splitlines()[-1][:200],
    }


def pulled(folder: Path, project: Path) -> Path:
    """A copy of the project without data and with `remote.verify`; returns where download's output will lie."""
    folder.mkdir()
    for name in ("dvc.yaml", "dvc.lock", "params.yaml"):
        shutil.copy(project / name, folder)
    shutil.copytree(project / ".dvc", folder / ".dvc", ignore=shutil.ignore_patterns("cache", "tmp"))
    call(folder, "git", "init", "-q")
    call(folder, *dvc("remote", "modify", "store", "verify", "true"))
    (folder / "data").mkdir()
    return folder / "data/download"


def stored(download: Path) -> dict[str, str]:
    """Name → SHA-256 of the bytes in the shards, hashed here."""
    from stages.core.schemas import IMAGES
    from stages.store import tables

    rows = tables.iterate(download / "images", IMAGES)
    return {row["name"]: hashlib.sha256(row["bytes"]).hexdigest() for row in rows}


def measure(quick: bool, rounds: int | None = None) -> list[dict[str, Any]]:
    """Both figures; each is met where the ratio of medians is and every check held."""
    count = QUICK_FILES if quick else FILES
    rounds = rounds or (QUICK_ROUNDS if quick else ROUNDS)
    seconds: dict[str, list[Run]] = {"graft": [], "dvc": []}
    checks = []
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name:
        source = Path(name) / "source"
        make(source, count)
        for number in range(rounds):
            place = Path(name) / str(number)
            for side in ("graft", "dvc") if number % 2 == 0 else ("dvc", "graft"):
                if side == "dvc":
                    seconds[side].append(by_dvc(place / side, source, count))
                else:
                    run, found = by_graft(place / side, source, count)
                    seconds[side].append(run)
                    checks.append(found)
                shutil.rmtree(place / side)
    medians = {
        side: {what: statistics.median(run[what] for run in runs) for what in ("first", "changed")}
        for side, runs in seconds.items()
    }
    sound = all(
        found["nothing_to_do_afterwards"] and found["pulled_byte_for_byte"] and found["flipped_byte_refused"]
        for found in checks
    )
    details = {
        "rounds": rounds,
        "files": count,
        "median seconds": medians,
        "seconds": seconds,
        "checks": checks,
        "load before and after": [round(load, 2), round(os.getloadavg()[0], 2)],
    }
    told = {
        "first": (f"{count:,} small files tracked and pushed: `dvc add && dvc push` ÷ `graft add --push`", FIRST),
        "changed": ("The same again after one of them changed", CHANGED),
    }
    ratios = {what: medians["dvc"][what] / medians["graft"][what] for what in told}
    return [
        {"figure": figure, "bound": f">= {bound:g}", "value": round(ratios[what], 2),
         "passed": sound and ratios[what] >= bound, "details": details}
        for what, (figure, bound) in told.items()
    ]  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.small_files")
    parser.add_argument("--quick", action="store_true", help="5,000 files, one round")
    parser.add_argument("--rounds", type=int, help=f"{ROUNDS} without --quick")
    given = parser.parse_args()
    sys.stdout.write(json.dumps(measure(given.quick, given.rounds)) + "\n")
