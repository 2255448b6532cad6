"""Runs a pure function over byte strings in worker processes: what breaks a decoder costs one item, not the run.

A worker is a new interpreter with one end of a socket pair. Unlike multiprocessing's spawn it imports the function's
module and not `__main__`, which for a stage is 0.15 s instead of 0.8, and it needs no process to track resources.
The parent has no thread: it writes only what a socket takes at once and reads whatever is there, so no two ends
can wait for each other.
"""

from __future__ import annotations

import heapq
import os
import pickle
import resource
import selectors
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from stages.core.errors import EnvironmentFault
from stages.store import lifeline

T = TypeVar("T")

CHUNK_ITEMS = 64
CHUNK_BYTES = 8 * 2**20  # a larger item is a chunk of its own
AHEAD = 2  # chunks a worker holds, so that it never waits for the next
WINDOW = 4  # chunks a worker that are read but not yet yielded; bounds memory
START_SECONDS = 300.0  # for a worker to import what it needs
STARTS = 3  # workers in a row that end before they are ready: the machine is at fault, not an item
WALL_FACTOR, WALL_SECONDS = 10.0, 30.0  # backstop: factor x cpu_seconds + seconds without an answer
PERIOD = 1.0  # seconds; the longest wait between two looks at the deadlines
PAUSE = 0.002  # seconds; while results are taken one by one, the shortest between two looks at the sockets
GRACE = 10.0  # seconds between a worker's closing its socket and its end
BUFFER = 2**20  # bytes that a socket holds for a worker

# A small picture's memory would be given back to the system and asked for again, page by page, for each picture: with
# glibc's own thresholds measuring 3,000 photographs takes 1.4 times as long.
ALLOCATOR = {"MALLOC_TRIM_THRESHOLD_": str(2**27), "MALLOC_MMAP_THRESHOLD_": str(2**25)}

READY, DONE, RAISED, MEMORY = b"R", b"D", b"X", b"M"  # the first byte of what a worker says
LENGTH = struct.Struct(">Q")  # before every message
STOPPING = {signal.SIGINT, signal.SIGTERM}
WORKER = (
    "import sys; sys.path[:] = sys.argv[3:]; from stages.store import isolation; "
    "isolation._serve(int(sys.argv[1]), int(sys.argv[2]))"
)


@dataclass(frozen=True)
class Lost:
    """Stands for the result of an item that has none. `detail` says what happened, with units."""

    reason: Literal["decoder_crash", "timeout", "memory"]
    detail: str


def map_isolated(
    function: Callable[[list[bytes]], list[T]],
    items: Iterable[bytes],
    *,
    workers: int,
    cpu_seconds: float,
    memory_bytes: int,
) -> Generator[T | Lost, None, None]:
    """`function` over chunks of `items` in up to `workers` processes; its results in the order of `items`.

    `function` takes a list of byte strings and returns one result for each. It must be pure, for a chunk may be
    computed again, and belong to a module that can be imported, which `__main__` cannot. A call may use
    `cpu_seconds` of processor time, over all threads, and `memory_bytes` of address space beyond what the worker
    had after its imports (no limit where there is no /proc). Processor time, because a busy machine may not change a
    result; a worker that uses none is ended after 10 x `cpu_seconds` + 30 s of waiting for it.

    A chunk that breaks a limit or its worker is computed again item by item, each with the full limits. An item that
    does so alone is tried once more in a new worker, unless its time was up, and then gives Lost.

    `items` is read as it is needed: 4 chunks a worker, of up to 64 items or 8 MiB, are in memory at most. Closing
    the generator, or an exception, ends all workers. Run it in the main thread: then they also end, in the middle of
    a call, when this process is killed.

    Raises ValueError for a limit that is none, EnvironmentFault where no process can be started, and any exception
    but MemoryError that `function` raises, with the worker's traceback as a note.
    """
    if workers < 1 or cpu_seconds <= 0 or memory_bytes <= 0:
        raise ValueError(f"{workers} workers, {cpu_seconds} s, {memory_bytes} bytes: each must be above 0")
    if getattr(function, "__module__", None) == "__main__":
        raise ValueError(f"{function!r} belongs to __main__, which a worker cannot import; move it to a module")
    pool: _Pool[T] = _Pool(function, items, workers, cpu_seconds, memory_bytes)
    return pool.results()


def _chunks(items: Iterable[bytes]) -> Iterator[list[bytes]]:
    chunk: list[bytes] = []
    size = 0
    for item in items:
        if chunk and size + len(item) > CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
        chunk.append(item)
        size += len(item)
        if len(chunk) == CHUNK_ITEMS or size >= CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


class _Chunk:
    """Results of one chunk as they come in."""

    def __init__(self, number: int, size: int) -> None:
        self.number = number
        self.results: list[Any] = [None] * size
        self.missing = size
        self.error: Exception | None = None

    def fill(self, first: int, results: list[Any]) -> None:
        self.results[first : first + len(results)] = results
        self.missing -= len(results)


@dataclass
class _Task:
    """A whole chunk, or one item of a chunk that failed."""

    chunk: _Chunk
    first: int  # place of the first item in the chunk
    items: list[bytes]
    again: bool = False  # alone it ended a worker once; what it does in a new one is final

    def __lt__(self, other: _Task) -> bool:
        return (self.chunk.number, self.first) < (other.chunk.number, other.first)


class _Worker:
    """The parent's side of one process."""

    def __init__(self, setup: bytes) -> None:
        self.tasks: deque[_Task] = deque()  # the first one is being computed
        self.ready = False
        self.ended = False
        self.since = 0.0  # on the pool's clock: when it began to start, or to compute its first task
        self.outgoing: deque[memoryview] = deque()
        self.incoming = memoryview(bytearray(LENGTH.size))  # a message's length or, `within` one, the message
        self.got = 0  # bytes of it that are there
        self.within = False
        # In another thread the kernel would take that thread's end for the parent's.
        parent = os.getpid() if threading.current_thread() is threading.main_thread() else 0
        path = [entry or os.getcwd() for entry in sys.path]
        self.socket, theirs = socket.socketpair()
        try:
            self.socket.setblocking(False)
            # Room for a chunk of small images, so that the next one lies there while this process is busy elsewhere.
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
            end = str(theirs.fileno())
            self.process = subprocess.Popen(
                [sys.executable, "-c", WORKER, end, str(parent), *path],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env={**ALLOCATOR, **os.environ},
            )
        except BaseException:
            self.socket.close()
            raise
        finally:
            theirs.close()
        self.send(setup)

    def send(self, message: bytes) -> None:
        self.outgoing += (memoryview(LENGTH.pack(len(message))), memoryview(message))
        self.push()

    def push(self) -> None:
        """Write as much as the socket takes."""
        try:
            while self.outgoing:
                rest = self.outgoing[0][self.socket.send(self.outgoing[0]) :]
                if rest:
                    self.outgoing[0] = rest
                else:
                    self.outgoing.popleft()
        except BlockingIOError:
            pass
        except ConnectionError:
            self.outgoing.clear()  # it has ended; reading says so, after what it said last

    def pull(self) -> Iterator[memoryview]:
        """Every message that is there; sets `ended` behind the last one."""
        while not self.ended:
            try:
                got = self.socket.recv_into(self.incoming[self.got :])
            except BlockingIOError:
                return
            except ConnectionError:
                got = 0
            self.ended = not got
            self.got += got
            if self.got < len(self.incoming):
                continue
            whole, self.got = self.incoming, 0
            if self.within:
                self.incoming = memoryview(bytearray(LENGTH.size))
            else:
                self.incoming = memoryview(bytearray(LENGTH.unpack(whole)[0]))
            self.within = not self.within
            if not self.within:
                yield whole

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.socket.close()


class _Pool(Generic[T]):
    def __init__(
        self,
        function: Callable[[list[bytes]], list[T]],
        items: Iterable[bytes],
        workers: int,
        cpu_seconds: float,
        memory_bytes: int,
    ) -> None:
        self._setup = pickle.dumps((function, cpu_seconds, memory_bytes))
        self._items = iter(items)
        self._source: Iterator[list[bytes]] = iter(())
        self._limit = workers
        self._cpu_seconds = cpu_seconds
        self._wall_seconds = WALL_FACTOR * cpu_seconds + WALL_SECONDS
        self._too_large = Lost("memory", f"more than {memory_bytes / 2**20:,.0f} MiB of memory")
        self._workers: list[_Worker] = []
        self._open: deque[_Chunk] = deque()  # not yet yielded, in order
        self._count = 0  # chunks read
        self._waiting: list[_Task] = []  # a heap: what comes first in the order is computed first
        self._again: deque[_Task] = deque()  # each needs a new worker; the one it ended left its place
        self._failed_starts = 0
        # Seconds spent waiting, not seconds passed: a result that its reader leaves for an hour, or an hour in
        # which the terminal stopped this process and its workers, is no worker's fault.
        self._clock = 0.0
        self._looked = 0.0

    def results(self) -> Generator[T | Lost, None, None]:
        self._selector = selectors.DefaultSelector()
        try:
            first = list(islice(self._items, 1))
            if first:
                self._start()  # it imports what it needs while the first chunk is read
            self._source = _chunks(chain(first, self._items))
            self._assign()
            while self._open:
                head = self._open[0]
                if head.error is not None:
                    raise head.error
                if head.missing:
                    self._turn(PERIOD)
                    continue
                for result in head.results:
                    yield result
                    if time.monotonic() > self._looked + PAUSE:
                        self._turn(0)
                self._open.popleft()
                self._assign()
        finally:
            for worker in self._workers:
                worker.process.kill()  # all of them first: waiting may be interrupted
            for worker in self._workers:
                worker.close()
            self._workers.clear()
            self._selector.close()

    def _turn(self, seconds: float) -> None:
        """Wait up to `seconds` until a worker says something or takes more; then act on it."""
        start = time.monotonic()
        events = self._selector.select(seconds)
        self._looked = time.monotonic()
        self._clock += min(self._looked - start, PERIOD)
        for key, event in events:
            worker: _Worker = key.data
            if event & selectors.EVENT_WRITE:
                worker.push()
                self._listen(worker)
            if event & selectors.EVENT_READ:
                self._hear(worker)
        for worker in list(self._workers):
            if self._clock - worker.since > START_SECONDS and not worker.ready:
                self._end(worker, Lost("timeout", f"not started within {START_SECONDS:g} s"))
            elif self._clock - worker.since > self._wall_seconds and worker.ready and worker.tasks:
                self._end(worker, Lost("timeout", f"no answer within {self._wall_seconds:g} s"))
        self._assign()

    def _hear(self, worker: _Worker) -> None:
        for message in worker.pull():
            kind, body = message[:1], message[1:]
            worker.since = self._clock
            if kind == READY:
                worker.ready = True
                self._failed_starts = 0
            elif kind == DONE:
                task = worker.tasks.popleft()
                task.chunk.fill(task.first, pickle.loads(body))
            elif kind == RAISED:
                worker.tasks.popleft().chunk.error = _exception(*pickle.loads(body))
            else:
                self._end(worker, self._too_large)
                return
        if worker.ended:
            with suppress(subprocess.TimeoutExpired):
                worker.process.wait(GRACE)
            worker.process.kill()  # nothing, but for one that closed its socket and stayed
            self._end(worker, self._verdict(worker.process.wait()))

    def _verdict(self, code: int) -> Lost:
        """What a worker's exit code says; a negative one is a signal."""
        if code == -signal.SIGPROF:
            return Lost("timeout", f"more than {self._cpu_seconds:g} s of processor time")
        if code >= 0:
            return Lost("decoder_crash", f"ended with exit code {code}")
        names = {number.value: f" ({number.name})" for number in signal.Signals}
        return Lost("decoder_crash", f"ended by signal {-code}{names.get(-code, '')}")

    def _end(self, worker: _Worker, verdict: Lost) -> None:
        """Put a worker away and its tasks back; the one it was at is to blame, if it was ready for any."""
        self._selector.unregister(worker.socket)
        worker.close()
        self._workers.remove(worker)
        tasks = worker.tasks
        if not worker.ready:
            self._failed_starts += 1
            if self._failed_starts == STARTS:
                raise EnvironmentFault(
                    f"{STARTS} worker processes in a row ended before they could work, the last {verdict.detail}; "
                    f"see above why, or free some memory, then run it again"
                )
        elif tasks:
            blamed = tasks.popleft()
            if len(blamed.items) > 1:
                for place, item in enumerate(blamed.items):
                    heapq.heappush(self._waiting, _Task(blamed.chunk, blamed.first + place, [item]))
            elif blamed.again or verdict.reason == "timeout":
                blamed.chunk.fill(blamed.first, [verdict])
            else:
                blamed.again = True
                self._again.append(blamed)
        for task in tasks:
            if task.again:
                self._again.append(task)
            else:
                heapq.heappush(self._waiting, task)

    def _assign(self) -> None:
        """Give tasks to the workers that hold few, starting workers only for tasks that would wait."""
        while self._again and len(self._workers) < self._limit:
            self._give(self._start(), self._again.popleft())
        while True:
            least = min(self._workers, key=lambda worker: len(worker.tasks), default=None)
            if (least is None or least.tasks) and len(self._workers) < self._limit:
                least = None  # a new one
            elif least is None or len(least.tasks) == AHEAD:
                return
            task = self._next()
            if task is None:
                return
            self._give(least or self._start(), task)

    def _next(self) -> _Task | None:
        if self._waiting:
            return heapq.heappop(self._waiting)
        items = next(self._source, None) if len(self._open) < WINDOW * self._limit else None
        if items is None:
            return None
        self._open.append(_Chunk(self._count, len(items)))
        self._count += 1
        return _Task(self._open[-1], 0, items)

    def _give(self, worker: _Worker, task: _Task) -> None:
        if not worker.tasks:
            worker.since = self._clock
        worker.tasks.append(task)
        worker.send(pickle.dumps(task.items))
        self._listen(worker)

    def _listen(self, worker: _Worker) -> None:
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if worker.outgoing else 0)
        self._selector.modify(worker.socket, events, worker)

    def _start(self) -> _Worker:
        # Ctrl-C reaches the whole group. Blocked here, it cannot part a worker from the list that ends it, nor
        # reach the worker before that ignores it.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
        try:
            worker = _Worker(self._setup)
            self._workers.append(worker)
            self._selector.register(worker.socket, selectors.EVENT_READ, worker)
        except OSError as error:
            raise EnvironmentFault(
                f"cannot start a worker process ({error}); free some memory, or raise the limits on processes and "
                f"open files (ulimit -u, ulimit -n), then run it again"
            ) from error
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return worker


def _exception(pickled: bytes, text: str) -> Exception:
    """The exception that a worker met, or a RuntimeError where it does not survive pickling."""
    error: Exception = RuntimeError(text.splitlines()[-1])
    with suppress(Exception):
        error = pickle.loads(pickled)
    error.add_note(f"In a worker process:\n{text}")
    return error


def _serve(descriptor: int, parent: int) -> None:
    """A worker's life: the function and its limits come first, then chunks, until the other end closes."""
    if parent:
        lifeline.end_with_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # the kernel's own: it ends a loop in C code, too
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {*STOPPING, signal.SIGPROF})
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    os.set_inheritable(descriptor, False)
    with socket.socket(fileno=descriptor) as link, suppress(ConnectionError, EOFError):
        setup = _receive(link)
        try:
            function, cpu_seconds, memory_bytes = pickle.loads(setup)
        except Exception as error:
            _send(link, _raised(error))
            return
        _limit_memory(memory_bytes)
        _send(link, READY)
        answer = READY
        while answer != MEMORY:  # after that the process may be in pieces: the next item gets a new one
            try:
                chunk = pickle.loads(_receive(link))
                answer = _answer(function, chunk, cpu_seconds)
            except MemoryError:
                answer = MEMORY
            _send(link, answer)


def _answer(function: Callable[[list[bytes]], list[Any]], chunk: list[bytes], cpu_seconds: float) -> bytes:
    try:
        signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
        try:
            results = function(chunk)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        if len(results) != len(chunk):
            raise ValueError(f"{function!r} returned {len(results)} results for {len(chunk)} items")
        return DONE + pickle.dumps(results)
    except MemoryError:
        raise
    except Exception as error:
        return _raised(error)


def _raised(error: Exception) -> bytes:
    try:
        pickled = pickle.dumps(error)
    except Exception:
        pickled = b""
    return RAISED + pickle.dumps((pickled, "".join(traceback.format_exception(error))))


def _limit_memory(memory_bytes: int) -> None:
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = pages * resource.getpagesize() + memory_bytes
    legal = [bound for bound in (soft, hard) if bound != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min([wanted, *legal]), hard))


def _send(link: socket.socket, message: bytes) -> None:
    link.sendall(LENGTH.pack(len(message)))
    link.sendall(message)


def _receive(link: socket.socket) -> bytearray:
    (size,) = LENGTH.unpack(_exactly(link, LENGTH.size))
    return _exactly(link, size)


def _exactly(link: socket.socket, size: int) -> bytearray:
    """Exactly `size` bytes. Raises EOFError where the other end closes before."""
    data = bytearray(size)
    rest = memoryview(data)
    while rest:
        got = link.recv_into(rest)
        if not got:
            raise EOFError
        rest = rest[got:]
    return data
