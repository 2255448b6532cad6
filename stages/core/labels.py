"""The labels of a classifier as text: what labels.txt holds, and what lies inside a model."""

from __future__ import annotations

import re
from collections.abc import Sequence


def one_line(label: str) -> str:
    """A label as labels.txt holds it: a class folder's name may hold line breaks, a line may not."""
    return re.sub(r"[\x00-\x1f\x7f\x85\u2028\u2029]", lambda match: f"\\u{ord(match[0]):04x}", label)


def text(classes: Sequence[str]) -> str:
    """labels.txt: a line a class, in the order of the probabilities."""
    return "".join(f"{one_line(label)}\n" for label in classes)
