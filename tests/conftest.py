"""Fixtures shared by every test."""

from __future__ import annotations

import signal
from pathlib import Path

# Its log goes to what sys.stdout is when it is first imported: inside a test that would be a stream that gets closed.
import dvc  # noqa: F401
import pytest

ROOT = Path(__file__).parent.parent

# Started in the background by a shell, pytest would hand "ignore Ctrl-C" on to every process it starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
SHARED = ROOT.parent / "shared"


@pytest.fixture(scope="session")
def tensorflow() -> object:
    """TensorFlow, started as the stages start it: deterministic, two threads."""
    from stages.store import tensorflow_runtime

    tensorflow_runtime.start(threads=2, seed=0)
    import tensorflow

    return tensorflow


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real photographs and ImageNet weights, beside the project; skips without it."""
    if not (SHARED / "data").is_dir():
        pytest.skip("needs ../shared with the photographs and ImageNet weights")
    return SHARED
