"""Which baselines there are by choice, and frozen features classified by parts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import pytest

from stages.core import baselines

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
    monkeypatch.setattr(baselines, "FEATURES_HELD", held)
    asked: list[int] = []

    def predict(features: Any, verbose: int) -> Any:
        assert features.dtype == np.float32
        asked.append(len(features))
        return features

    names = [*reversed(NAMES["test"]), *NAMES["val"]]
    found = baselines.frozen_features(SimpleNamespace(predict=predict), names, Stored())
    assert max(asked) <= held
    assert found[:, 0] == pytest.approx([0.54, 0.53, 0.52, 0.51, 0.50, *(n / 100 for n in range(7))], abs=1e-3)
    assert found.sum(axis=1) == pytest.approx(1.0, abs=1e-3)


def test_without_a_choice_all_that_were_trained_are_there() -> None:
    every = list(get_args(baselines.Baseline))
    assert list(baselines.NAMES) == every
    assert baselines.chosen(None, from_scratch=True) == every
    assert baselines.chosen(None, from_scratch=False) == ["majority_class", "frozen_features"]
    assert baselines.chosen([], from_scratch=True) == []
    asked: list[baselines.Baseline] = ["from_scratch", "majority_class", "from_scratch"]
    assert baselines.chosen(asked, from_scratch=True) == ["majority_class", "from_scratch"]
