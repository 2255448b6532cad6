"""Takes new images in before a run decides what is stale, where DVC watches a listing instead of the folder itself.

DVC alone would find such a project unchanged until somebody runs `graft add`; a scheduled run does that itself.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable

from flows import child
from flows.dvc_door import Door
from flows.faults import CheckoutBusy, NotIntact, Refused, WrongRequest
from flows.redact import redact

STAGE = "download"
SUFFIX = ".listing.json"  # as stages/store/sources.py names it
LAST_LINES = 5
FAULTS: dict[int, type[Refused]] = {2: WrongRequest, 4: NotIntact, 6: CheckoutBusy}


def take_in(door: Door, on_line: Callable[[str], None]) -> str | None:
    """`graft add` where download depends on a listing; its summary where that changed dvc.lock, else None.

    Raises Refused, or what its exit code means, with its last lines where it fails.
    """
    if not any(path.endswith(SUFFIX) for path in door.dependencies(STAGE)[1]):
        return None
    before = door.lock_entry(STAGE)
    lines: deque[str] = deque(maxlen=LAST_LINES)

    def take(line: str) -> None:
        lines.append(redact(line))
        on_line(lines[-1])

    code = child.run([sys.executable, "-m", "commands", "add", "--held"], door.root, take)
    if code:
        fault = FAULTS.get(code, Refused)("graft add failed\n" + "\n".join(lines))
        fault.exit_code = code
        raise fault
    return None if door.lock_entry(STAGE) == before else next((line for line in lines if line.startswith("add: ")), "")
