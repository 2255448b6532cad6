"""One push or fetch of DVC's as a process that can be ended: a server that sends a byte a second keeps DVC for ever.

    python -m flows.transfer push store data/split dvc.yaml:fine_tune

Its last line is how many objects came or went, or what was wrong; exit 0, 5, or 6 where DVC's files stayed in use.
"""

from __future__ import annotations

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
    lines: list[str] = []
    ours = str(Path(__file__).parents[1])
    command = [sys.executable, "-c", PROGRAM, ours, what, remote, f"{patience:g}", *targets]
    seconds = deadline()
    try:
        code = child.run(command, root, lines.append, seconds)
    except TimeoutError:
        raise Refused(
            f"cannot {what} {_preposition(what)} the DVC remote {remote!r}: not done in {seconds:g} s ({SECONDS} sets "
            "how long it may take); what is there already is not sent again: run again"
        ) from None
    last = lines[-1] if lines else "it said nothing"
    if code == 0:
        return int(last)
    if code == BUSY:
        raise CheckoutBusy(last)
    raise Refused(
        f"cannot {what} {_preposition(what)} the DVC remote {remote!r}: {last}. Look at `dvc remote list` and whether "
        "it can be reached; then run again"
    )


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


def main() -> int:
    """The command."""
    import logging

    from flows import verified

    what, remote, patience, *targets = sys.argv[1:]
    logging.getLogger("dvc").handlers = [logging.NullHandler()]
    try:
        with verified.project(Path.cwd()) as repo:
            move = repo.push if what == "push" else repo.fetch
            moved = int(patiently(lambda: move(targets=targets, remote=remote), float(patience)))
    except CheckoutBusy as busy:
        sys.stdout.write(f"{busy}\n")
        return BUSY
    except Exception as error:  # DVC lets through what each kind of remote raises
        sys.stdout.write(f"{whole(error) or type(error).__name__}\n")
        return Refused.exit_code
    sys.stdout.write(f"{moved}\n")
    return 0
