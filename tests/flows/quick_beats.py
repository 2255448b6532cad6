"""The flows `pipeline` and `fine-tune` with heartbeats every 5 s and 40 s for a silence, instead of 15 s and 75 s.

`python -m tests.flows.quick_beats` is `python -m flows.pipeline`; `fine_tune` is for a deployment's entry point.
"""

from __future__ import annotations

from datetime import timedelta

from flows import heartbeat

# Before those that take them over by name are imported.
heartbeat.INTERVAL, heartbeat.SILENCE = timedelta(seconds=5), timedelta(seconds=40)

from flows.fine_tune import fine_tune  # noqa: E402, F401
from flows.pipeline import pipeline  # noqa: E402

if __name__ == "__main__":
    from flows.command_line import main

    main(pipeline)
