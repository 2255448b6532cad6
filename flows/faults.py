"""What stops a run before or beside its stages, and the exit code each ends `python -m flows.pipeline` with.

The codes are the stages' own (stages/core/errors.py): 2 config, 4 integrity, 5 environment, 6 busy.
"""

from __future__ import annotations


class Refused(Exception):
    """A run or stage that was not started, or not accepted. `name` is the state people see."""

    exit_code = 5
    name = "Refused"


class WrongRequest(Refused):
    """A parameter of the run, or the state of the git checkout, is not usable."""

    exit_code = 2


class NotIntact(Refused):
    """Bytes are not what was recorded: in DVC's cache, or as they came back from another machine."""

    exit_code = 4
    name = "NotIntact"


class CheckoutBusy(Refused):
    """Another run holds the checkout."""

    exit_code = 6
    name = "Busy"


class NoWorker(Refused):
    """The work pool cannot take the stage: missing, paused, or without a live worker."""

    name = "NoWorker"
