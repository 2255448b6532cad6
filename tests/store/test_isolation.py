"""Worker processes that crash, hang and grow: each costs its item and nothing else. Real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest

from stages.core.errors import EnvironmentFault
from stages.store import isolation
from stages.store.isolation import Lost, map_isolated
from tests.store import decoders_that_fail as decoders
from tests.waiting import wait_for

ROOT = Path(__file__).parents[2]
MEMORY = 256 * 2**20
linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


@pytest.fixture(autouse=True)
def no_process_is_left() -> Iterator[None]:
    """Every test ends with the children it began with, and no more open files."""
    me = psutil.Process()
    children, files = set(me.children()), me.num_fds()
    yield
    assert set(me.children()) <= children
    assert me.num_fds() <= files


def run(items: list[str], workers: int = 1, cpu_seconds: float = 30, memory: int = MEMORY) -> list[str | Lost]:
    """What `obey` makes of the items."""
    encoded = [item.encode() for item in items]
    return list(map_isolated(decoders.obey, encoded, workers=workers, cpu_seconds=cpu_seconds, memory_bytes=memory))


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_results_come_in_the_order_of_the_items(workers: int) -> None:
    items = [f"item{number}" for number in range(1000)]
    assert run(items, workers) == [item.upper() for item in items]


def test_no_items_start_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", None)
    assert run([], 3) == []


def test_the_function_runs_elsewhere_and_one_chunk_starts_one_process() -> None:
    numbers = list(map_isolated(decoders.pid, [b""] * 64, workers=3, cpu_seconds=5, memory_bytes=MEMORY))
    assert len(numbers) == 64
    assert len(set(numbers)) == 1
    assert os.getpid() not in numbers


def test_a_chunk_is_64_items_or_8_mib() -> None:
    mib = b"x" * 2**20
    items = [b"a"] * 70 + [mib] * 9 + [mib * 9] + [b"b"] * 3
    found = list(map_isolated(decoders.sizes, items, workers=1, cpu_seconds=5, memory_bytes=MEMORY))
    # 64 small; 6 small and 7 of a MiB, for an eighth would pass 8 MiB; 2; the large one alone; the rest.
    assert found == [64] * 64 + [13] * 13 + [2] * 2 + [1] + [3] * 3


@pytest.mark.parametrize(
    ("bad", "detail"),
    [
        (f"signal {int(signal.SIGSEGV)}", "ended by signal 11 (SIGSEGV)"),
        (f"signal {int(signal.SIGKILL)}", "ended by signal 9 (SIGKILL)"),
        ("exit 3", "ended with exit code 3"),
        ("exit 0", "ended with exit code 0"),
        ("sys.exit 4", "ended with exit code 4"),
    ],
)
def test_a_crash_costs_only_its_item(bad: str, detail: str) -> None:
    items = [f"item{number}" for number in range(100)]
    expected: list[Any] = [item.upper() for item in items]
    items[40], expected[40] = bad, Lost("decoder_crash", detail)
    assert run(items, 2) == expected


@pytest.mark.parametrize("bad", ["loop", "loop-in-c", "regex"])
def test_a_loop_ends_by_its_processor_time(bad: str) -> None:
    assert run(["before", bad, "after"], cpu_seconds=1) == [
        "BEFORE",
        Lost("timeout", "more than 1 s of processor time"),
        "AFTER",
    ]


def test_processor_time_counts_for_each_call_and_each_item_anew() -> None:
    """Six times 0.3 s break the chunk's second and no item's; in one worker, one after the other."""
    assert run([f"spin 0.3 {number}" for number in range(6)], cpu_seconds=1) == [
        f"SPIN 0.3 {number}" for number in range(6)
    ]


def test_one_that_sleeps_is_ended_by_the_wall_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation, "WALL_FACTOR", 0.1)
    monkeypatch.setattr(isolation, "WALL_SECONDS", 1)
    assert run(["sleep", "next"], cpu_seconds=10) == [Lost("timeout", "no answer within 2 s"), "NEXT"]


def test_the_wall_clock_stands_while_nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader slower than the limit is no worker's fault."""
    monkeypatch.setattr(isolation, "WALL_FACTOR", 0)
    monkeypatch.setattr(isolation, "WALL_SECONDS", 5)
    found = map_isolated(decoders.obey, [b"a"] * 65, workers=1, cpu_seconds=5, memory_bytes=MEMORY)
    assert next(found) == "A"
    pool = found.gi_frame.f_locals["self"]
    before = pool._clock
    pool._looked = float("inf")  # no look at the sockets between results
    time.sleep(0.3)
    assert [next(found) for _ in range(63)] == ["A"] * 63
    assert pool._clock == before
    assert list(found) == ["A"]


@linux
def test_a_memory_bomb_ends_as_memory() -> None:
    lost = Lost("memory", "more than 256 MiB of memory")
    assert run(["take 200", "bomb", "take 200", "bomb"]) == ["209715200", lost, "209715200", lost]


@linux
def test_what_a_worker_hoards_is_not_held_against_the_next_item() -> None:
    """100 MiB a time: the third would not fit, but alone in a new worker it does."""
    items = [f"hoard 100 {number}" for number in range(8)]
    assert run(items) == [item.upper() for item in items]


@linux
def test_an_item_too_large_to_hand_over_ends_as_memory() -> None:
    items = [b"a", b"x" * (40 * 2**20), b"b"]
    found = list(map_isolated(decoders.twice, items, workers=1, cpu_seconds=30, memory_bytes=32 * 2**20))
    assert found == [b"aa", Lost("memory", "more than 32 MiB of memory"), b"bb"]


def test_a_worker_killed_from_outside_costs_nothing(tmp_path: Path) -> None:
    many = [f"item{number}" for number in range(70)]
    alone = [f"once {tmp_path / 'a'}"]
    assert run(alone) == [alone[0].upper()]
    items = [*many, f"once {tmp_path / 'b'}", *many]
    assert run(items, 2) == [item.upper() for item in items]
    # Twice: with its chunk, and alone.
    items = [*many, f"once {tmp_path / 'c'}", f"once {tmp_path / 'd'}", *many]
    assert run(items, 2) == [item.upper() for item in items]


@pytest.mark.parametrize("workers", [1, 3])
def test_several_failures_in_one_chunk(workers: int) -> None:
    items = [f"item{number}" for number in range(200)]
    expected: list[Any] = [item.upper() for item in items]
    crash = Lost("decoder_crash", "ended by signal 11 (SIGSEGV)")
    for place in (0, 1, 63, 64, 199):
        items[place], expected[place] = "signal 11", crash
    items[30], expected[30] = "exit 7", Lost("decoder_crash", "ended with exit code 7")
    items[31], expected[31] = "loop", Lost("timeout", "more than 1 s of processor time")
    assert run(items, workers, cpu_seconds=1) == expected


def test_nothing_but_failures() -> None:
    assert run(["exit 1"] * 3, 2) == [Lost("decoder_crash", "ended with exit code 1")] * 3


@pytest.mark.parametrize("workers", [1, 2])
def test_items_are_read_as_they_are_needed(workers: int) -> None:
    read = 0

    def source() -> Iterator[bytes]:
        nonlocal read
        for _ in range(10_000):
            read += 1
            yield b"x"

    with closing(map_isolated(decoders.obey, source(), workers=workers, cpu_seconds=5, memory_bytes=MEMORY)) as found:
        assert read == 0
        for taken, result in zip(range(1, 2000), found, strict=False):
            assert result == "X"
            assert read - taken <= workers * isolation.WINDOW * isolation.CHUNK_ITEMS


def test_a_defect_is_raised_with_the_workers_traceback_after_what_came_before() -> None:
    items = [b"a"] * 64 + [b"defect"] + [b"b"] * 1000
    found = map_isolated(decoders.obey, items, workers=2, cpu_seconds=5, memory_bytes=MEMORY)
    assert [next(found) for _ in range(64)] == ["A"] * 64
    with pytest.raises(KeyError, match="no such thing") as caught:
        next(found)
    (note,) = caught.value.__notes__
    assert note.startswith("In a worker process:\nTraceback")
    assert "decoders_that_fail.py" in note


def test_a_defect_that_cannot_be_pickled_keeps_its_words() -> None:
    with pytest.raises(RuntimeError, match=r"Unpicklable: not round"):
        run(["unpicklable"])


def test_a_function_that_returns_too_few_is_a_defect() -> None:
    with pytest.raises(ValueError, match="returned 2 results for 3 items"):
        list(map_isolated(decoders.short, [b"a"] * 3, workers=1, cpu_seconds=5, memory_bytes=MEMORY))


def test_an_error_of_the_items_is_raised() -> None:
    def source() -> Iterator[bytes]:
        yield from [b"a"] * 200
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        list(map_isolated(decoders.obey, source(), workers=2, cpu_seconds=5, memory_bytes=MEMORY))


def test_closing_early_ends_workers_in_the_middle_of_a_call() -> None:
    items = [b"a"] * 64 + [b"loop"] * 64 + [b"sleep"] * 64
    found = map_isolated(decoders.obey, items, workers=3, cpu_seconds=60, memory_bytes=MEMORY)
    before = set(psutil.Process().children())
    assert next(found) == "A"
    assert len(set(psutil.Process().children()) - before) == 3
    found.close()
    assert set(psutil.Process().children()) <= before


def test_workers_leave_ctrl_c_to_the_parent() -> None:
    found = map_isolated(decoders.ignores, [b""] * 70, workers=2, cpu_seconds=5, memory_bytes=MEMORY)
    assert list(found) == [True] * 70
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_large_items_with_large_results_do_not_wait_for_each_other() -> None:
    items = [bytes([number]) * (20 * 2**20) for number in range(6)]
    with closing(map_isolated(decoders.twice, items, workers=2, cpu_seconds=30, memory_bytes=2**30)) as found:
        for item, result in zip(items, found, strict=True):
            assert result == item * 2


def test_in_another_thread() -> None:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.extend(run(["a", "signal 11"])))
    thread.start()
    thread.join()
    assert found == ["A", Lost("decoder_crash", "ended by signal 11 (SIGSEGV)")]


def test_where_no_process_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any, **options: Any) -> Any:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "Popen", full)
    with pytest.raises(EnvironmentFault, match=r"cannot start a worker process .*Resource temporarily unavailable"):
        run(["a"])


def test_where_processes_end_before_they_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation, "WORKER", "import os; os.abort()")
    with pytest.raises(EnvironmentFault, match=r"3 worker processes in a row .* signal 6 \(SIGABRT\)"):
        run(["a"])


def test_a_start_that_fails_once_is_made_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    first = f"import os, pathlib; p = pathlib.Path({str(marker)!r}); p.exists() or (p.touch(), os._exit(1)); "
    monkeypatch.setattr(isolation, "WORKER", first + isolation.WORKER)
    assert run(["a", "b"]) == ["A", "B"]
    assert marker.exists()


@pytest.mark.parametrize("wrong", [{"workers": 0}, {"cpu_seconds": 0}, {"memory_bytes": -1}])
def test_a_limit_that_is_none_is_refused(wrong: dict[str, int]) -> None:
    limits: dict[str, Any] = {"workers": 1, "cpu_seconds": 1, "memory_bytes": 1, **wrong}
    with pytest.raises(ValueError, match="each must be above 0"):
        map_isolated(decoders.obey, [], **limits)


# A parent whose workers are busy, in C code that never looks up, or idle; it says their numbers.
PARENT = """
import psutil, sys, time
from stages.store.isolation import map_isolated
from tests.store.decoders_that_fail import obey
items = [b"a"] * 128 + [word.encode() for word in sys.argv[1:]] * 128
found = map_isolated(obey, items, workers=2, cpu_seconds=600, memory_bytes=2**28)
for _ in range(128):
    next(found)
while len(sys.argv) > 1 and not all(child.cpu_times().user > 0.5 for child in psutil.Process().children()):
    time.sleep(0.05)
print(*(child.pid for child in psutil.Process().children()), flush=True)
list(found) if len(sys.argv) > 1 else time.sleep(600)
"""


def started(words: list[str]) -> tuple[subprocess.Popen[str], list[int]]:
    """A parent in a group of its own, and its workers' numbers."""
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, *words],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert parent.stdout is not None
    numbers = [int(word) for word in parent.stdout.readline().split()]
    if not numbers:
        raise AssertionError(parent.communicate()[1])
    return parent, numbers


@linux
@pytest.mark.parametrize("words", [[], ["loop-in-c"]], ids=["idle", "busy"])
def test_a_killed_parent_leaves_no_worker(words: list[str]) -> None:
    parent, numbers = started(words)
    workers = [psutil.Process(number) for number in numbers]
    parent.kill()
    parent.communicate()
    assert wait_for(lambda: not any(_runs(worker) for worker in workers), 60)


def _runs(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@linux
def test_ctrl_c_ends_the_parent_and_its_workers_without_a_word_of_theirs() -> None:
    parent, numbers = started(["loop-in-c"])
    os.killpg(parent.pid, signal.SIGINT)
    try:
        _, errors = parent.communicate(timeout=60)
    finally:
        parent.kill()
    assert parent.returncode == -signal.SIGINT
    assert errors.count("Traceback") == 1
    assert errors.rstrip().endswith("KeyboardInterrupt")
    assert not any(psutil.pid_exists(number) for number in numbers)


# A parent whose worker must start, and answer, within 3 s of its waiting.
HURRIED = """
import sys
from stages.store import isolation
from tests.store.decoders_that_fail import obey
isolation.START_SECONDS, isolation.WALL_FACTOR, isolation.WALL_SECONDS = 3, 0, 3
isolation.STARTS = 1
print(*isolation.map_isolated(obey, [sys.argv[1].encode()], workers=1, cpu_seconds=30, memory_bytes=2**28))
"""


@linux
def test_a_machine_that_sleeps_longer_than_the_deadlines_costs_no_item(tmp_path: Path) -> None:
    """The whole group is stopped, as by Ctrl-Z or a laptop's lid, while a worker starts and while one computes."""
    items = {"starts": "spin 0.5", "computes": f"begun {tmp_path / 'begun'}"}
    parents = {
        when: subprocess.Popen(
            [sys.executable, "-c", HURRIED, item], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE, text=True, start_new_session=True,
        )
        for when, item in items.items()
    }  # fmt: skip
    try:
        reached = {
            "starts": lambda: psutil.Process(parents["starts"].pid).children(),
            "computes": (tmp_path / "begun").exists,
        }
        for when, parent in parents.items():
            assert wait_for(lambda when=when: bool(reached[when]()), 60)  # type: ignore[misc]
            os.killpg(parent.pid, signal.SIGSTOP)
        # Monotonic clocks go on for a stopped process.
        time.sleep(4)
        for when, parent in parents.items():
            assert parent.poll() is None
            os.killpg(parent.pid, signal.SIGCONT)
            assert parent.communicate(timeout=60)[0].strip() == items[when].upper()
            assert parent.returncode == 0
    finally:
        for parent in parents.values():
            parent.kill()
            parent.wait()
            parent.stdout.close()  # type: ignore[union-attr]


def test_a_function_of_main_is_refused() -> None:
    code = (
        "from stages.store.isolation import map_isolated\ndef f(chunk): return chunk\n"
        "map_isolated(f, [], workers=1, cpu_seconds=1, memory_bytes=1)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=180)
    assert "move it to a module" in done.stderr
