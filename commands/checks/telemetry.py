"""Does anything report home? DVC's analytics and update check, Prefect's server and client."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from commands.checks.dvc_settings import config
from commands.checks.finding import Finding, ok, warning

YES = {"1", "true", "yes"}


def off(root: Path) -> Iterator[Finding]:
    """As the commands typed here would have it; what graft starts itself is always told to keep quiet."""
    core = config(root)["core"]
    quiet = True
    if core.get("analytics", True) and not os.environ.get("DVC_NO_ANALYTICS"):
        quiet = False
        yield warning("telemetry", "DVC sends usage reports", "dvc config core.analytics false")
    if core.get("check_update", True):
        quiet = False
        yield warning("telemetry", "DVC asks for newer versions", "dvc config core.check_update false")
    from prefect.settings import get_current_settings

    settings = get_current_settings()
    if settings.server.analytics_enabled:
        quiet = False
        yield warning(
            "telemetry",
            "a Prefect server started here sends usage reports",
            "export PREFECT_SERVER_ANALYTICS_ENABLED=false",
        )
    # Without it, a client asks its server; one that flows start themselves has analytics as above.
    if settings.api.url and os.environ.get("DO_NOT_TRACK", "").lower() not in YES:
        quiet = False
        yield warning(
            "telemetry",
            "Prefect's clients report their use, unless the server's analytics are off",
            "export DO_NOT_TRACK=1",
        )
    if quiet:
        yield ok("telemetry", "off: DVC, Prefect")
