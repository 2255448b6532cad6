"""fine_tune with one sigmoid and mixed batches, as a process: its model is read by whoever reads any other."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.stages.test_fine_tune_resume import SIDE, Workspace, extracted

pytestmark = pytest.mark.slow
PIXELS = {f"{number:04}.png": np.full((SIDE, SIDE, 3), 10 * number, np.uint8) for number in range(20)}


def test_a_sigmoid_of_three_classes_is_refused_before_anything_starts(tmp_path: Path) -> None:
    features = tmp_path / "feature_extract"
    features.mkdir()
    (features / "trunk.json").write_text(json.dumps({"classes": ["cat", "dog", "owl"]}))
    process = Workspace(tmp_path / "project", features, activation="sigmoid").start()
    _, printed = process.communicate(timeout=300)
    assert process.returncode == 2
    assert "fine_tune.activation: received 'sigmoid', which is for two classes; the data has 3" in " ".join(
        printed.split()
    )
    assert "Traceback" not in printed


def test_a_sigmoid_trained_on_mixed_batches_gives_two_probabilities_everywhere(
    tmp_path: Path, tensorflow: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stages import evaluate
    from stages.store import models
    from stages.store.features import FeatureReader

    features = extracted(tmp_path / "feature_extract", ["cat", "dog"])
    # In bfloat16, too: what is saved has to be float32 whatever it was trained in.
    settings: dict[str, Any] = {"activation": "sigmoid", "mixup": 0.4, "cutmix": 1.0, "precision": "mixed_bfloat16"}
    # The made-up activations and pooled features do not belong together: phase 2 has to learn from the beginning.
    phases = {"head": {"epochs": 2, "learning_rate": 0.003}, "tail": {"epochs": 12, "learning_rate": 0.003}}
    work = Workspace(tmp_path / "project", features, False, **settings, **phases)
    work.run()
    out = work.folder / "data/fine_tune"
    record = json.loads((out / "training.json").read_text())
    assert {name: record["settings"][name] for name in settings} == settings
    assert record["precision"] == "mixed_bfloat16"
    assert record["phases"]["tail"]["val_accuracy"] > 0.8
    for name in ("model.keras", "frozen_head.keras"):
        with zipfile.ZipFile(out / name) as parts:
            assert b"float16" not in parts.read("config.json")
    model = models.load(out / "model.keras")  # in safe mode
    batch = np.stack(list(PIXELS.values())).astype(np.float32)
    expected = np.asarray(model(batch, training=False))
    assert expected.shape == (20, 2)
    np.testing.assert_allclose(expected.sum(1), 1.0, atol=1e-6)

    def run(rebuilt: Any, batches: Iterator[Any], size: int, dtype: Any) -> Iterator[Any]:
        for pictures in batches:
            yield (np.asarray(rebuilt(pictures.astype(np.float32), training=False)),)

    # Evaluate builds the network anew from what is recorded.
    monkeypatch.setattr(evaluate, "MODELS", out)
    monkeypatch.setattr(
        evaluate.pictures, "mapped", lambda function, names, *_: iter([(name, PIXELS[name]) for name in names])
    )
    stored, asked = FeatureReader(features), evaluate.EvaluateParams(batch_size=7)
    rebuilt = evaluate._model(out / "model.keras", stored)
    engine: Any = SimpleNamespace(run=run)
    found = evaluate._predict(engine, rebuilt, list(PIXELS), stored, asked)
    np.testing.assert_allclose(found, expected, atol=1e-5)
