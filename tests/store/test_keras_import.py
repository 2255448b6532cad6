"""Keras without what it only offers to others, in processes of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LEAN = """
import os, sys
os.environ["KERAS_BACKEND"] = {backend!r}
from stages.store import keras_import
with keras_import.lean():
    import keras
assert "scipy.stats" not in sys.modules, "SciPy came along"
assert "sklearn" not in sys.modules and "scipy.signal" not in sys.modules
import scipy, sklearn.metrics
from scipy.stats import binomtest
assert scipy.signal.get_window("hann", 4).tolist() == [0.0, 0.5, 1.0, 0.5]
assert sklearn.metrics.accuracy_score([1, 0], [1, 1]) == 0.5
"""
BEFORE = """
import scipy.signal, sklearn, sys
from stages.store import keras_import
with keras_import.lean():
    pass
assert sys.modules["sklearn"] is sklearn and hasattr(sys.modules["scipy.signal"], "get_window")
"""
FAILED = """
import sys
from stages.store import keras_import
try:
    with keras_import.lean():
        raise ImportError("no Keras")
except ImportError:
    pass
import scipy.signal, sklearn
assert hasattr(scipy.signal, "get_window")
"""


@pytest.mark.parametrize(
    "code",
    [LEAN.format(backend="openvino"), LEAN.format(backend="tensorflow"), BEFORE, FAILED],
    ids=["openvino", "tensorflow", "imported before", "import failed"],
)
def test_others_can_be_imported_afterwards_and_are_not_before(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
