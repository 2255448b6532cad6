"""Evaluating by parts of the held-out images gives each image its own result."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stages import evaluate
from stages.core import backbones, classifier, grad_cam
from stages.core.predictions import HeldOut

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


@pytest.mark.usefixtures("tensorflow")
def test_explained_pictures_are_the_chosen_ones_with_the_maps_of_what_was_named_and_of_the_label() -> None:
    base = backbones.build("MobileNetV2", 64, 0.35)
    model = classifier.from_pixels(base, "MobileNetV2", classifier.head(1280, 3, 0.0, seed=4, units=[8]))
    random = np.random.default_rng(1)
    names = [f"{number}.png" for number in range(4)]
    pixels = {name: random.integers(0, 256, (64, 64, 3)).astype(np.uint8) for name in names}
    rows = HeldOut(names, names, np.array(["test"] * 4), np.array([2, 0, 1, 1]))
    probabilities = np.array([[0.1, 0.8, 0.1], [0.9, 0.1, 0.0], [0.1, 0.9, 0.0], [0.6, 0.4, 0.0]])

    def run(network: Any, batches: Any, batch_size: int, dtype: Any) -> Any:
        for batch in batches:
            assert len(batch) == batch_size
            yield [network.predict_on_batch(batch.astype(np.float32)).astype(dtype)]

    engine: Any = SimpleNamespace(run=run)
    classes = ["ant", "bee", "cow"]
    found = evaluate._explained(engine, model, rows, probabilities, [3, 0, 2], pixels, classes)
    assert found is not None
    assert found.fields == (2, 2)
    assert [tile.caption for tile in found.mistakes] == [
        "bee, taken for ant (60%): 3.png",
        "cow, taken for bee (80%): 0.png",
    ]
    assert [tile.caption for tile in found.right] == ["bee (90%): 2.png"]
    assert [list(tile.notes) for tile in (*found.mistakes, *found.right)] == [
        ["coloured: what speaks for ant, then for bee"],
        ["coloured: what speaks for bee, then for cow"],
        ["coloured: what speaks for bee"],
    ]
    features = grad_cam.feature_map(model).predict_on_batch(pixels["0.png"][None].astype(np.float32))[0]
    head = model.get_layer("head")
    maps = [grad_cam.overlay(pixels["0.png"], grad_cam.heat_map(features, head, number)) for number in (1, 2)]
    drawn = np.asarray(Image.open(io.BytesIO(found.mistakes[1].data or b"")).convert("RGB")).astype(int)
    side = evaluate.EXPLAINED_SIDE
    assert drawn.shape == (side, 3 * side, 3)
    for at, picture in enumerate([pixels["0.png"], *maps]):
        expected = np.asarray(Image.fromarray(picture).resize((side, side), Image.Resampling.BILINEAR)).astype(int)
        assert np.abs(drawn[:, at * side : (at + 1) * side] - expected).max() <= 1
    assert not np.array_equal(maps[0], maps[1])
    assert evaluate._explained(engine, model, rows, probabilities, [], pixels, classes) is None
