"""export: the model as others use it, checked in a clean process before it is published.

Reads   data/fine_tune/{model.keras, training.json}, reports/evaluate/{details.json, predictions.parquet},
        data/feature_extract/trunk.json, data/split/split.json, data/validate/classes.json,
        data/download/{dataset.json, source.json, images/}
Writes  data/export/{saved_model/, labels.txt, MODEL_CARD.md}
Run     python -m stages.export
"""

from __future__ import annotations

import platform
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import Field

from stages.core import model_card
from stages.core.parameters import StageParams
from stages.core.schemas import PREDICTIONS
from stages.store import documents, hashes, outputs, params, pictures, process, saved_model, tables, tensorflow_runtime

MODEL = Path("data/fine_tune/model.keras")
CARD_FACTS = {
    "source": Path("data/download/source.json"),
    "dataset": Path("data/download/dataset.json"),
    "split": Path("data/split/split.json"),
    "trunk": Path("data/feature_extract/trunk.json"),
    "training": Path("data/fine_tune/training.json"),
    "metrics": Path("reports/evaluate/details.json"),
}
PREDICTED = Path("reports/evaluate/predictions.parquet")
CLASSES = Path("data/validate/classes.json")
OUT = Path("data/export")
NAMED_VERSIONS = ("graft", "tensorflow", "keras", "numpy", "pillow", "pyarrow", "dvc")


class ExportParams(StageParams):
    """How closely the exported model must agree with the one evaluated."""

    smoke_images: int = Field(8, ge=1, le=1024, description="test images the exported model is tried on")
    tolerance: float = Field(0.02, gt=0.0, le=1.0, description="largest allowed difference of a probability")


def main() -> str:
    settings = params.read(ExportParams)
    classes: list[str] = documents.read_classes(CLASSES)
    facts: dict[str, Any] = {name: documents.read(path) for name, path in CARD_FACTS.items()}
    expected = _smoke_set(settings.smoke_images)

    tensorflow_runtime.start(threads=2, seed=0)
    # These import Keras, so they wait until TensorFlow has been started.
    from stages.core import serving
    from stages.store import models

    with outputs.replacing(OUT) as (out,):
        saved_model.write(serving.Classifier(models.load(MODEL), classes), out / "saved_model")
        difference = saved_model.smoke(out / "saved_model", classes, expected, settings.tolerance)
        (out / "labels.txt").write_text("".join(f"{one_line(label)}\n" for label in classes), encoding="utf-8")
        digests = {
            "trained images, labels and splits": facts["split"]["digest"],
            "pretrained weights": facts["trunk"]["weights_digest"],
            "model.keras": hashes.sha256_of_file(MODEL),
            **{f"saved_model/{name}": digest for name, digest in hashes.sha256_of_tree(out / "saved_model").items()},
        }
        versions = {"python": platform.python_version(), **{name: version(name) for name in NAMED_VERSIONS}}
        card = model_card.write(classes, **facts, hashes=digests, versions=versions)
        (out / "MODEL_CARD.md").write_text(card, encoding="utf-8")
        size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    return (
        f"SavedModel, {len(classes)} labels and card, {size / 1e6:.1f} MB; in a clean process it agrees on "
        f"{len(expected)} test images, largest difference {difference:.1g}"
    )


def one_line(label: str) -> str:
    """A label as labels.txt holds it: a class folder's name may hold line breaks, a line may not."""
    return re.sub(r"[\x00-\x1f\x7f\x85\u2028\u2029]", lambda match: f"\\u{ord(match[0]):04x}", label)


def _smoke_set(count: int) -> list[tuple[bytes, list[float]]]:
    """Bytes and evaluated probabilities of test images, spread evenly over the test split."""
    rows = [row for row in tables.read(PREDICTED, PREDICTIONS).to_pylist() if row["split"] == "test"]
    chosen = {row["name"]: row["probabilities"] for row in rows[:: max(1, len(rows) // count)][:count]}
    return [(data, chosen[name]) for name, data in pictures.read_bytes(sorted(chosen))]


if __name__ == "__main__":
    process.run("export", main)
