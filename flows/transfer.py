"""One push or fetch of DVC's as a process that can be ended: a server that sends a byte a second keeps DVC for ever.

What the process is given: push, fetch or object; the remote; seconds to wait for DVC's files; targets, or an object's
MD5 and the path it is written to. Its last line is how many objects came or went, or what was wrong; exit 0, 5, or 6
where DVC's files stayed in use.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flows import child
from flows.faults import CheckoutBusy, Refused
from flows.redact import redact

SECONDS = "GRAFT_REMOTE_SECONDS"  # how long one push or fetch may take
DEADLINE = 6 * 3600.0
BUSY = CheckoutBusy.exit_code
# Not `-m`: that looks for this package in the working folder first, which may be an older commit's tree.
PROGRAM = "import sys; sys.path.insert(0, sys.argv.pop(1)); from flows.transfer import main; sys.exit(main())"


def run(root: Path, what: str, remote: str, targets: list[str], patience: float) -> int:
    """Push or fetch (`what`) targets; how many objects it moved.

    `patience` is how long to wait for other DVC processes, in seconds. Raises CheckoutBusy after it, and Refused
    where the remote cannot be reached or the time that GRAFT_REMOTE_SECONDS gives is up.
    """
    try:
        code, last = _in_a_process(root, what, remote, f"{patience:g}", *targets)
    except TimeoutError as late:
        raise Refused(
            f"cannot {what} {_preposition(what)} the DVC remote {remote!r}: {late} ({SECONDS} sets how long it may "
            "take); what is there already is not sent again: run again"
        ) from None
    if code == 0:
        return int(last)
    if code == BUSY:
        raise CheckoutBusy(last)
    raise Refused(
        f"cannot {what} {_preposition(what)} the DVC remote {remote!r}: {last}. Look at `dvc remote list` and whether "
        "it can be reached; then run again"
    )


def fetch_object(root: Path, remote: str, md5: str, target: Path) -> None:
    """Write one object of a remote to `target`, its bytes as they come.

    Raises Refused where that fails, and TimeoutError where the time that GRAFT_REMOTE_SECONDS gives is up.
    """
    code, last = _in_a_process(root, "object", remote, "0", md5, str(target))
    if code:
        raise Refused(last)


def _in_a_process(root: Path, *arguments: str) -> tuple[int, str]:
    """Its exit code and last line. Raises TimeoutError at the deadline."""
    lines: list[str] = []
    ours = str(Path(__file__).parents[1])
    code = child.run([sys.executable, "-c", PROGRAM, ours, *arguments], root, lines.append, deadline())
    return code, lines[-1] if lines else "it said nothing"


def deadline() -> float:
    """Seconds that one transfer may take."""
    try:
        given = float(os.environ[SECONDS])
    except (KeyError, ValueError):
        return DEADLINE
    return given if given > 0 else DEADLINE


def patiently(action: Callable[[], Any], patience: float) -> Any:
    """Do it, again while another DVC process holds the repository or the files; CheckoutBusy after `patience`."""
    from dvc.lock import LockError

    until = time.monotonic() + patience
    while True:
        try:
            return action()
        except LockError as error:
            # DVC itself tries for 3 s each time.
            if time.monotonic() >= until:
                raise CheckoutBusy(f"{error}; waited {patience:g} s. Run again when it has ended") from None
        time.sleep(1.0)


def whole(error: BaseException) -> str:
    """An error with what caused it, on one line: DVC says the useful half in the cause."""
    cause = error.__cause__
    said = f"{error} ({cause})" if cause and str(cause) not in str(error) else str(error)
    return redact(" ".join(said.split()))


def _preposition(what: str) -> str:
    return "to" if what == "push" else "from"


class _Causes(logging.Handler):
    """Keeps the last error that DVC logs: of a fetch it raises only how many files did not come."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.last: BaseException | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Keep what was caught when it was logged."""
        self.last = (record.exc_info or (None, None))[1] or self.last


def main() -> int:
    """The command."""
    from dvc.exceptions import DownloadError, UploadError

    from flows import verified

    what, remote, patience, *targets = sys.argv[1:]
    causes = _Causes()
    for logger in ("dvc", "dvc_data"):
        logging.getLogger(logger).handlers = [causes]
    try:
        with verified.project(Path.cwd()) as repo:
            if what == "object":
                odb = repo.cloud.get_remote_odb(remote)
                odb.fs.get_file(odb.oid_to_path(targets[0]), targets[1])
                moved = 1
            else:
                move = repo.push if what == "push" else repo.fetch
                moved = int(patiently(lambda: move(targets=targets, remote=remote), float(patience)))
    except CheckoutBusy as busy:
        sys.stdout.write(f"{busy}\n")
        return BUSY
    except Exception as error:  # DVC lets through what each kind of remote raises
        if isinstance(error, (DownloadError, UploadError)):
            error.__cause__ = error.__cause__ or causes.last
        sys.stdout.write(f"{whole(error) or type(error).__name__}\n")
        return Refused.exit_code
    sys.stdout.write(f"{moved}\n")
    return 0
