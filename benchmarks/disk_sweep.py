"""Breaks a stage's writes as disks do, or gives it little memory, and sees that it says so and leaves nothing half.

    python -m benchmarks.disk_sweep [--points 20] [--folder FOLDER] [download split validate ...]

Faults: no space after so many bytes, and a call that fails once: EIO on write, fsync and rename, EROFS and EACCES and
EMFILE on open. Each is swept over the stage's calls, in a fork after its imports. Then RLIMIT_AS, at some sizes above
what was mapped at the start: there a library may also end the process by a signal. An attempt survives if the stage
exits 5 with one message and the older outputs in place, or goes on and makes the same bytes, and as in kill_points.py.
Results go to benchmarks/reliability.json. Needs gcc.
"""

from __future__ import annotations

import argparse
import errno
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks import reliability, shim
from benchmarks.kill_points import Attempt, Bench, Forks, Goal, spread
from benchmarks.shim import Ask
from benchmarks.tiny_pipeline import STAGES, Tiny
from benchmarks.warm import Warm

FAULTS = (
    (errno.EIO, "write"),
    (errno.EIO, "fsync"),
    (errno.EIO, "rename"),
    (errno.EROFS, "open"),
    (errno.EACCES, "open"),
    (errno.EMFILE, "open"),
)
MEMORY = (0, 1, 4, 16, 64, 256)  # MiB


def asks(bench: Bench, points: int) -> list[Ask]:
    """The faults to try: `points` of each kind of the disk's, or all there are calls for, and MEMORY."""
    bench.writes()
    calls = shim.read(bench.folder / "writes.log")
    written = sum(call.bytes for call in calls)
    found = [Ask(room=room, calls="write") for room in spread(written - 1, points, seed=0)]
    for number, name in FAULTS:
        count = sum(call.name == name for call in calls)
        found += [Ask(at=at, do=str(number), calls=name) for at in spread(count, points, seed=number)]
    return found + [Ask(memory=size) for size in MEMORY]


def verdict(ask: Ask, tried: Attempt, there: Mapping[str, Mapping[str, str]], goal: Goal) -> list[str]:
    """Why an attempt that left these outputs did not survive; empty where it did."""
    why = list(tried.why)
    by_signal = tried.code < 0 and ask.memory >= 0
    if (tried.code == 5 or by_signal) and there != goal.old:
        why.append("it failed, and an older output is gone")
    if tried.code not in (0, 5) and not by_signal:
        why.append(f"exit {tried.code}: {tried.said[-500:]}")
    if tried.code == 5 and "failed (exit 5): " not in tried.said:
        why.append(f"no message: {tried.said[-500:]}")
    if "Traceback" in tried.said:
        why.append(f"a traceback: {tried.said[-500:]}")
    return why


def main(arguments: Sequence[str]) -> int:
    """Exit 0 where everything that was tried survived."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.disk_sweep")
    parser.add_argument("stages", nargs="*", choices=[*STAGES, []], metavar="stage")
    parser.add_argument("--points", type=int, default=20)
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
        goal = Tiny.of(stage, folder).goal(stage, with_lock=False).over_old(folder / "before-old-disk")
        warm = Warm(stage, library)
        try:
            bench = Bench(goal, Forks(warm), folder / "disk-run")
            tried = survived = five = signals = 0
            started = time.monotonic()
            todo = asks(bench, asked.points)
            for ask in todo:
                there: list[dict[str, dict[str, str]]] = []
                attempt = bench.broken(ask, lambda checkout, goal=goal, there=there: there.append(goal.there(checkout)))  # type: ignore[misc]
                wrong = verdict(ask, attempt, there[0], goal)
                tried, survived = tried + 1, survived + (not wrong)
                five, signals = five + (attempt.code == 5), signals + (attempt.code < 0)
                sys.stderr.write(f"{stage} {ask}: exit {attempt.code}, {'; '.join(wrong) or 'survived'}\n")
                # After each: the next may be interrupted.
                note = (
                    f"{tried} of {len(todo)} faults asked for; {five} ended with exit 5, {signals} by a signal, the "
                    "rest went on"
                )
                seconds = time.monotonic() - started
                reliability.record({f"disk {stage}": reliability.entry(tried, survived, seconds, note)})
            code |= survived < tried
        finally:
            warm.close()
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
