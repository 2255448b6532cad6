"""What export reads, made in a second: twelve drawn pictures, a tiny classifier, and what earlier stages say of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from stages import download
from stages.core import images
from stages.core.schemas import PREDICTIONS, SPLIT
from stages.store import documents, models, params, pictures, tables

SIDE, CLASSES = 16, ["cats", "dogs"]


def make(root: Path, export: dict[str, Any]) -> None:
    """Fill `root`, the current folder, with a project whose export runs. TensorFlow must have been started."""
    for number in range(12):
        label = CLASSES[number % 2]
        drawn = np.clip(np.random.default_rng(number).normal(60 + 120 * (number % 2), 30, (SIDE, SIDE, 3)), 0, 255)
        place = root / f"data/images/{label}/{number:02}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(drawn.astype(np.uint8)).save(place)
    choose(root, export)
    download.main()
    names = sorted(path.relative_to(root / "data/images").as_posix() for path in (root / "data/images").rglob("*.png"))
    splits = dict(zip(names, ("train", "test") * 6, strict=True))
    model = _classifier()
    for folder in ("data/validate", "data/split", "data/feature_extract", "data/fine_tune", "reports/evaluate"):
        (root / folder).mkdir(parents=True)
    models.save(model, root / "data/fine_tune/model.keras")
    rows = []
    for name, data in pictures.read_bytes(names):
        probabilities = model(images.decode_resized(data, SIDE)[None].astype(np.float32)).numpy()[0].tolist()
        label = name.split("/")[0]
        rows.append({"name": name, "image_id": name, "group": name, "split": splits[name], "label": label,
                     "predicted": CLASSES[int(np.argmax(probabilities))], "probabilities": probabilities})  # fmt: skip
    assert {row["predicted"] for row in rows} == set(CLASSES)  # so that another answer is another class
    for place, schema in (("data/split/split.parquet", SPLIT), ("reports/evaluate/predictions.parquet", PREDICTIONS)):
        tables.write(root / place, tables.from_rows([{key: row[key] for key in schema.names} for row in rows], schema))
    for place, value in _facts().items():
        documents.write(root / place, value)


def choose(root: Path, export: dict[str, Any]) -> None:
    """params.yaml with these parameters of export."""
    blocks: dict[str, Any] = {stage: {} for stage in params.STAGES}
    blocks |= {"download": {"source": "data/images", "watch": "data/images"}, "export": export}
    (root / "params.yaml").write_text(json.dumps(blocks))


def published(root: Path) -> list[str]:
    """What lies in data/export, by path there, sorted."""
    return sorted(path.relative_to(root / "data/export").as_posix() for path in (root / "data/export").rglob("*"))


def _classifier() -> Any:
    """Bright or dark, of pixels [N, SIDE, SIDE, 3]."""
    import keras

    pixels = keras.Input((SIDE, SIDE, 3), name="pixels")
    x = keras.layers.Rescaling(1 / 127.5, -1.0)(pixels)
    x = keras.layers.GlobalAveragePooling2D()(x)
    answer = keras.layers.Dense(2, activation="softmax")
    model = keras.Model(pixels, answer(x))
    answer.set_weights([np.array([[-3.0, 3.0]] * 3, np.float32), np.zeros(2, np.float32)])
    return model


def _facts() -> dict[str, Any]:
    """What the model card tells of earlier stages, by file."""
    figures = {"images": 6, "accuracy": 1.0, "accuracy_low": 0.6, "accuracy_high": 1.0}
    figures |= {"balanced_accuracy": 1.0, "macro_f1": 1.0, "loss": 0.1, "roc_auc": 1.0}
    phase = {"epochs": 1, "best_epoch": 1, "learning_rate": 0.01, "trained_parameters": 8, "val_accuracy": 1.0}
    return {
        "data/validate/classes.json": {"classes": CLASSES},
        "data/split/split.json": {
            "images": {"train": 6, "val": 0, "test": 6},
            "classes": {"train": dict.fromkeys(CLASSES, 3)},
            "moved_to_held_out": 0,
            "settings": {"seed": 0},
            "digest": "0" * 64,
        },
        "data/feature_extract/trunk.json": {
            "settings": {"backbone": "MobileNet", "alpha": 0.5, "weights": "imagenet", "image_size": SIDE},
            "cut": 1,
            "cut_layer": "rescaling",
            "weights_digest": "1" * 64,
        },
        "data/fine_tune/training.json": {
            "settings": {"fine_tune_at": 1},
            "device": "CPU",
            "precision": "float32",
            "phases": {"head": phase},
        },
        "reports/evaluate/details.json": {
            "test": figures,
            "val": figures,
            "baselines": {},
            "calibration": {"temperature": 1.25},
        },
    }
