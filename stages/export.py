"""export: the model as others use it, each format asked in a clean process before it is published.

Reads   data/fine_tune/{model.keras, training.json}, reports/evaluate/{details.json, predictions.parquet},
        data/feature_extract/trunk.json, data/split/, data/validate/classes.json,
        data/download/{dataset.json, source.json, images/}
Writes  data/export/{saved_model/, model.keras, model.tflite, model_int8.tflite, openvino/, model.onnx,
        certificate.json, labels.txt, MODEL_CARD.md}; model.onnx where params.yaml asks for it. What is not there,
        though asked for, certificate.json and the card name, and why
Run     python -m stages.export
"""

from __future__ import annotations

import logging
import platform
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from stages.core import certificate, images, labels, model_card
from stages.core.errors import ConfigError, IntegrityError
from stages.core.parameters import Problem, StageParams, shown
from stages.core.schemas import PREDICTIONS, SPLIT
from stages.store import (
    documents,
    hashes,
    onnx_model,
    outputs,
    params,
    pictures,
    process,
    saved_model,
    tables,
    tensorflow_runtime,
)

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
SPLIT_TABLE = Path("data/split/split.parquet")
CLASSES = Path("data/validate/classes.json")
OUT = Path("data/export")
EXAMPLES = 100  # training images that int8 takes its ranges from, as TensorFlow's guide to quantization suggests
NAMED_VERSIONS = ("graft", "tensorflow", "keras", "numpy", "pillow", "pyarrow", "dvc")


class ExportParams(StageParams):
    """Which formats are written, and how closely they must agree with the model that was evaluated."""

    formats: list[Literal["keras", "litert", "litert_int8", "openvino", "onnx"]] = Field(
        ["keras", "litert", "litert_int8", "openvino"],
        description="beside saved_model, which is always written; onnx needs the extra of that name",
    )
    optional: list[str] = Field(
        [], description="those of `formats` that may fail: without them the others are published, with the reason"
    )
    certified_images: int = Field(1000, ge=1, description="test images each format is compared on, at most")
    smoke_images: int = Field(8, ge=1, le=1024, description="test images the exported model is tried on")
    # The least is the last place of the certificate's figure.
    tolerance: float = Field(
        0.02, ge=0.0001, le=1.0, description="largest allowed difference of a probability, of all formats but int8"
    )
    tolerance_int8: float = Field(
        0.2, ge=0.0001, le=1.0, description="largest allowed difference of a probability, of litert_int8"
    )
    temperature: Literal["none", "validation"] = Field(
        "none", description="what every format divides its logits by; validation: what evaluate fitted there"
    )

    def across(self, blocks: Mapping[str, StageParams]) -> Iterator[Problem]:
        """Refused here, no stage starts: an hour of training should not end at a package that is not there."""
        for name in dict.fromkeys(self.optional):
            if name not in self.formats:
                legal = ", ".join(map(repr, dict.fromkeys(self.formats))) or "there is none"
                always = "; saved_model is always written, and the others' measure" if name == "saved_model" else ""
                problem = f"received {shown(name)}; must be among export.formats: {legal}{always}"
                yield Problem("export.optional", problem)
        if "onnx" in self.formats and "onnx" not in self.optional and (why := onnx_model.missing()):
            yield Problem("export.formats", f"{why}, or name it in export.optional")


def main() -> str:
    settings = params.read(ExportParams)
    classes: list[str] = documents.read_classes(CLASSES)
    facts: dict[str, Any] = {name: documents.read(path) for name, path in CARD_FACTS.items()}
    heat = facts["metrics"]["calibration"]["temperature"] if settings.temperature == "validation" else None
    rows = _tested(heat)
    expected = _smoke_set(rows, settings.smoke_images)

    # Here, as whoever checks params.yaml needs the parameters above and nothing of these.
    from stages.store import conversion, exported, exported_files

    tensorflow_runtime.start(conversion.THREADS, conversion.SEED)
    log = logging.getLogger(__name__)
    source = conversion.Source(MODEL, heat)
    model = source.model()
    side = int(model.input_shape[1])
    chosen, evaluated = _spread(rows, settings.certified_images)
    with outputs.replacing(OUT) as (out,):
        found: dict[str, Any] = {}
        with exported.questions(out / ".asked", _pictures(chosen, side), len(chosen), side) as asked:
            # Those that may fail come last, so that the others are written as if there were none.
            formats = sorted(dict.fromkeys(settings.formats), key=settings.optional.__contains__)
            for format_ in ("saved_model", *formats):
                before = set(out.iterdir())
                try:
                    if format_ in settings.optional:
                        weights = model.count_params()
                        path = conversion.write(format_, source, weights, classes, out, _examples(side))
                    else:
                        path = exported.write(format_, model, classes, out, _examples(side))
                    if format_ == "saved_model":
                        difference = saved_model.smoke(path, classes, expected, settings.tolerance)
                    answers, seconds = exported.answers(format_, path, asked)
                except (exported.FormatFailed, ConfigError) as error:
                    if format_ not in settings.optional:
                        raise
                    # In full: what the certificate has of it is shorter, and the same wherever it happens.
                    said = " ".join(str(error.__cause__ or error).split())
                    log.warning("%s is optional, and failed: %s", format_, said)
                    found[format_] = certificate.absent(getattr(error, "why", f"cannot be written ({error})"))
                else:
                    bound = getattr(settings, certificate.bound(format_))
                    found[format_] = certificate.compare(format_, evaluated, answers, exported.size(path), bound, heat)
                    # The time stands in the log alone: in a file no two runs would have the same outputs.
                    log.info("%s: %.1f ms an image by itself", format_, 1000 * seconds)
                if not found[format_]["published"]:
                    why = certificate.refusal(format_, found[format_])
                    if format_ == "saved_model":
                        raise IntegrityError(f"{path}: {why}")
                    log.warning(why)
                    for path in set(out.iterdir()) - before:
                        outputs.remove(path)
        (out / exported_files.LABELS).write_text(labels.text(classes), encoding="utf-8")
        written = hashes.sha256_of_tree(out)
        for format_, one in found.items():
            if one["published"]:
                one["sha256"] = exported_files.of(format_, written)
        documents.write(out / exported_files.CERTIFICATE, found)
        digests = {
            "trained images, labels and splits": facts["split"]["digest"],
            "pretrained weights": facts["trunk"]["weights_digest"],
            "evaluated model.keras": hashes.sha256_of_file(MODEL),
            **{name: digest for name, digest in written.items() if name != exported_files.LABELS},
        }
        versions = {"python": platform.python_version(), **{name: version(name) for name in NAMED_VERSIONS}}
        card = model_card.write(classes, **facts, certificate=found, hashes=digests, versions=versions)
        (out / "MODEL_CARD.md").write_text(card, encoding="utf-8")
        size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    published = [format_ for format_, one in found.items() if one["published"]]
    missing = [f"{name} not published" for name, one in found.items() if not one["published"]]
    return (
        f"{', '.join([*published, *missing])}, {len(classes)} labels and card, {size / 1e6:.1f} MB; in clean processes "
        f"they agree on {min(found[name]['agreement'] for name in published):.2%} of {len(chosen):,} test images or "
        f"more; largest difference of the first {difference:.1g}"
    )


def _tested(heat: float | None) -> list[dict[str, Any]]:
    """The test's rows of predictions.parquet, with the probabilities that a model at this temperature has."""
    rows = [row for row in tables.read(PREDICTED, PREDICTIONS).to_pylist() if row["split"] == "test"]
    if heat is not None:
        from stages.core import calibration  # imports scikit-learn

        scaled = calibration.scaled(np.array([row["probabilities"] for row in rows], np.float64), heat)
        rows = [{**row, "probabilities": one} for row, one in zip(rows, scaled.tolist(), strict=True)]
    return rows


def _spread(rows: list[dict[str, Any]], count: int) -> tuple[list[str], npt.NDArray[np.float32]]:
    """At most `count` of the rows spread evenly: names in order, and their probabilities [N, C]."""
    places = np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int))
    chosen = sorted((rows[at] for at in places), key=lambda row: row["name"])
    return [row["name"] for row in chosen], np.array([row["probabilities"] for row in chosen], np.float32)


def _pictures(names: list[str], side: int) -> Iterator[tuple[bytes, npt.NDArray[np.uint8]]]:
    for _, data in pictures.read_bytes(names):
        yield data, images.decode_resized(data, side)


def _examples(side: int) -> npt.NDArray[np.uint8]:
    """Training images spread evenly, uint8 [n, side, side, 3]."""
    rows = tables.read(SPLIT_TABLE, SPLIT, ["name", "split"]).to_pylist()
    names = sorted(row["name"] for row in rows if row["split"] == "train")
    chosen = [names[at] for at in np.unique(np.linspace(0, len(names) - 1, EXAMPLES).round().astype(int))]
    return np.stack([pixels for _, pixels in pictures.read(chosen, side)])


def _smoke_set(rows: list[dict[str, Any]], count: int) -> list[tuple[bytes, list[float]]]:
    """Bytes and evaluated probabilities of test images, spread evenly over the rows."""
    chosen = {row["name"]: row["probabilities"] for row in rows[:: max(1, len(rows) // count)][:count]}
    return [(data, chosen[name]) for name, data in pictures.read_bytes(sorted(chosen))]


if __name__ == "__main__":
    process.run("export", main)
