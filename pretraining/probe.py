"""The linear probe: how well one linear layer over frozen features tells handwritten digits apart.

`python -m pretraining.probe` prints the figures of the committed weights.
"""

from __future__ import annotations

import logging

import keras
import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from pretraining import digits
from pretraining.network import build_base
from pretraining.settings import ROOT, Probe, load_settings

log = logging.getLogger(__name__)


def pooled_features(base: keras.Model, images: NDArray[np.float32], batch: int = 128) -> NDArray[np.float32]:
    """Pooled last feature maps, inference mode: pixels 0..255 (count, ...) -> float32 (count, 1280)."""
    parts = []
    for start in range(0, len(images), batch):
        maps = np.asarray(base(images[start : start + batch] / 127.5 - 1.0, training=False))
        parts.append(maps.mean(axis=(1, 2)))
    return np.concatenate(parts)


def _linear(settings: Probe) -> Pipeline:
    return make_pipeline(StandardScaler(), LogisticRegression(C=settings.regularisation, max_iter=500))


def cross_validated(base: keras.Model, part: digits.Part, settings: Probe, seed: int) -> float:
    """Mean accuracy over folds of one part (the training part, while anything is still being chosen)."""
    folds = StratifiedKFold(settings.folds, shuffle=True, random_state=seed)
    features = pooled_features(base, part.images)
    return float(cross_val_score(_linear(settings), features, part.labels, cv=folds).mean())


def held_out(base: keras.Model, data: digits.Digits, settings: Probe) -> dict[str, float]:
    """Accuracy on validation and test of a probe fitted on the training part."""
    model = _linear(settings).fit(pooled_features(base, data.train.images), data.train.labels)
    parts = {"validation": data.validation, "test": data.test}
    return {name: float(model.score(pooled_features(base, part.images), part.labels)) for name, part in parts.items()}


def main() -> None:
    """Print the probe's figures for the committed weights and for random ones."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    settings = load_settings()
    data = digits.load(settings.network.size)
    keras.utils.set_random_seed(settings.seed)
    base = build_base(settings.network)
    for name in ("random weights", "pretrained on letters"):
        if name != "random weights":
            base.load_weights(ROOT / settings.network.weights)
        inside = cross_validated(base, data.train, settings.probe, settings.seed)
        outside = held_out(base, data, settings.probe)
        log.info("%-22s cross-validated %.4f  validation %.4f  test %.4f", name, inside, *outside.values())


if __name__ == "__main__":
    main()
