"""What the pretraining is worth: handwritten digits with frozen, fine-tuned and from-scratch networks.

`python -m pretraining.transfer` trains all three under one budget and writes the figures into the record.
"""

from __future__ import annotations

import logging
import time

import keras
import numpy as np

from pretraining import digits
from pretraining.network import build_base
from pretraining.probe import pooled_features
from pretraining.record import read_record, sha256, write_record
from pretraining.settings import ROOT, Settings, load_settings

log = logging.getLogger(__name__)

CLASSES = 10


def _fit(model: keras.Model, part: digits.Part, epochs: int, rate: float, decay: bool, settings: Settings) -> None:
    """Adam and cross-entropy over `part`, whose images are what the model takes.

    `rate` falls to zero along a cosine if `decay`, else stays.
    """
    batch = settings.transfer.batch
    steps = epochs * -(-len(part.labels) // batch)
    schedule = keras.optimizers.schedules.CosineDecay(rate, steps) if decay else rate
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(schedule), loss, jit_compile=False)
    model.fit(part.images, part.labels, batch_size=batch, epochs=epochs, verbose=0)


def _scores(model: keras.Model, parts: dict[str, digits.Part]) -> dict[str, float]:
    guesses = {name: model.predict(part.images, verbose=0).argmax(axis=1) for name, part in parts.items()}
    return {name: float((guesses[name] == part.labels).mean()) for name, part in parts.items()}


def _whole(base: keras.Model, frozen_statistics: bool) -> tuple[keras.Model, keras.layers.Dense]:
    """Base, pooling, untrained softmax head; `frozen_statistics`: batch norm in inference mode always."""
    inputs = keras.Input(base.input_shape[1:])
    maps = base(inputs, training=False) if frozen_statistics else base(inputs)
    head = keras.layers.Dense(CLASSES)
    return keras.Model(inputs, head(keras.layers.GlobalAveragePooling2D()(maps))), head


def one_seed(data: digits.Digits, seed: int, settings: Settings) -> dict[str, dict[str, float]]:
    """Validation and test accuracy of the three ways, all drawn from `seed`.

    Each sees the training part head_epochs + epochs times: the frozen network in its head only, the
    fine-tuned one first in its head and then in its upper layers, the one from scratch in all layers.
    """
    options = settings.transfer
    total = options.head_epochs + options.epochs
    parts = {"train": data.train, "validation": data.validation, "test": data.test}
    held = ("validation", "test")
    scores = {}
    keras.utils.set_random_seed(seed)
    base = build_base(settings.network)
    base.load_weights(ROOT / settings.network.weights)
    pooled = {name: digits.Part(pooled_features(base, part.images), part.labels) for name, part in parts.items()}
    head = keras.Sequential([keras.Input(pooled["train"].images.shape[1:]), keras.layers.Dense(CLASSES)])
    _fit(head, pooled["train"], total, options.head_learning_rate, True, settings)
    scores["frozen"] = _scores(head, {name: pooled[name] for name in held})

    inputs = {name: digits.Part(part.images / 127.5 - 1.0, part.labels) for name, part in parts.items()}
    head = keras.Sequential([keras.Input(pooled["train"].images.shape[1:]), keras.layers.Dense(CLASSES)])
    _fit(head, pooled["train"], options.head_epochs, options.head_learning_rate, False, settings)
    for layer in base.layers[: options.first_layer]:
        layer.trainable = False
    model, dense = _whole(base, frozen_statistics=True)
    dense.set_weights(head.get_weights())
    _fit(model, inputs["train"], options.epochs, options.learning_rate, True, settings)
    scores["fine_tuned"] = _scores(model, {name: inputs[name] for name in held})

    model, _ = _whole(build_base(settings.network), frozen_statistics=False)
    _fit(model, inputs["train"], total, options.scratch_learning_rate, True, settings)
    scores["from_scratch"] = _scores(model, {name: inputs[name] for name in held})
    return scores


def main() -> None:
    """Compare over the seeds, print means, and write everything into the record."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    settings = load_settings()
    record = read_record(settings)
    if record["weights"]["sha256"] != sha256(ROOT / settings.network.weights):
        raise ValueError(f"{settings.network.weights} is not the file that the record describes")
    data = digits.load(settings.network.size)
    began = time.perf_counter()
    runs = []
    for seed in range(settings.seed, settings.seed + settings.transfer.seeds):
        runs.append(one_seed(data, seed, settings))
        log.info("seed %d: %s", seed, runs[-1])
    means = {
        way: {name: round(float(np.mean([run[way][name] for run in runs])), 4) for name in runs[0][way]}
        for way in runs[0]
    }
    for way, figures in means.items():
        log.info("%-12s  validation %.4f  test %.4f", way, figures["validation"], figures["test"])
    record["transfer_digits"] = {
        "settings": settings.transfer.model_dump(mode="json"),
        "parts": {"train": len(data.train.labels), "test": len(data.test.labels)},
        "mean": means,
        "runs": runs,
        "seconds": round(time.perf_counter() - began, 1),
    }
    write_record(record, settings)


if __name__ == "__main__":
    main()
