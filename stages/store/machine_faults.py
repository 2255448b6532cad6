"""Tells a fault of the machine (disk, descriptors, rights, memory) from a defect, and says what to do about it."""

from __future__ import annotations

import errno
import os
import resource
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from stages.core.errors import EnvironmentFault, GraftError, IntegrityError

FULL = (errno.ENOSPC, errno.EDQUOT)
ADVICE = {
    errno.EIO: "the disk may be failing: look at the system's log",
    errno.EROFS: "mount the file system writable",
    errno.EACCES: "let this user write there",
    errno.EPERM: "let this user write there",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
    errno.ENFILE: "close other programs: the machine has too many files open",
    errno.ENOMEM: "free some memory or raise its limit (ulimit -v)",
    errno.EAGAIN: "raise the limit on processes (ulimit -u)",
    errno.EFBIG: "raise the limit on a file's size (ulimit -f)",
}
# What SQLite says of SQLITE_IOERR, SQLITE_FULL, SQLITE_READONLY and SQLITE_CANTOPEN: DVCLive opens DVC's databases.
SQLITE = {
    "disk I/O error": errno.EIO,
    "database or disk is full": errno.ENOSPC,
    "attempt to write a readonly database": errno.EROFS,
    "unable to open database file": errno.EACCES,
}
OUT_OF_MEMORY = ("std::bad_alloc", "can't start new thread", "failed to map segment")
# What CPython says of C code that failed and could not even make the exception. With no limit on memory it is a defect.
UNSAID = ("without setting an exception", "without exception set")
NEARLY_FULL = 2**16  # bytes free; below, an error that gives no reason has this one


def of(error: BaseException) -> EnvironmentFault | None:
    """The same as a fault of the machine; None where it is none.

    What graft raised on purpose is left as it is, but for an IntegrityError over a file that the machine could not
    read: nothing is wrong with its bytes.
    """
    if isinstance(error, GraftError) and not isinstance(error, IntegrityError):
        return None
    number, path = _found(error)
    if number is None:
        return None
    if number == errno.ENOMEM:
        return EnvironmentFault(f"out of memory ({_said(error)}; {_limits()}); {ADVICE[number]}, then run it again")
    # Rows on their way (stages/store/spill.py) are in a file without a name.
    place = path or f"a file in {Path.cwd()}"
    advice = f"{_free(path or Path.cwd()):,} bytes are free there: free some" if number in FULL else ADVICE[number]
    return EnvironmentFault(f"{place}: {os.strerror(number)}; {advice}, then run it again")


def while_writing(error: BaseException, partials: Mapping[Path, Path]) -> EnvironmentFault | None:
    """`of` an error that came while working folders (keys) were filled that should become outputs (values).

    Names the output, the file and, for a full disk, the bytes needed. A library's error that gives no reason counts as
    a full disk where the disk is.
    """
    number, path = _found(error)
    if number is None and not isinstance(error, OSError | GraftError) and any(map(_is_full, partials)):
        number = errno.ENOSPC
    if number is None or isinstance(error, GraftError):
        return None
    outputs = ", ".join(str(target) for target in partials.values())
    path = path or _newest(partials)
    writing = f" ({path})" if path else ""
    if number not in FULL:
        known = f"{os.strerror(number)}; {ADVICE[number]}, then run it again"
        what = str(of(error)) if number == errno.ENOMEM else known
        return EnvironmentFault(f"{outputs}{writing}: not written: {what}")
    partial, target = next(((a, b) for a, b in partials.items() if path and path.is_relative_to(a)),
                           next(iter(partials.items())))  # fmt: skip
    written, free, before = _size(partial), _free(target), _recorded(target)
    need = f"it needs {before:,} bytes, as its last version did" if before > written else (
        f"it needs more than the {written + free:,} bytes there were"
    )  # fmt: skip
    return EnvironmentFault(
        f"{outputs}{writing}: {os.strerror(number)}: {need}, and DVC's cache as many; {free:,} are free without it. "
        "Free some space, then run it again"
    )


def _found(error: BaseException) -> tuple[int | None, Path | None]:
    """The first machine's fault in the chain of causes: its errno, and the file it names."""
    for one in _chain(error):
        if isinstance(one, MemoryError) or (isinstance(one, SystemError) and _is_unsaid(one)):
            return errno.ENOMEM, None
        if isinstance(one, OSError) and one.errno in (*FULL, *ADVICE):
            return one.errno, _path(one)
        if type(one).__module__ == "sqlite3" and str(one) in SQLITE:  # which most stages do not import
            return SQLITE[str(one)], None
        if isinstance(one, Exception) and not isinstance(one, GraftError):
            for number in (*FULL, *ADVICE):
                # Libraries in C++ and HDF5 say it in words alone.
                if os.strerror(number) in str(one):
                    return number, None
            if any(words in str(one) for words in OUT_OF_MEMORY):
                return errno.ENOMEM, None
    return None, None


def _is_unsaid(error: SystemError) -> bool:
    limited = resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY
    return limited and any(words in str(error) for words in UNSAID)


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)


def _path(error: OSError) -> Path | None:
    name = error.filename2 or error.filename
    return Path(os.fsdecode(name)) if isinstance(name, str | bytes) else None


def _said(error: BaseException) -> str:
    first = next((line for line in str(error).splitlines() if line), "")
    return first[:200] or type(error).__name__


def _limits() -> str:
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts KiB
    limit = "no limit set" if soft == resource.RLIM_INFINITY else f"its limit is {soft:,} bytes"
    return f"at most {used:,} bytes were resident, {limit}"


def _newest(partials: Mapping[Path, Path]) -> Path | None:
    """The file written last: who writes through a descriptor gets an error without a name."""
    files = [(path.stat().st_mtime_ns, path) for partial in partials for path in partial.rglob("*") if path.is_file()]
    return max(files)[1] if files else None


def _is_full(partial: Path) -> bool:
    return _free(partial) < NEARLY_FULL


def _free(path: Path) -> int:
    """Bytes free where `path` lies or would lie."""
    there = next(one for one in (path, *path.absolute().parents) if one.exists())
    return shutil.disk_usage(there).free


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _recorded(target: Path) -> int:
    """Bytes of the version before: as it lies there or, as DVC removes it before a run, in dvc.lock; 0 for unknown."""
    if target.exists():
        return _size(target)
    try:
        stages = YAML(typ="safe").load(Path("dvc.lock").read_text())["stages"]
        outs = [out for stage in stages.values() for out in stage.get("outs", [])]
        return int(next(out["size"] for out in outs if out["path"] == target.as_posix()))
    except (OSError, YAMLError, StopIteration, ValueError, TypeError, KeyError, AttributeError):
        return 0
