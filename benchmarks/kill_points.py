"""One attempt of a sweep: break a run at a chosen write or moment, look at what is left, give the same command again.

An attempt survives if, after the fault,
    no process of the broken run is left two seconds later,
    each output is absent or whole (the old version where there was one, or the new), and no new one beside an old,
and the same command again, at once and with nothing done by hand,
    exits 0 with the dvc.lock and the outputs' bytes of a run without a fault,
    leaves no working folder, no living holder in DVC's list of locks and no process.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import psutil

from benchmarks.shim import Ask
from benchmarks.warm import Warm
from flows import mending
from stages.store.hashes import sha256_of_tree

GONE = 2.0  # seconds a process whose parent was killed may live on
DEADLINE = 300.0  # seconds for a run
# What `make run` does: DVC reads its own files before anything of ours could mend them.
MADE = (
    "{python} -m flows.mending; {python} -m dvc repro {stage} || {{ code=$?; {python} -m flows.mending --thoroughly && "
    "exec {python} -m dvc repro {stage}; exit $code; }}"
)


@dataclass(frozen=True)
class Goal:
    """A checkout before a run, and what the run must make of it: files of each output by SHA-256, and dvc.lock."""

    before: Path
    made: dict[str, dict[str, str]]
    lock: str | None
    environment: dict[str, str]  # with {checkout} for the checkout's path
    old: dict[str, dict[str, str]] = field(default_factory=dict)  # the outputs that are there before

    def variables(self, checkout: Path) -> dict[str, str]:
        return {name: value.replace("{checkout}", str(checkout)) for name, value in self.environment.items()}

    def over_old(self, folder: Path) -> Goal:
        """The same with an older version of each output in place; `folder` is for that checkout."""
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.before, folder, symlinks=True)
        for out in self.made:
            (folder / out).mkdir(parents=True)
            (folder / out / "old.txt").write_text("what an earlier run made\n")
        return replace(self, before=folder, old={out: sha256_of_tree(folder / out) for out in self.made})

    def there(self, checkout: Path) -> dict[str, dict[str, str]]:
        """The outputs that a checkout has, whole or not: of each its files' SHA-256."""
        return {out: sha256_of_tree(checkout / out) for out in self.made if (checkout / out).exists()}

    def wrong(self, there: Mapping[str, Mapping[str, str]]) -> list[str]:
        """Why a run cannot have been killed rightly that left these outputs; `there` as `made`, without absent ones."""
        why, versions = [], set()
        for out, files in there.items():
            version = "new" if files == self.made[out] else "old" if files == self.old.get(out) else None
            versions.add(version)
            if version is None:
                why.append(f"after the fault {out} is neither absent nor whole")
        return why + ["after the fault a new output is beside an old one"] * (versions >= {"old", "new"})


@dataclass
class Attempt:
    """How one ended. `why` is empty where it survived; `hit` says whether the fault happened at all."""

    hit: bool = False
    why: list[str] = field(default_factory=list)
    code: int = 0  # of the broken run
    said: str = ""  # by the broken run
    mended: bool = False  # the second run mended a file of DVC's


class Runner(Protocol):
    """How a command is run in a checkout: returns its exit code and what it said."""

    def run(self, checkout: Path, variables: dict[str, str], ask: Ask | None, log: Path) -> tuple[int, str]: ...


class Processes:
    """A command line, run for real. The shim counts in the process whose command line holds `who`."""

    def __init__(self, command: Sequence[str], library: Path, who: str, again: Sequence[str] | None = None) -> None:
        """`again` is the same command as it is given after a fault, where a wrapper of it does something then."""
        self._command, self._again = list(command), list(again or command)
        self._library, self._who = library, who

    def run(self, checkout: Path, variables: dict[str, str], ask: Ask | None, log: Path) -> tuple[int, str]:
        more = ask.environment(self._library, self._who, checkout, log) if ask else {}
        with self.started(checkout, {**variables, **more}, log, self._command if ask else self._again) as process:
            code = process.wait(DEADLINE)
        return code, Path(f"{log}.said").read_text(errors="replace")

    @contextmanager
    def started(
        self, checkout: Path, variables: dict[str, str], log: Path, command: Sequence[str] | None = None
    ) -> Iterator[subprocess.Popen[bytes]]:
        """The command, running; killed at the end of the block if it still is."""
        with Path(f"{log}.said").open("wb") as said:
            process = subprocess.Popen(
                command or self._command, cwd=checkout, env={**os.environ, **variables}, stdin=subprocess.DEVNULL,
                stdout=said, stderr=subprocess.STDOUT,
            )  # fmt: skip
            try:
                yield process
            finally:
                process.kill()
                process.wait()


class Forks:
    """A stage or DVC in a fork of a process that has imported it."""

    def __init__(self, warm: Warm, arguments: Sequence[str] = ()) -> None:
        self._warm, self._arguments = warm, list(arguments)

    def run(self, checkout: Path, variables: dict[str, str], ask: Ask | None, log: Path) -> tuple[int, str]:
        if ask is not None or not self._arguments:
            return self._once(checkout, variables, ask or Ask(), log)
        mended = mending.mend(checkout, thoroughly=False)  # DVC again: as `make run` gives it
        code, said = self._once(checkout, variables, Ask(), log)
        if code and (more := mending.mend(checkout, thoroughly=True)):
            mended += more
            code, said = self._once(checkout, variables, Ask(), log)
        return code, "".join(f"mended: {line}\n" for line in mended) + said

    def _once(self, checkout: Path, variables: dict[str, str], ask: Ask, log: Path) -> tuple[int, str]:
        code = self._warm.run(checkout, variables, ask, log, self._arguments)
        return code, Path(f"{log}.said").read_text(errors="replace")


class Bench:
    """Attempts at one goal."""

    def __init__(self, goal: Goal, runner: Runner, folder: Path) -> None:
        """`folder` is for one attempt's checkout and logs."""
        self.goal, self.runner, self.folder = goal, runner, folder
        self._log = folder / "writes.log"
        folder.mkdir(parents=True, exist_ok=True)

    def writes(self, **how: str) -> int:
        """How many writes are counted in a run without a fault."""
        with self.checkout() as checkout:
            self._log.unlink(missing_ok=True)
            code, said = self.runner.run(checkout, self.goal.variables(checkout), Ask(**how), self._log)  # type: ignore[arg-type]
            if code:
                raise RuntimeError(said)
            return self._counted()

    def broken(self, ask: Ask, look: Callable[[Path], None] | None = None) -> Attempt:
        """One attempt with the fault that is asked for; `look` sees the checkout right after it."""
        return self.broken_often([ask], look)

    def broken_often(self, asks: Sequence[Ask], look: Callable[[Path], None] | None = None) -> Attempt:
        """One attempt in which the command is given once for each fault; `hit` says whether the last one happened."""
        attempt = Attempt()
        with self.checkout() as checkout:
            for ask in asks:
                self._log.unlink(missing_ok=True)
                attempt.code, attempt.said = self.runner.run(checkout, self.goal.variables(checkout), ask, self._log)
                attempt.hit = self._counted() >= ask.at > 0 or ask.room >= 0
            if look is not None:
                look(checkout)
            return self.judged(checkout, attempt)

    def killed(self, find: Callable[[psutil.Process], psutil.Process | None], delay: float) -> Attempt:
        """Kill the process that `find` finds below a command, `delay` seconds after it is first there."""
        assert isinstance(self.runner, Processes)
        with self.checkout() as checkout:
            attempt = Attempt()
            with self.runner.started(checkout, self.goal.variables(checkout), self._log) as process:
                root, end = psutil.Process(process.pid), time.monotonic() + DEADLINE
                while process.poll() is None and time.monotonic() < end and not attempt.hit:
                    try:
                        found = find(root)
                        if found is not None:
                            time.sleep(delay)
                            found.kill()
                            attempt.hit = True
                    except psutil.NoSuchProcess:
                        pass
                    time.sleep(0.01)
                attempt.code = process.wait(DEADLINE)
            return self.judged(checkout, attempt)

    def judged(self, checkout: Path, attempt: Attempt) -> Attempt:
        """Look at what the fault left, run again, and compare."""
        why = attempt.why
        why += self.goal.wrong(self.goal.there(checkout))
        before = living(checkout)
        code, said = self.runner.run(checkout, self.goal.variables(checkout), None, self._log)
        attempt.mended = "mended:" in said
        psutil.wait_procs(before, timeout=GONE)
        why += [f"{named(one)} of the broken run lives" for one in before if one.is_running()]
        if code:
            why.append(f"again: exit {code}: {said[-1500:]}")
        lock = checkout / "dvc.lock"
        if self.goal.lock is not None and (not lock.exists() or lock.read_text() != self.goal.lock):
            why.append("dvc.lock differs from that of a run without a fault")
        there = self.goal.there(checkout)
        why += [f"{out} differs from that of a run without a fault" for out, files in self.goal.made.items()
                if there.get(out) != files]  # fmt: skip
        why += [f"{path.relative_to(checkout)} is left" for top in ("data", "reports")
                for path in (checkout / top).rglob(".*.partial")]  # fmt: skip
        why += [f"DVC's list of locks has {pid}" for pid in holders(checkout) if psutil.pid_exists(pid)]
        left = living(checkout)
        psutil.wait_procs(left, timeout=GONE)
        why += [f"{named(one)} lives after the end" for one in left if one.is_running()]
        return attempt

    def _counted(self) -> int:
        return len(self._log.read_text().splitlines()) if self._log.exists() else 0

    @contextmanager
    def checkout(self) -> Iterator[Path]:
        """The checkout as it was before, for one attempt."""
        path = self.folder / "attempt"
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(self.goal.before, path, symlinks=True)
        try:
            yield path
        finally:
            for one in living(path):
                one.kill()
            shutil.rmtree(path, ignore_errors=True)


def holders(checkout: Path) -> set[int]:
    """The processes that DVC's list of locks names; it drops a dead one only when that is in its way."""
    record = checkout / ".dvc" / "tmp" / "rwlock"
    if not record.exists():
        return set()
    held = json.loads(record.read_text())
    readers = [one for many in held.get("read", {}).values() for one in many]
    return {one["pid"] for one in [*readers, *held.get("write", {}).values()]}


def living(folder: Path) -> list[psutil.Process]:
    """Processes that work in `folder`."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and Path(process.cwd()).is_relative_to(folder):
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def named(process: psutil.Process) -> str:
    """A process by number and command line."""
    try:
        return f"process {process.pid} ({' '.join(process.cmdline())[:200]})"
    except psutil.Error:
        return f"process {process.pid}"


def spread(count: int, wanted: int, seed: int) -> list[int]:
    """`wanted` of the numbers 1 to `count` (all where there are fewer): first and last, the rest drawn evenly."""
    if count <= wanted:
        return list(range(1, count + 1))
    drawn = random.Random(seed)
    width = count / wanted
    inner = {min(count, int(width * place + drawn.random() * width) + 1) for place in range(wanted)}
    return sorted({1, count, *inner})
