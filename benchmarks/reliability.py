"""Keeps what the sweeps of faults found, in benchmarks/reliability.json: one entry a sweep, keys sorted."""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_name("reliability.json")


def entry(tried: int, survived: int, seconds: float, note: str) -> dict[str, Any]:
    """One sweep's outcome; `seconds` are those of all its attempts."""
    day = time.strftime("%Y-%m-%d", time.gmtime())
    return {"tried": tried, "survived": survived, "seconds": round(seconds, 1), "date": day, "note": note}


def record(entries: Mapping[str, Mapping[str, Any]], path: Path = RESULTS) -> None:
    """Put entries into the file beside those of other sweeps, which may run at the same time."""
    with path.open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        text = file.read()
        known = json.loads(text) if text else {}
        file.truncate(0)
        file.write(json.dumps({**known, **entries}, indent=2, sort_keys=True, ensure_ascii=False) + "\n")
