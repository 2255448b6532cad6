"""Evaluating by parts of the held-out images gives each image its own result."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from stages import evaluate

NAMES = {"val": [f"val/{number}" for number in range(7)], "test": [f"test/{number}" for number in range(5)]}


class Stored:
    """Features that say of which image they are: [number, 1 - number] / 100, test images from 50 on."""

    classes = ("cats", "dogs")

    def examples(self, kind: str, split: str) -> Any:
        def take(images: Any, views: Any) -> Any:
            assert kind == "pooled"
            assert not views.any(), "the image itself, no augmented view"
            first = (images + (50 if split == "test" else 0)) / 100
            return np.stack([first, 1 - first], axis=1).astype(np.float16)

        return SimpleNamespace(names=NAMES[split], take=take)


@pytest.mark.parametrize("held", [1, 3, 7, 100])
def test_stored_features_are_classified_a_part_at_a_time(held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "FEATURES_HELD", held)
    asked: list[int] = []

    def predict(features: Any, verbose: int) -> Any:
        assert features.dtype == np.float32
        asked.append(len(features))
        return features

    names = [*reversed(NAMES["test"]), *NAMES["val"]]
    found = evaluate._frozen(SimpleNamespace(predict=predict), SimpleNamespace(names=names), Stored())  # type: ignore[arg-type]
    assert max(asked) <= held
    assert found[:, 0] == pytest.approx([0.54, 0.53, 0.52, 0.51, 0.50, *(n / 100 for n in range(7))], abs=1e-3)
    assert found.sum(axis=1) == pytest.approx(1.0, abs=1e-3)
