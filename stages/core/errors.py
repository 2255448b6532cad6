"""Every error graft raises on purpose, and the exit code each ends a stage with.

    GraftError
    ├── ConfigError        2  params.yaml or an argument is wrong; nothing was started
    ├── DataRejected       3  the data may not be trained on; the report says why
    ├── IntegrityError     4  bytes are not what they were recorded, pinned or allowed to be
    ├── EnvironmentFault   5  the machine, network or remote failed; the same command may work later
    └── Busy               6  another run holds what this one needs

A message names the file or key, what was received, what is legal, and what to do next.
"""

from __future__ import annotations


class GraftError(Exception):
    """Base of the tree. `exit_code` is what the process ends with."""

    exit_code = 1


class ConfigError(GraftError):
    """A parameter or argument is wrong."""

    exit_code = 2


class DataRejected(GraftError):
    """The data breaks a critical rule."""

    exit_code = 3


class IntegrityError(GraftError):
    """Bytes differ from their recorded hash, or an archive or weight file is not safe to open."""

    exit_code = 4


class EnvironmentFault(GraftError):
    """Disk, memory, network or a remote failed."""

    exit_code = 5


class Busy(GraftError):
    """Another run holds the lock."""

    exit_code = 6
