"""Stops a stage at every one of its writes, keeps what the disk holds there, and goes on from each such image.

    python -m benchmarks.crash_images [stage ...] [--folder FOLDER]

What SIGKILL leaves is what the files hold at that moment, so one run gives what a kill at every write would leave: an
image before each call that the shim counts in the stage's process (write_shim.c says which), and one at the half of
each write. An older version of each output is in place. A stage first clears the working folders of a killed run
(stages/store/outputs.py). That step is done on every image, by the same code; images that are the same after it are one
state, and the stage is run again in the first and in the last image of each state, as they were before clearing. Files
that a program makes anew before it names them (`.*.partial`), and those of SQLite in DVC's site cache, which mends them
itself, make no state; where they differ within one, the stage is also run in BETWEEN more images of it.
An image survives if it holds each output absent or whole, none of the run's beside an older one, and the runs of its
state end as in kill_points.py.

Images are copies: files have other times and inodes than a kill leaves, so what goes by those (hashes that are kept of
files) is looked up anew in these runs; kill_sweep.py has real kills. Writes of child processes and by mmap are not
seen.
Results go to benchmarks/reliability.json. Needs gcc.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import re
import shutil
import stat
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import reliability, shim
from benchmarks.kill_points import Attempt, Bench, Forks, spread
from benchmarks.shim import Ask
from benchmarks.tiny_pipeline import STAGES, Tiny
from benchmarks.warm import Warm
from stages.store import outputs
from stages.store.hashes import sha256_of_file

LOOSE = re.compile(r"(.*/)?\.[^/]*\.partial|\.graft/site/.*")
BETWEEN = 8
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
    """What lies below, but for git's own files: no stage writes there, and they are most of a checkout."""
    for folder, folders, files in os.walk(root):
        if ".git" in folders:
            folders.remove(".git")
        for name in [*folders, *files]:
            path = Path(folder, name)
            yield path, path.lstat()


@dataclass
class State:
    """One content of the checkout after clearing, the images that come to it, and what runs made of it."""

    images: list[int] = field(default_factory=list)
    contents: set[str] = field(default_factory=set)  # digests that tell loose files as well
    runs: int = 0
    why: list[str] = field(default_factory=list)

    def chosen(self) -> list[int]:
        """The images to run again from."""
        places = spread(len(self.images), BETWEEN, seed=0) if len(self.contents) > 1 else []
        return sorted({self.images[0], self.images[-1], *(self.images[place - 1] for place in places)})


def digest(image: Image) -> str:
    """SHA-256 over paths, modes and contents."""
    return hashlib.sha256(repr(sorted(image.items())).encode()).hexdigest()


def outputs_of(image: Image, outs: Iterable[str]) -> dict[str, dict[str, str]]:
    """The outputs that are there: of each its files' SHA-256, as in Goal.made."""
    return {
        out: {name.removeprefix(f"{out}/"): what for name, (mode, what) in image.items()
              if name.startswith(f"{out}/") and stat.S_ISREG(mode)}
        for out in outs if out in image
    }  # fmt: skip


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
        self._goal = bench.goal

    def taken(self) -> list[Image]:
        """The images of a run that is stopped at every write, in order. Raises RuntimeError if that run goes wrong."""
        taken: list[Image] = []
        log = self._bench.folder / "writes.log"
        with self._bench.checkout() as checkout:
            code = self._warm.run(
                checkout, self._goal.variables(checkout), Ask(do="stop"), log, [],
                lambda: taken.append(self._images.take(checkout)),
            )  # fmt: skip
            if code or outputs_of(self._images.take(checkout), self._goal.made) != self._goal.made:
                raise RuntimeError(f"the stopped run went wrong: {Path(f'{log}.said').read_text()}")
        if len(taken) != len(shim.read(log)):
            raise RuntimeError(f"{len(taken)} stops, {len(shim.read(log))} lines in the log")
        return taken

    def swept(self, taken: Sequence[Image]) -> tuple[dict[int, list[str]], list[State]]:
        """Why the images that did not survive did not, by number from 1, and the states that there were."""
        wrong = {number: why for number, image in enumerate(taken, 1)
                 if (why := self._goal.wrong(outputs_of(image, self._goal.made)))}  # fmt: skip
        states = self._states(taken)
        for state in states:
            for number in state.chosen():
                tried = self._again(taken[number - 1])
                state.runs += 1
                state.why += tried.why
                said = "; ".join(tried.why) or "survived"
                sys.stderr.write(f"{self.stage} from image {number}, for {len(state.images)}: {said}\n")
            if state.why:
                for number in state.images:
                    wrong.setdefault(number, []).extend(state.why)
        return wrong, states

    def _states(self, taken: Sequence[Image]) -> list[State]:
        states: dict[str, State] = {}
        with self._bench.checkout() as checkout:
            for number, image in enumerate(taken, 1):
                self._images.put(image, checkout)
                cleared(list(self._goal.made), checkout)
                left = self._images.take(checkout)
                firm = {name: what for name, what in left.items() if not LOOSE.fullmatch(name)}
                state = states.setdefault(digest(firm), State())
                state.images.append(number)
                state.contents.add(digest(left))
        return list(states.values())

    def _again(self, image: Image) -> Attempt:
        with self._bench.checkout() as checkout:
            self._images.put(image, checkout)
            return self._bench.judged(checkout, Attempt(hit=True))


def main(arguments: Sequence[str]) -> int:
    """Exit 0 where every image survived."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.crash_images")
    parser.add_argument("stages", nargs="*", choices=[*STAGES, []], metavar="stage")
    parser.add_argument("--folder", type=Path, default=Path(".graft/kill-sweep"))
    asked = parser.parse_args(arguments)
    why = shim.missing()
    if why:
        sys.stderr.write(f"{why}\n")
        return 5
    folder = asked.folder.absolute()
    library = shim.build(folder)
    code = 0
    for stage in asked.stages or STAGES:
        goal = Tiny.of(stage, folder).goal(stage, with_lock=False).over_old(folder / "before-old")
        warm = Warm(stage, library)
        kept = folder / "images"
        shutil.rmtree(kept, ignore_errors=True)
        try:
            started = time.monotonic()
            bench = Bench(goal, Forks(warm), folder / "images-run")
            sweep = Sweep(stage, bench, warm, Images(kept))
            taken = sweep.taken()
            writes = sum(call.name != "half" for call in shim.read(bench.folder / "writes.log"))
            wrong, states = sweep.swept(taken)
        finally:
            warm.close()
            shutil.rmtree(kept, ignore_errors=True)
        for number, reasons in sorted(wrong.items()):
            sys.stderr.write(f"{stage} at image {number}: {'; '.join(reasons)}\n")
        runs = sum(state.runs for state in states)
        note = (
            f"images of every one of {writes} writes, before it and at its half; {len(states)} different states after "
            f"clearing, {runs} runs from them"
        )
        result = reliability.entry(len(taken), len(taken) - len(wrong), time.monotonic() - started, note)
        reliability.record({f"images {stage}": result})
        code |= bool(wrong)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
