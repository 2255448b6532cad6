"""Writes one export format in a process of its own: what ends a converter there costs its format, not the stage.

The process starts TensorFlow anew and loads the model from the file that the stage loaded it from. A fork would be
quicker, and is not safe: of TensorFlow's threads it has none, but the locks they held.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from stages.core import errors, temperature
from stages.core.errors import EnvironmentFault, GraftError
from stages.store import exported, lifeline, machine_faults, models, process, tensorflow_runtime

if TYPE_CHECKING:
    import keras

THREADS, SEED = 2, 0  # what the stage starts TensorFlow with, too
DEADLINE = 3600.0  # seconds for a converter, by the wall clock: far more than any should take
START_SECONDS = 600.0  # for its process to import TensorFlow and load the model
PERIOD = 0.2  # seconds between two looks
GRACE = 10.0  # seconds to wait for the end of what it prints
KEPT = 2**16  # bytes of what it printed last, so that one that prints for ever fills nothing
LAST, SAID = 5, 2000  # lines and characters of that in the log
# SIGBUS with them, which a disk can cause: what is free there is looked at.
CRASHES = {*exported.CRASHES, signal.SIGBUS}
STOPS = (signal.SIGINT, signal.SIGTERM)
READY = "ready"  # the file that says that the converter begins
FATAL = "Fatal Python error"  # what faulthandler begins with
CHILD = "import sys; sys.path[:] = sys.argv[2:]; from stages.store import conversion; conversion.serve(sys.argv[1])"


@dataclass(frozen=True)
class Source:
    """The model that is exported, so that any process can make the same: `path` is a `.keras` file of fine_tune.

    `temperature` is what its logits are divided by; None divides nothing.
    """

    path: Path
    temperature: float | None

    def model(self) -> keras.Model:
        """TensorFlow must have been started. Raises IntegrityError where the file is no such model."""
        model = models.load(self.path)
        if self.temperature is not None:
            temperature.divide_logits(model, self.temperature)
        return model


def write(
    format_: str, source: Source, weights: int, classes: list[str], folder: Path, examples: exported.Pixels
) -> Path:
    """`exported.write` of the source's model, which has this many weights, in another process: the same bytes.

    Raises what that raises, and FormatFailed, too, where the process is ended by a crash of what runs in it (CRASHES),
    ends without a word, or is not done within DEADLINE. Sent SIGINT or SIGTERM it ends this process as if sent here;
    other signals, SIGKILL above all, which Linux ends a process with where memory runs out, are an EnvironmentFault.

    The process and what it started end before this returns, and with this process where this is its main thread.
    Its temporary files are in `folder`, and are gone after.
    """
    exported.check_installed(format_)
    scratch = (folder / ".converting").resolve()
    scratch.mkdir()
    try:
        np.save(scratch / "examples.npy", examples)
        request = {
            "format": format_, "path": str(source.path.resolve()), "temperature": source.temperature,
            "classes": classes, "folder": str(folder.resolve()),
            # In another thread the kernel would take that thread's end for the process's.
            "parent": os.getpid() if threading.current_thread() is threading.main_thread() else 0,
        }  # fmt: skip
        (scratch / "request.json").write_text(json.dumps(request), encoding="utf-8")
        code, printed = _run(scratch)
        outcome, ready = _outcome(scratch), (scratch / READY).exists()
        if outcome is None:
            _judge(format_, code, printed, ready, folder, weights)
        elif outcome["kind"] == "Exception" and not ready:
            raise _unusable(format_, "cannot start", outcome["said"])
        elif outcome["kind"] != "done":
            raise _raised(outcome)
    finally:
        shutil.rmtree(scratch)
    return folder / exported.PLACES[format_]


def _run(scratch: Path) -> tuple[int | None, str]:
    """The process's exit code, as subprocess gives it, None past a deadline; and what it printed last."""
    path = [os.path.abspath(entry) for entry in sys.path]
    child = subprocess.Popen(
        [sys.executable, "-X", "faulthandler", "-c", CHILD, str(scratch), *path],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0, cwd=scratch,
        # The stage holds what a GPU has: TensorFlow would else ask for all that is left, before it is needed.
        env={"TF_FORCE_GPU_ALLOW_GROWTH": "true", **os.environ, "TMPDIR": str(scratch)}, process_group=0,
    )  # fmt: skip
    assert child.stdout is not None
    printed = bytearray()

    def read(pipe: IO[bytes]) -> None:
        while data := pipe.read(KEPT):
            printed.extend(data)
            del printed[:-KEPT]

    # It never waits for this to be read, nor this process for the end of a pipe that it may have handed on.
    reader = threading.Thread(target=read, args=[child.stdout], daemon=True)
    try:
        reader.start()
        code = _wait(child, scratch / READY)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)  # with what it started
        child.wait()
    reader.join(GRACE)
    if not reader.is_alive():
        child.stdout.close()
    return code, bytes(printed).decode(errors="replace")


def _wait(child: subprocess.Popen[bytes], ready: Path) -> int | None:
    since, seconds, begun = time.monotonic(), START_SECONDS, False
    while True:
        with suppress(subprocess.TimeoutExpired):
            return child.wait(PERIOD)
        if not begun and ready.exists():
            since, seconds, begun = time.monotonic(), DEADLINE, True
        elif time.monotonic() > since + seconds:
            return None


def _judge(format_: str, code: int | None, printed: str, ready: bool, folder: Path, weights: int) -> None:
    """Raise what it means that the process ended, or was ended at a deadline (None), without an outcome."""
    before, _, fatal = printed.partition(FATAL)
    last = "\n".join(before.strip().splitlines()[-LAST:])
    log = " ".join([*last.split(), *(f"{FATAL}{fatal}".split() if fatal else ())])[:SAID]
    number = -code if code is not None and code < 0 else (code or 0) - 128
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    if number == signal.SIGTERM:
        raise process.Terminated(128 + number)
    if code is None:
        how = f"did not end in {DEADLINE:,g} s" if ready else f"did not start in {START_SECONDS:,g} s"
    else:
        how = f"was ended by {_name(-code)}" if code < 0 else f"ended with {code}"
    if fault := machine_faults.of(RuntimeError(last)):
        raise fault
    if exported.out_of_memory(printed):
        raise MemoryError(last)
    if not ready or (code is not None and code < 0 and -code not in CRASHES):
        how += ", as Linux does where memory runs out" if code == -signal.SIGKILL else ""
        raise _unusable(format_, how, log)
    exported.check_space(folder, weights)
    raise exported.FormatFailed(
        f"export.formats: {format_!r} cannot be written, its converter {how}", f"cannot be written, its converter {how}"
    ) from RuntimeError(f"its converter {how}{': ' if log else ''}{log}")


def _unusable(format_: str, how: str, said: str) -> EnvironmentFault:
    return EnvironmentFault(
        f"export.formats: the process that writes {format_!r} {how} ({' '.join(said.split()) or 'it said nothing'}); "
        "nothing was published. Free some memory, then run it again"
    )


def _name(number: int) -> str:
    return next((one.name for one in signal.Signals if one == number), f"signal {number}")


def _outcome(scratch: Path) -> dict[str, Any] | None:
    """What `serve` left; None where it did not come to that, or was ended while it wrote."""
    try:
        found: dict[str, Any] = json.loads((scratch / "outcome.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return found


def _raised(outcome: dict[str, Any]) -> BaseException:
    """The error that an outcome tells of, with its cause where it has one."""
    kind, said = outcome["kind"], outcome["said"]
    if kind == "FormatFailed":
        failed = exported.FormatFailed(said, outcome["why"])
        failed.__cause__ = RuntimeError(outcome["cause"])
        return failed
    if kind == "OSError":
        return OSError(outcome["errno"], said, outcome["file"])
    found = getattr(errors, kind, MemoryError if kind == "MemoryError" else RuntimeError)
    error: BaseException = found(said)
    return error


def serve(scratch: str) -> None:
    """The other process's life: do what `request.json` in `scratch` asks, leave `outcome.json` there, and end."""
    place = Path(scratch)
    request = json.loads((place / "request.json").read_text(encoding="utf-8"))
    if request["parent"]:
        lifeline.end_with_parent(request["parent"])
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    for number in STOPS:
        signal.signal(number, signal.SIG_DFL)  # whatever was ignored where the stage was started
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
    try:
        tensorflow_runtime.start(THREADS, SEED)
        model = Source(Path(request["path"]), request["temperature"]).model()
        (place / READY).touch()
        examples = np.load(place / "examples.npy")
        # What it prints is caught: a library that aborts says there, and only there, that memory ran out.
        exported.write(
            request["format"], model, request["classes"], Path(request["folder"]), examples, silent=nullcontext
        )
        outcome = {"kind": "done"}
    except Exception as error:
        outcome = _told(error)
    (place / "outcome.json").write_text(json.dumps(outcome), encoding="utf-8")
    os._exit(0)  # the format is there: a library that crashes as it is unloaded takes nothing back


def _told(error: Exception) -> dict[str, Any]:
    """An outcome that `_raised` makes the same error of, as far as it matters to who reports it."""
    if isinstance(error, exported.FormatFailed):
        return {"kind": "FormatFailed", "said": str(error), "why": error.why, "cause": str(error.__cause__ or error)}
    if isinstance(error, GraftError):
        known = next(one.__name__ for one in type(error).__mro__ if hasattr(errors, one.__name__))
        return {"kind": known, "said": str(error)}
    if isinstance(error, OSError) and error.errno is not None:
        file = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else None
        return {"kind": "OSError", "said": str(error.strerror), "errno": error.errno, "file": file}
    said = "".join(traceback.format_exception(error, limit=0))
    return {"kind": "MemoryError" if isinstance(error, MemoryError) else "Exception", "said": said}
