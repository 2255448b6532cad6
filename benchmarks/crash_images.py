"""Stops a stage at every one of its writes, keeps what the disk holds there, and goes on from each such image.

    python -m benchmarks.crash_images [stage ...] [--folder FOLDER]

What SIGKILL leaves is what the files hold at that moment, so one run gives the images of a kill at every write; half of
a write is done in its image. A stage first clears the working folders of a killed run (stages/store/outputs.py). That
step is done on every image, by the same code; images that are the same after it are one state, and what a run makes of
one it makes of all. So the stage is run again in the first and the last image of each state, as they were before it.
A write survives if its image holds each output absent or whole and those runs end as in kill_points.py.
Times of files are not part of an image. Results go to benchmarks/reliability.json. Needs gcc.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import shutil
import stat
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import reliability, shim
from benchmarks.kill_points import Attempt, Bench, Forks
from benchmarks.kill_sweep import LIGHT
from benchmarks.shim import Ask
from benchmarks.tiny_pipeline import STAGES, Tiny
from benchmarks.warm import Warm
from stages.store import outputs
from stages.store.hashes import sha256_of_file

Image = dict[str, tuple[int, str]]  # by relative path: the mode, and a file's SHA-256 or a link's target


class Images:
    """Takes what a folder holds, and puts it back. Files are kept by SHA-256; only changed ones are read or written."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[Path, tuple[tuple[int, ...], str]] = {}
        folder.mkdir(parents=True)

    def take(self, root: Path) -> Image:
        """The image of `root`; nothing may write below it meanwhile."""
        image: Image = {}
        for path, seen in _below(root):
            what = ""
            if stat.S_ISLNK(seen.st_mode):
                what = os.readlink(path)
            elif stat.S_ISREG(seen.st_mode):
                what = self._kept(path, seen)
            image[path.relative_to(root).as_posix()] = seen.st_mode, what
        return image

    def put(self, image: Image, root: Path) -> None:
        """Make `root` hold the image and nothing else."""
        there = self.take(root)
        for name in sorted(there.keys() - image.keys(), reverse=True):
            outputs.remove(root / name)
        for name in sorted(image):
            if there.get(name) == image[name]:
                continue
            (mode, what), path = image[name], root / name
            if name in there and stat.S_IFMT(there[name][0]) != stat.S_IFMT(mode):
                outputs.remove(path)
            if stat.S_ISLNK(mode):
                path.unlink(missing_ok=True)
                path.symlink_to(what)
                continue
            if stat.S_ISDIR(mode):
                path.mkdir(exist_ok=True)
            else:
                path.unlink(missing_ok=True)
                shutil.copyfile(self._folder / what, path)
            path.chmod(stat.S_IMODE(mode))

    def _kept(self, path: Path, seen: os.stat_result) -> str:
        looks = seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns
        known = self._known.get(path)
        if known and known[0] == looks:
            return known[1]
        sha256 = sha256_of_file(path)
        if not (self._folder / sha256).exists():
            shutil.copyfile(path, self._folder / sha256)
        self._known[path] = looks, sha256
        return sha256


def _below(root: Path) -> Iterator[tuple[Path, os.stat_result]]:
    for folder, folders, files in os.walk(root):
        for name in [*folders, *files]:
            path = Path(folder, name)
            yield path, path.lstat()


@dataclass
class State:
    """One content of the checkout after clearing, the writes whose images come to it, and what runs made of it."""

    writes: list[int] = field(default_factory=list)
    runs: int = 0
    why: list[str] = field(default_factory=list)


def digest(image: Image) -> str:
    """SHA-256 over paths, modes and contents."""
    return hashlib.sha256(repr(sorted(image.items())).encode()).hexdigest()


def torn(image: Image, made: Mapping[str, Mapping[str, str]]) -> list[str]:
    """The outputs that are there and hold other files than a run without a fault makes; `made` as Goal.made."""
    wrong = []
    for out, files in made.items():
        below = {name.removeprefix(f"{out}/"): what for name, (mode, what) in image.items()
                 if name.startswith(f"{out}/") and stat.S_ISREG(mode)}  # fmt: skip
        if out in image and below != files:
            wrong.append(out)
    return wrong


def cleared(outs: Sequence[str], checkout: Path) -> None:
    """Do what a stage does before it writes, and nothing of what comes then."""

    class _Enough(BaseException):  # no Exception: that would be told as a fault of writing
        pass

    with contextlib.chdir(checkout), contextlib.suppress(_Enough), outputs.replacing(*map(Path, outs)):
        raise _Enough


class Sweep:
    """A stage, stopped at every write."""

    def __init__(self, stage: str, bench: Bench, warm: Warm, images: Images) -> None:
        self.stage = stage
        self._bench, self._warm, self._images = bench, warm, images
        self._made = bench.goal.made

    def taken(self) -> list[Image]:
        """The images of a run that is stopped at every write, in order. Raises RuntimeError if that run goes wrong."""
        taken: list[Image] = []
        log = self._bench.folder / "writes.log"
        with self._bench.checkout() as checkout:
            code = self._warm.run(
                checkout, self._bench.goal.variables(checkout), Ask(do="stop"), log, [],
                lambda: taken.append(self._images.take(checkout)),
            )  # fmt: skip
            if code or torn(self._images.take(checkout), self._made):
                raise RuntimeError(f"the stopped run went wrong: {Path(f'{log}.said').read_text()}")
        if len(taken) != len(shim.read(log)):
            raise RuntimeError(f"{len(taken)} stops at {len(shim.read(log))} writes")
        return taken

    def swept(self, taken: Sequence[Image]) -> tuple[dict[int, list[str]], list[State]]:
        """Why the writes that did not survive did not, and the states that there were."""
        wrong = {number: [f"{out} is neither absent nor whole" for out in outs]
                 for number, image in enumerate(taken, 1) if (outs := torn(image, self._made))}  # fmt: skip
        states = self._states(taken)
        for state in states:
            for number in sorted({state.writes[0], state.writes[-1]}):
                tried = self._again(taken[number - 1])
                state.runs += 1
                state.why += tried.why
                said = "; ".join(tried.why) or "survived"
                sys.stderr.write(f"{self.stage} from write {number}, for {len(state.writes)}: {said}\n")
            if state.why:
                for number in state.writes:
                    wrong.setdefault(number, []).extend(state.why)
        return wrong, states

    def _states(self, taken: Sequence[Image]) -> list[State]:
        states: dict[str, State] = {}
        with self._bench.checkout() as checkout:
            for number, image in enumerate(taken, 1):
                self._images.put(image, checkout)
                cleared(list(self._made), checkout)
                states.setdefault(digest(self._images.take(checkout)), State()).writes.append(number)
        return list(states.values())

    def _again(self, image: Image) -> Attempt:
        with self._bench.checkout() as checkout:
            self._images.put(image, checkout)
            return self._bench.judged(checkout, Attempt(hit=True))


def main(arguments: Sequence[str]) -> int:
    """Exit 0 where every write survived."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.crash_images")
    parser.add_argument("stages", nargs="*", choices=[*STAGES, []], metavar="stage")
    parser.add_argument("--folder", type=Path, default=Path(".graft/kill-sweep"))
    asked = parser.parse_args(arguments)
    why = shim.missing()
    if why:
        sys.stderr.write(f"{why}\n")
        return 5
    folder = asked.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    library = shim.build(folder)
    code = 0
    for stage in asked.stages or STAGES:
        light = stage in LIGHT
        tiny = Tiny.kept(folder / ("light" if light else "whole"), LIGHT if light else STAGES)
        warm = Warm(stage, library)
        kept = folder / "images"
        shutil.rmtree(kept, ignore_errors=True)
        try:
            started = time.monotonic()
            bench = Bench(tiny.goal(stage, with_lock=False), Forks(warm), folder / "images-run")
            sweep = Sweep(stage, bench, warm, Images(kept))
            taken = sweep.taken()
            wrong, states = sweep.swept(taken)
        finally:
            warm.close()
            shutil.rmtree(kept, ignore_errors=True)
        for number, reasons in sorted(wrong.items()):
            sys.stderr.write(f"{stage} at {number}: {'; '.join(reasons)}\n")
        runs = sum(state.runs for state in states)
        note = f"every write; {len(states)} different states of the checkout after clearing, {runs} runs from them"
        result = reliability.entry(len(taken), len(taken) - len(wrong), time.monotonic() - started, note)
        reliability.record({f"images {stage}": result})
        code |= bool(wrong)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
