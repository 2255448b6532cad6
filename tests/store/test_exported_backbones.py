"""Architectures that Keras writes differently, in all six formats: each says what the model says, without graft."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stages.core import backbones, certificate, classifier
from stages.core.catalogue import CATALOGUE
from stages.export import ExportParams
from stages.store import clean_process, exported
from tests.exported_model import NAMES

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("tensorflow")]
CLASSES = ["red", "green", "blue"]
# Depthwise convolutions; hard swish, squeeze-and-excitation and products between layers. Others were seen by hand, see
# docs/export.md: each takes a minute.
KINDS = {"MobileNet": (0.25, 32), "MobileNetV3Small": (0.75, 32)}
GAP = 0.001  # of a probability, in float
# The very code of the certificate, which starts a process for each format; here TensorFlow is imported once for all.
EVERY = """
import json, sys
import numpy as np
folder, asked = sys.argv[1], json.loads(sys.argv[2])
pixels = np.load(folder + "/pixels.npy")
files = [open(f"{folder}/{n}.png", "rb").read() for n in range(len(pixels))]
for name, (model, ask) in asked.items():
    scope = {"model": model, "sys": sys}
    exec(ask, scope)
    np.save(f"{folder}/{name}.npy", np.concatenate([scope["ask"](pixels[n:n + 32].astype(np.float32), files[n:n + 32])
                                                    for n in range(0, len(pixels), 32)]))
"""


def pictures(side: int, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [count, side, side, 3] of noisy checks that are too red, green or blue, and which of these [count]."""
    random = np.random.default_rng(seed)
    across, down = np.meshgrid(np.arange(side), np.arange(side))
    labels = np.arange(count) % len(CLASSES)
    drawn = []
    for label in labels:
        width = random.integers(2, 9)
        checks = (across // width + down // width) % 2
        grey = random.integers(20, 150, 2)[checks] + random.normal(0, 8, (side, side))
        picture = np.stack([grey] * 3, axis=-1)
        picture[..., label] += random.integers(40, 100)
        drawn.append(picture)
    return np.clip(drawn, 0, 255).astype(np.uint8), labels


def trained(name: str, seen: np.ndarray, labels: np.ndarray) -> Any:
    """The whole classifier on random weights: statistics as training leaves them, and a head fitted to the features."""
    import keras

    alpha, side = KINDS[name]
    keras.utils.set_random_seed(0)
    base = backbones.build(name, side, alpha)
    pixels, prepared = backbones.entrance(base, CATALOGUE[name].preprocessing)
    random = np.random.default_rng(1)
    for layer in base.layers:
        if type(layer).__name__ == "LayerScale":
            layer.set_weights([random.normal(0.3, 0.1, weight.shape) for weight in layer.get_weights()])
        if type(layer).__name__ == "BatchNormalization":
            layer.momentum = 0.0  # one batch is all it learns from
            # Most of a ReLU's inputs are positive, so that the pictures' likeness survives so many random layers.
            layer.beta.assign(np.full(layer.beta.shape, 2.0))
    entered = keras.Model(pixels, prepared)(seen.astype(np.float32))
    base(entered, training=True)
    features = np.asarray(backbones.pool(base)(base(entered, training=False)), np.float64)
    mean, deviation = features.mean(0), features.std(0) + 1e-6
    scaled = (features - mean) / deviation
    wanted = np.eye(len(CLASSES))[labels] - 1 / len(CLASSES)
    # Ridge regression, as there are more features than pictures; 5 makes its shares logits.
    kernel = 5 * scaled.T @ np.linalg.solve(scaled @ scaled.T + 0.1 * len(seen) * np.eye(len(seen)), wanted)
    head = classifier.head(features.shape[1], len(CLASSES), 0.0, 0)
    head.set_weights([kernel / deviation[:, None], -(mean / deviation) @ kernel])
    return classifier.from_pixels(base, CATALOGUE[name].preprocessing, head)


@pytest.mark.parametrize("name", KINDS)
def test_every_format_is_certified(name: str, tmp_path: Path) -> None:
    side = KINDS[name][1]
    seen, labels = pictures(side, 90, seed=1)
    model = trained(name, seen, labels)
    asked, truth = pictures(side, 120, seed=2)
    expected = model.predict(asked.astype(np.float32), verbose=0)
    # It is no constant, and no coin: else agreement would be cheap, or chance.
    assert np.bincount(expected.argmax(1), minlength=len(CLASSES)).min() >= 20
    assert (expected.argmax(1) == truth).mean() > 0.8

    np.save(tmp_path / "pixels.npy", asked)
    for number, picture in enumerate(asked):
        data = io.BytesIO()
        Image.fromarray(picture).save(data, "PNG")
        (tmp_path / f"{number}.png").write_bytes(data.getvalue())
    places = {one: exported.write(one, model, CLASSES, tmp_path / "out", seen) for one in NAMES}
    scripts = {one: (str(place), exported.ASK[one]) for one, place in places.items()}
    clean_process.run(EVERY, [str(tmp_path), json.dumps(scripts)], model=tmp_path / "out", seconds=300)
    for one, place in places.items():
        bound = ExportParams.model_fields[certificate.bound(one)].default
        found = certificate.compare(one, expected, np.load(tmp_path / f"{one}.npy"), exported.size(place), bound)
        if one == "litert_int8":
            # Random weights are rounded harder than trained ones, so the bound may be missed, but not by far.
            assert found["agreement"] >= 0.95, found
        else:
            assert found["published"], (one, found)
            assert found["largest_gap"] <= GAP, (one, found)
