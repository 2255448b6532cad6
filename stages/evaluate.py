"""evaluate: how good the model is, beside its baselines, from the bytes of images it never saw.

Reads   data/fine_tune/, data/feature_extract/, data/split/split.parquet, data/validate/facts.parquet,
        data/download/images/
Writes  reports/evaluate/{metrics.json, details.json, predictions.parquet, confusion.csv, roc.csv,
        reliability.csv, thresholds.csv, slices.csv, mistakes.png, augmentations.png, index.html}, and for two
        classes two_classes.csv
Run     python -m stages.evaluate
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from stages.core import augmentation_sheet, baselines, evaluation_report
from stages.core.augmentation import Augmentation
from stages.core.baselines import Baseline
from stages.core.errors import IntegrityError
from stages.core.page import Tile
from stages.core.parameters import Problem, StageParams
from stages.core.schemas import FACTS, PREDICTIONS, SPLIT
from stages.store import documents, engines, outputs, params, pictures, process, sheets, tables
from stages.store.features import FeatureReader

if TYPE_CHECKING:
    import keras

    from stages.core.predictions import HeldOut

MODELS = Path("data/fine_tune")
FEATURES = Path("data/feature_extract")
SPLIT_TABLE = Path("data/split/split.parquet")
FACTS_TABLE = Path("data/validate/facts.parquet")
SLICED_BY = ("name", "label", "given_split", "format", "width", "height", "brightness", "group")
OUT = Path("reports/evaluate")
SIDE = 96  # pixels of a picture in the report
EXPLAINED_SIDE = 144  # of one whose parts are coloured


class EvaluateParams(StageParams):
    """How the figures are computed and how much is shown."""

    engine: Literal["auto", "tensorflow", "openvino"] = Field(
        "auto", description="what runs the model; auto: tensorflow on a GPU, openvino on a CPU"
    )
    batch_size: int = Field(32, ge=1, le=4096, description="images per run of the model")
    resamples: int = Field(1000, ge=10, le=100_000, description="bootstrap resamples behind each interval")
    mistakes: int = Field(24, ge=0, le=500, description="worst mistakes, and doubtful labels, shown as pictures")
    explained: int = Field(
        8, ge=0, le=100, description="test images, half of them mistakes, shown with what the model looked at"
    )
    baselines: list[Baseline] | None = Field(
        None, description="what the model is compared with; null is all that were trained, [] none"
    )
    threads: int = Field(2, ge=1, le=256, description="threads that decode and that run the model")
    seed: int = Field(1, ge=0, le=2**32 - 1, description="seed of the bootstrap")

    def across(self, blocks: Mapping[str, StageParams]) -> Iterator[Problem]:
        """A baseline can be asked for only where it was trained."""
        tune: Any = blocks["fine_tune"]
        if "from_scratch" in (self.baselines or ()) and not tune.from_scratch:
            problem = "received 'from_scratch', which is not trained: set fine_tune.from_scratch: true, or leave it out"
            yield Problem("evaluate.baselines", problem)


def main() -> str:
    settings = params.read(EvaluateParams)
    stored = FeatureReader(FEATURES)
    images = tables.read(SPLIT_TABLE, SPLIT)
    held_out = images.filter(pc.not_equal(images["split"], "train")).to_pylist()
    engine = engines.start(settings.engine, settings.threads, settings.seed)
    # These import Keras or scikit-learn, so they wait until the parameters have been checked.
    from stages.core import evaluation, metrics, predictions, slices
    from stages.store import models

    rows = predictions.ordered(held_out, stored.classes)
    model = _model(MODELS / "model.keras", stored)
    probabilities = _predict(engine, model, rows.names, stored, settings)
    predictions.check(probabilities)
    scratch = MODELS / "from_scratch.keras"
    asked = baselines.chosen(settings.baselines, from_scratch=scratch.exists())
    train_labels = stored.examples("pooled", "train").labels.astype(np.int64) if "majority_class" in asked else None
    compared = {}
    if "frozen_features" in asked:
        head = models.load(MODELS / "frozen_head.keras")
        compared["frozen_features"] = baselines.frozen_features(head, rows.names, stored)
    if "from_scratch" in asked:
        compared["from_scratch"] = _predict(engine, _model(scratch, stored), rows.names, stored, settings)

    tested = [name for name, split in zip(rows.names, rows.splits, strict=True) if split == "test"]
    result = evaluation.results(
        rows, probabilities, compared, train_labels, stored.classes, _facts(tested, images), settings.resamples,
        settings.seed,
    )  # fmt: skip

    worst = predictions.worst(rows, probabilities, settings.mistakes)
    doubtful = evaluation.suspects(rows, probabilities)[: settings.mistakes]
    wrong = predictions.worst(rows, probabilities, (settings.explained + 1) // 2)
    right = predictions.surest(rows, probabilities, settings.explained - len(wrong))
    shown = {rows.names[at] for at in (*worst, *(at for at, _ in doubtful), *wrong, *right)}
    pixels = dict(pictures.read(sorted(shown), stored.trunk["settings"]["image_size"]))
    mistakes = [
        (sheets.png(pixels[rows.names[at]], SIDE), predictions.caption(rows, probabilities, stored.classes, at))
        for at in worst
    ]
    doubts = [
        (
            sheets.png(pixels[rows.names[at]], SIDE),
            predictions.doubt(rows, probabilities, stored.classes, at, other),
        )
        for at, other in doubtful
    ]
    explained = _explained(engine, model, rows, probabilities, [*wrong, *right], pixels, stored.classes)

    with outputs.replacing(OUT) as (out,):
        documents.write(out / "metrics.json", metrics.headline(result))
        documents.write(out / "details.json", result)
        table = predictions.table(rows, probabilities, stored.classes)
        tables.write(out / "predictions.parquet", tables.from_rows(table, PREDICTIONS))
        tables.write_csv(out / "confusion.csv", predictions.confusion(table, "test"))
        tables.write_csv(out / "roc.csv", predictions.roc(rows, probabilities, stored.classes, "test"))
        tables.write_csv(out / "reliability.csv", result["calibration"]["before"]["bins"])
        tables.write_csv(out / "thresholds.csv", result["thresholds"])
        if "two_classes" in result:
            tables.write_csv(out / "two_classes.csv", result["two_classes"]["rows"])
        tables.write_csv(out / "slices.csv", result["slices"], slices.COLUMNS)
        sheets.contact_sheet(out / "mistakes.png", [picture for picture, _ in mistakes], 8, SIDE)
        mix_ups = predictions.mix_ups(table, "test", 25)
        trained = documents.read(MODELS / "training.json")["settings"]
        augmented = _augmentations(stored, trained)
        most = max(map(len, augmented), default=1)
        blank = sheets.png(np.full((1, 1, 3), 255, np.uint8), SIDE)
        cells = [png for row in augmented for png in [*(png for png, _ in row), *[blank] * (most - len(row))]]
        sheets.contact_sheet(out / "augmentations.png", cells, most, SIDE)
        page = evaluation_report.build(
            stored.classes, result, mistakes, doubts, mix_ups, explained, (augmented, stored.trunk, trained)
        )
        (out / "index.html").write_text(page, encoding="utf-8")
    test = result["test"]
    gains = "".join(
        f"; {one['gain']:+.4f} ({one['gain_low']:+.4f} to {one['gain_high']:+.4f}) over {name.replace('_', ' ')}"
        for name, one in list(result["compared"].items())[:1]
    )
    return (
        f"test accuracy {test['accuracy']:.4f} ({test['accuracy_low']:.4f} to {test['accuracy_high']:.4f}) on "
        f"{test['images']:,} images, val {result['val']['accuracy']:.4f}{gains}; {OUT / 'index.html'}"
    )


def _facts(names: list[str], accepted: pa.Table) -> list[dict[str, Any]]:
    """What validate found of the images with these names, in their order, and how many each one's group has."""
    wanted = pa.array(names, pa.string())
    found = pa.concat_tables(
        facts.filter(pc.is_in(facts["name"], wanted)) for facts in tables.batches(FACTS_TABLE, FACTS, SLICED_BY)
    )
    place = pc.index_in(wanted, found["name"].combine_chunks())
    if place.null_count:
        first = names[place.is_null().index(True).as_py()]
        raise IntegrityError(f"{FACTS_TABLE}: {first!r} is not in it, though split drew it; run dvc repro")
    counted = accepted["group"].value_counts()
    several = counted.filter(pc.greater(pc.struct_field(counted, "counts"), 1)).to_pylist()
    copies = {row["values"]: row["counts"] for row in several}
    return [{**row, "copies": copies.get(row["group"], 1)} for row in found.take(place).to_pylist()]


def _augmentations(stored: FeatureReader, trained: dict[str, Any]) -> list[list[tuple[bytes, str]]]:
    """Rows of (PNG, caption): training images with their views, then what phase 2 mixed, if it did."""
    train, of_trunk = stored.examples("pooled", "train"), stored.trunk["settings"]
    numbers = augmentation_sheet.chosen(train.labels)
    rows = train.images.take(numbers).to_pylist()
    read = pictures.read([row["name"] for row in rows], of_trunk["image_size"])
    some = [
        augmentation_sheet.Picture(name, row["image_id"], stored.classes[train.labels[number]], pixels)
        for number, row, (name, pixels) in zip(numbers, rows, read, strict=True)
    ]
    limits = Augmentation.model_validate(of_trunk["augmentation"])
    # At cut 0 the views are made in training, one an epoch, by the same keys.
    count = of_trunk["views"] if stored.trunk["cut"] else augmentation_sheet.MOST
    shown = augmentation_sheet.of_views(some, count, limits, of_trunk["seed"])
    shown += augmentation_sheet.of_mixed(some, trained["mixup"], trained["cutmix"], trained["seed"])
    return [[(sheets.png(pixels, SIDE), said) for pixels, said in row] for row in shown]


def _model(path: Path, stored: FeatureReader) -> keras.Model:
    """The classifier from pixels that a file of fine_tune's holds."""
    from stages.core import classifier
    from stages.store import models

    # Built anew and filled: the file fixes where channels lie, and the engine may want them elsewhere.
    base = models.architecture(FEATURES, stored.trunk)
    trained = documents.read(MODELS / "training.json")["settings"]
    head = classifier.head(
        stored.trunk["pooled_features"], len(stored.classes), dropout=0.0, seed=0, units=trained["units"],
        activation=trained["activation"],
    )  # fmt: skip
    model = classifier.from_pixels(base, stored.trunk["preprocessing"], head)
    model.set_weights(models.load(path).get_weights())
    return model


def _predict(
    engine: engines.Engine, model: keras.Model, names: list[str], stored: FeatureReader, settings: EvaluateParams
) -> npt.NDArray[np.float64]:
    """Probabilities float64 [N, classes] in the order of `names`, from the images' bytes."""
    row_of = {name: number for number, name in enumerate(names)}
    out = np.zeros((len(names), len(stored.classes)))
    under_way: deque[list[int]] = deque()  # rows of the batches that the engine has taken

    def batches() -> Iterator[npt.NDArray[np.uint8]]:
        size = stored.trunk["settings"]["image_size"]
        read = pictures.mapped(lambda _, pixels: pixels, sorted(names), size, settings.threads)
        while batch := list(islice(read, settings.batch_size)):
            under_way.append([row_of[name] for name, _ in batch])
            yield np.stack([pixels for _, pixels in batch])

    results = engine.run(model, batches(), settings.batch_size, np.float32)
    total = -(-len(names) // settings.batch_size)
    for (found,) in process.progress(results, "running the model", total):
        out[under_way.popleft()] = found
    return out


def _explained(
    engine: engines.Engine,
    model: keras.Model,
    rows: HeldOut,
    probabilities: npt.NDArray[np.float64],
    chosen: list[int],
    pixels: Mapping[str, pictures.Pixels],
    classes: list[str],
) -> evaluation_report.Explained | None:
    """The chosen images with what speaks for the class that was named, and where it was wrong for the label."""
    from stages.core import grad_cam, predictions

    if not chosen:
        return None
    batch = np.stack([pixels[rows.names[at]] for at in chosen])
    ((features,),) = engine.run(grad_cam.feature_map(model), iter([batch]), len(batch), np.float32)
    head = model.get_layer("head")
    tiles: dict[bool, list[Tile]] = {False: [], True: []}
    for at, picture, seen in zip(chosen, batch, features, strict=True):
        named, label = int(probabilities[at].argmax()), int(rows.labels[at])
        shown = list(dict.fromkeys([named, label]))
        maps = [grad_cam.overlay(picture, grad_cam.heat_map(seen, head, number)) for number in shown]
        tiles[named == label].append(
            Tile(
                sheets.strip([picture, *maps], EXPLAINED_SIDE),
                predictions.caption(rows, probabilities, classes, at),
                [f"coloured: what speaks for {', then for '.join(classes[number] for number in shown)}"],
            )
        )
    return evaluation_report.Explained(tiles[False], tiles[True], features.shape[1:3])


if __name__ == "__main__":
    process.run("evaluate", main)
