"""Makes the base network: renders letters, trains on them, probes, writes weights and record.

Run from the repository root: `python -m pretraining.pretrain [--settings FILE]`.
"""

from __future__ import annotations

import argparse
import logging
import math
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from pretraining import digits
from pretraining.augment import paint, to_input, training_images
from pretraining.fonts import ALPHABET, Glyph
from pretraining.letters import Bank, discover, render_bank, split_glyphs
from pretraining.network import build_base, save_compact, set_bn_momentum
from pretraining.probe import cross_validated, held_out
from pretraining.record import describe, save_sheet, write_record
from pretraining.settings import ROOT, SETTINGS, Settings, load_settings

log = logging.getLogger(__name__)


def fixed_images(bank: Bank, size: int, settings: Settings) -> tf.data.Dataset:
    """One pass over the bank, always the same images, to score with."""
    group = settings.augment.group

    def image(number: tf.Tensor, masks: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        seed = tf.stack([tf.constant(-settings.seed, tf.int32), tf.cast(number, tf.int32)])
        return to_input(paint(masks, size, seed, settings.augment)), labels

    groups = tf.data.Dataset.from_tensor_slices((bank.masks, bank.labels)).batch(group).enumerate()
    return groups.map(lambda number, pair: image(number, *pair)).prefetch(2)


class Checkpoints(keras.callbacks.Callback):
    """After each epoch, scores letters of held-out fonts and the digits' training part; keeps the rows."""

    def __init__(self, base: keras.Model, bank: Bank, train_digits: digits.Part, settings: Settings) -> None:
        super().__init__()
        self.base, self.digits, self.settings = base, train_digits, settings
        self.scored = {stage.size: fixed_images(bank, stage.size, settings) for stage in settings.train.stages}
        self.rows: list[dict[str, float]] = []
        self.images = 0
        self.began = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Count the images seen."""
        self.images += self.settings.train.batch

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Add a row of scores."""
        self.score(self.size, **{f"train_{key}": value for key, value in (logs or {}).items()})

    def score(self, size: int, **seen: float) -> None:
        """Add a row: letters accuracy at `size` pixels, digits cross-validated accuracy, seconds so far."""
        guesses = self.model.predict(self.scored[size], verbose=0).argmax(axis=1)
        labels = np.concatenate([batch.numpy() for _, batch in self.scored[size]])
        probe = cross_validated(self.base, self.digits, self.settings.probe, self.settings.seed)
        row = {
            "images": self.images,
            "size": size,
            "seconds": round(time.perf_counter() - self.began, 1),
            **{key: round(float(value), 4) for key, value in seen.items()},
            "letters_accuracy": round(float((guesses == labels).mean()), 4),
            "digits_probe_train_part": round(probe, 4),
        }
        log.info("%s", row)
        self.rows.append(row)


def build_classifier(base: keras.Model, steps: int, settings: Settings) -> keras.Model:
    """The base with a letters head, compiled; the head is dropped after training."""
    train = settings.train
    pooled = keras.layers.GlobalAveragePooling2D()(base.output)
    pooled = keras.layers.Dropout(train.dropout, seed=settings.seed)(pooled)
    model = keras.Model(base.input, keras.layers.Dense(len(ALPHABET))(pooled))
    warmup = max(1, round(train.warmup * steps))
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, steps - warmup, warmup_target=train.learning_rate, warmup_steps=warmup
    )
    # Integer labels cannot be smoothed by Keras; one-hot rows can.
    smoothed = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=train.label_smoothing)
    # Keras compiles by XLA when left to choose; on a CPU that made a step several times slower.
    optimizer = keras.optimizers.AdamW(rate, weight_decay=train.weight_decay)
    model.compile(optimizer, smoothed, metrics=["accuracy"], jit_compile=False)
    return model


def recalibrate(model: keras.Model, images: tf.data.Dataset, settings: Settings) -> None:
    """Re-estimate batch-norm statistics with the final weights.

    At the low momentum of training they follow the last few batches only.
    """
    set_bn_momentum(model, settings.train.recalibration_momentum)
    forward = tf.function(lambda batch: model(batch, training=True))
    for batch, _ in images.take(settings.train.recalibration_steps):
        forward(batch)


def train(glyphs: list[Glyph], data: digits.Digits, settings: Settings) -> tuple[keras.Model, dict[str, Any]]:
    """The trained base at the delivered size, and what the record says of its training."""
    began = time.perf_counter()
    train_glyphs, held_glyphs = split_glyphs(glyphs, settings.letters.validation_fonts, (settings.seed, 0))
    bank = render_bank(train_glyphs, settings.letters.count, (settings.seed, 1), settings.letters)
    held = render_bank(held_glyphs, settings.letters.validation_count, (settings.seed, 2), settings.letters)
    render_seconds = time.perf_counter() - began
    log.info("rendered %d masks in %.0f s", len(bank.labels) + len(held.labels), render_seconds)
    keras.utils.set_random_seed(settings.seed)
    batch, checkpoints = settings.train.batch, settings.probe.checkpoints
    epochs = [math.ceil(stage.images / (batch * checkpoints)) for stage in settings.train.stages]
    base = build_base(settings.network, any_size=True)
    model = build_classifier(base, checkpoints * sum(epochs), settings)
    rows = Checkpoints(base, held, data.train, settings)
    speeds = []
    for number, (stage, steps) in enumerate(zip(settings.train.stages, epochs, strict=True)):
        images = training_images(bank, stage.size, batch, settings.seed + number, settings.augment)
        rows.size = stage.size
        began_stage = time.perf_counter()
        model.fit(
            images.map(lambda pixels, labels: (pixels, tf.one_hot(labels, len(ALPHABET)))),
            steps_per_epoch=steps,
            epochs=checkpoints,
            callbacks=[rows],
            shuffle=False,
            verbose=0,
        )
        speeds.append(round(steps * checkpoints * batch / (time.perf_counter() - began_stage)))
    size = settings.network.size
    fresh = training_images(bank, size, batch, settings.seed + len(epochs), settings.augment)
    recalibrate(model, fresh, settings)
    rows.score(size)
    delivered = build_base(settings.network)
    delivered.set_weights(base.get_weights())
    return delivered, {
        "render_seconds": round(render_seconds, 1),
        "train_seconds": rows.rows[-1]["seconds"],
        "images_seen": rows.images,
        "images_per_second_per_stage": speeds,
        "checkpoints": rows.rows,
    }


def main() -> None:
    """Run the whole pretraining; the digits' test part is looked at once, at the end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", type=Path, default=SETTINGS, help="settings file (YAML)")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    settings = load_settings(parser.parse_args().settings)
    glyphs = discover(settings.letters)
    log.info("%d glyphs in %d font files", len(glyphs), len({glyph.font for glyph in glyphs}))
    save_sheet(glyphs, settings)
    data = digits.load(settings.network.size)
    base, trained = train(glyphs, data, settings)
    path = ROOT / settings.network.weights
    save_compact(base, path)
    probe = {"cross_validated_train": trained["checkpoints"][-1]["digits_probe_train_part"]}
    probe |= held_out(base, data, settings.probe)
    log.info("linear probe on digits: %s", probe)
    write_record({**describe(glyphs, settings), "training": trained, "linear_probe_digits": probe}, settings)


if __name__ == "__main__":
    main()
