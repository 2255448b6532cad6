"""What the model looked at is drawn of the images that were chosen."""

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
