"""Imports Keras without what it only offers to others: half of the time that importing it takes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

# Keras wraps itself for scikit-learn where that can be imported, and its OpenVINO backend imports scipy.signal for
# one audio function. Either brings most of SciPy with it: 1.5 of 2.8 s.
WRAPPED_FOR = "sklearn"
DEFERRED = "scipy.signal"


@contextmanager
def lean() -> Iterator[None]:
    """`import keras` inside this. Afterwards both modules can be imported as ever; what was imported before stays."""
    left_out: list[str] = []
    if "keras" not in sys.modules:
        if WRAPPED_FOR not in sys.modules:
            sys.modules[WRAPPED_FOR] = None  # type: ignore[assignment]  # Python's way to say: cannot be imported
            left_out.append(WRAPPED_FOR)
        if DEFERRED not in sys.modules:
            sys.modules[DEFERRED] = ModuleType(DEFERRED)  # SciPy imports the real one when it is asked for
            left_out.append(DEFERRED)
    try:
        yield
    finally:
        for name in left_out:
            del sys.modules[name]
