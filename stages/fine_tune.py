"""fine_tune: phase 1 trains a head on the frozen base's features, phase 2 the layers above the cut.

Both phases read stored tensors, so neither runs the frozen part. BatchNormalization stays frozen, the
second phase's rate is a tenth of the first's unless set, and each phase keeps its best epoch. Each
epoch is saved in .graft/checkpoints/, so a killed run goes on where it was and ends with the same bytes.

Reads   data/feature_extract/
Writes  data/fine_tune/{model.keras, frozen_head.keras, from_scratch.keras, training.json}, reports/fine_tune/
Run     python -m stages.fine_tune
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field

from stages.core import backbones, catalogue, from_scratch, precision
from stages.core.augmentation import Augmentation, augment
from stages.core.errors import ConfigError
from stages.core.mixing import Mixing
from stages.core.optimizers import EVERY, OPTIMIZERS, SWITCHES, Optimizer
from stages.core.parameters import Problem, StageParams
from stages.core.phase import Phase
from stages.core.precision import Policy, Precision
from stages.store import documents, out_of_memory, outputs, params, process, tensorflow_runtime
from stages.store.checkpoints import Checkpoints, fingerprint
from stages.store.features import Examples, FeatureReader
from stages.store.learning_curves import LearningCurves, Share, shares

if TYPE_CHECKING:
    import keras

log = logging.getLogger(__name__)
FEATURES = Path("data/feature_extract")
OUT = Path("data/fine_tune")
REPORT = Path("reports/fine_tune")


class FineTuneParams(StageParams):
    """What is trained, for how long and how fast."""

    fine_tune_at: catalogue.Layer = Field(
        100,
        description="first base layer that phase 2 trains: its name, its index, -30 for the last 30, or 0.65 to keep "
        "that share of the layers frozen",
    )
    units: list[Annotated[int, Field(ge=1, le=65_536)]] = Field(
        [], max_length=8, description="sizes of the head's ReLU layers between the features and the classes"
    )
    dropout: float = Field(0.2, ge=0.0, lt=1.0, description="share dropped before each layer of the head")
    l2: float = Field(0.0, ge=0.0, le=1.0, description="times the squares of the head's kernels, added to the loss")
    label_smoothing: float = Field(0.0, ge=0.0, lt=1.0, description="share of a label spread over all classes")
    focal_gamma: float = Field(0.0, ge=0.0, le=10.0, description="focal loss's exponent; 0 is cross-entropy")
    activation: Literal["softmax", "sigmoid"] = Field(
        "softmax", description="of the head: a probability per class, or one sigmoid, for two classes"
    )
    mixup: float = Field(
        0.0, ge=0.0, le=10.0, description="alpha of MixUp's Beta(alpha, alpha) in phase 2; 0 is off. Above a cut it "
        "averages activations (Manifold Mixup at the cut), at cut 0 pixels (MixUp)"
    )  # fmt: skip
    cutmix: float = Field(
        0.0, ge=0.0, le=10.0, description="alpha of CutMix's Beta(alpha, alpha) in phase 2; 0 is off. Above a cut it "
        "pastes rectangles of the activation map, at cut 0 of the pictures"
    )  # fmt: skip
    class_weights: Literal["none", "balanced"] = Field(
        "none", description="balanced: every class weighs alike in the loss, however few its images"
    )
    optimizer: Optimizer = Field("Adam", description="Keras's name")
    optimizer_arguments: dict[str, int | float | bool] = Field(
        {}, description="the optimizer's own, e.g. {weight_decay: 0.004}; not its learning rate"
    )
    head: Phase = Field(Phase(epochs=20, learning_rate=1e-3), description="phase 1; learning_rate is required")
    tail: Phase = Field(Phase(epochs=10), description="phase 2; learning_rate null is a tenth of phase 1's")
    from_scratch: bool = Field(False, description="also train from random weights at the same cost, as a baseline")
    precision: Precision = Field(
        "auto", description="of what the base's layers compute; auto: float32, or on GPUs that gain mixed_bfloat16 or "
        "mixed_float16"
    )  # fmt: skip
    threads: int = Field(2, ge=1, le=256, description="operations that TensorFlow runs at once")
    seed: int = Field(1, ge=0, le=2**32 - 1, description="seed of initial weights, dropout and order")

    def across(self, blocks: Mapping[str, StageParams]) -> Iterator[Problem]:
        """What feature_extract stores must be what this stage trains from."""
        extract: Any = blocks["feature_extract"]
        if self.head.learning_rate is None:
            yield Problem("fine_tune.head.learning_rate", "received null; must be a number > 0 and <= 1")
        if not catalogue.is_local(extract.backbone):
            yield from self._cut(extract.cut_at, catalogue.CATALOGUE[extract.backbone].layers)
        yield from self.head.problems("fine_tune.head")
        yield from self.tail.problems("fine_tune.tail")
        legal = [*OPTIMIZERS[self.optimizer], *EVERY]
        for name, value in self.optimizer_arguments.items():
            key = f"fine_tune.optimizer_arguments.{name}"
            if name not in legal:
                yield Problem(key, f"{self.optimizer} does not take it here; it takes {', '.join(legal)}")
            elif isinstance(value, bool) != (name in SWITCHES):
                must = "true or false" if name in SWITCHES else "a number"
                yield Problem(key, f"received {value!r} ({type(value).__name__}); must be {must}")
        if self.head.epochs == self.tail.epochs == 0:
            yield Problem("fine_tune.head.epochs", "received 0, as is tail.epochs; nothing would be trained")
        if self.from_scratch and not extract.pixels:
            yield Problem("fine_tune.from_scratch", "received true, which needs feature_extract.pixels: true")

    def _cut(self, cut_at: catalogue.Layer, layers: int) -> Iterator[Problem]:
        try:
            first = catalogue.layer_number(self.fine_tune_at, layers)
            stored = catalogue.layer_number(cut_at, layers)
        except ConfigError as error:  # of a wrong cut_at feature_extract's parameters tell
            yield from [Problem("fine_tune.fine_tune_at", str(error))] if str(self.fine_tune_at) in str(error) else []
            return
        if first is not None and stored is not None and first < stored:
            yield Problem("fine_tune.fine_tune_at", _below(self.fine_tune_at, cut_at))


def _below(received: catalogue.Layer, cut_at: catalogue.Layer) -> str:
    return (
        f"received {received}; layers below feature_extract.cut_at ({cut_at}) are stored, not trained. Raise it, or "
        f"lower feature_extract.cut_at to {received}"
    )


def _largest_batch() -> int:
    asked = params.read(FineTuneParams)
    return max(asked.head.batch_size, asked.tail.batch_size)


@out_of_memory.again_in_smaller_batches(_largest_batch)
def main() -> str:
    settings = out_of_memory.in_parts(params.read(FineTuneParams))
    classes = documents.read(FEATURES / "trunk.json")["classes"]
    if settings.activation == "sigmoid" and len(classes) != 2:
        raise ConfigError(
            f"fine_tune.activation: received 'sigmoid', which is for two classes; the data has {len(classes)}. "
            "Set 'softmax'"
        )
    device = tensorflow_runtime.start(settings.threads, settings.seed, training=True)
    # These import Keras, so they wait until TensorFlow has been started.
    from stages.core import classifier, objective, training  # noqa: F401  # loaded so that the fingerprint covers them
    from stages.store import models

    kept = Checkpoints("fine_tune", fingerprint(settings.model_dump(exclude={"threads"}), FEATURES, device))
    strategy = tensorflow_runtime.strategy()
    with strategy.scope(), outputs.replacing(OUT, REPORT) as (out, report):
        stored = FeatureReader(FEATURES)
        of_trunk = stored.trunk["settings"]
        how, cut = stored.trunk["preprocessing"], stored.trunk["cut"]
        base = models.architecture(FEATURES, stored.trunk)
        models.load_stored_weights(base, FEATURES / "base.weights.h5", of_trunk["backbone"])
        first = backbones.layer_number(base, settings.fine_tune_at, "fine_tune.fine_tune_at")
        if backbones.deepest_cut(base, first) < cut:
            raise ConfigError(f"fine_tune.fine_tune_at: {_below(settings.fine_tune_at, stored.trunk['cut_layer'])}")
        head = _head(stored, settings)
        most = {"head": settings.head.epochs, "tail": settings.tail.epochs}
        if settings.from_scratch:
            most["from_scratch"] = from_scratch.same_budget(base, cut, of_trunk["views"], settings.tail.epochs)
        shards = strategy.num_replicas_in_sync
        policy = precision.chosen(settings.precision, tensorflow_runtime.capabilities())
        run = _Run(stored, settings, kept, shares(most), shards, device == "CPU" and shards == 1, policy)

        with LearningCurves(report) as curves:
            phase_1 = run.fit("head", head, "pooled", settings.head, curves)
            models.save(head, out / "frozen_head.keras")
            backbones.freeze_below(base, first)
            backbones.multiply_matrices(base)
            with precision.computing(base, policy):
                from_cut = classifier.from_activations(backbones.tail(base, how, cut), head, halves=run.by_batch)
                phase_2 = run.fit("tail", from_cut, "activations" if cut else "pixels", settings.tail, curves)
        models.save(classifier.from_pixels(base, how, head), out / "model.keras")
        outcomes = {"head": phase_1, "tail": phase_2}
        if settings.from_scratch:
            epochs = from_scratch.same_budget(base, cut, of_trunk["views"], phase_2["epochs"])
            with LearningCurves(report / "from_scratch") as curves:
                scratch, outcomes["from_scratch"] = _from_scratch(run, epochs, curves)
            models.save(scratch, out / "from_scratch.keras")
        record = {"settings": settings.model_dump(exclude={"threads"}), "phases": outcomes}
        documents.write(out / "training.json", record | {"device": device, "precision": policy})
    kept.clear()
    return (
        f"head {phase_1['epochs']} epochs → val accuracy {phase_1['val_accuracy']:.4f}, "
        f"tail {phase_2['epochs']} epochs → {phase_2['val_accuracy']:.4f}, on {device}"
    )


@dataclasses.dataclass(frozen=True)
class _Run:
    """What the phases of one run share."""

    stored: FeatureReader
    settings: FineTuneParams
    kept: Checkpoints
    shares: Mapping[str, Share]  # of the whole work, per phase
    shards: int  # devices that each get a part of every batch
    by_batch: bool  # see training.fit
    policy: Policy  # of all phases but the first, which trains the head alone

    def fit(self, name: str, model: keras.Model, kind: str, phase: Phase, curves: LearningCurves) -> dict[str, Any]:
        """Train one phase in place, or what is left of it; returns what it did, for training.json."""
        from stages.core import objective, training

        train, val = self.stored.examples(kind, "train"), self.stored.examples(kind, "val")
        balance = self.settings.class_weights == "balanced"
        weights = objective.balanced(train.labels, len(self.stored.classes)) if balance else None
        rate = phase.learning_rate or (self.settings.head.learning_rate or 0.0) / 10
        label = name.replace("_", " ")
        mixing = None
        if name == "tail" and (self.settings.mixup or self.settings.cutmix):
            mixing = Mixing(self.settings.mixup, self.settings.cutmix, len(self.stored.classes))
        curves.phase(label, phase.epochs, self.shares[name])
        saved = self.kept.load(name) if phase.epochs else None
        if saved is not None:
            finished = saved.stopped or saved.epochs == phase.epochs
            at = f"{label}, epoch {saved.epochs + 1} of {phase.epochs}"
            log.info(f"{label} was finished, after {saved.epochs} epochs" if finished else f"resuming at {at}")
            for logs in saved.logs:
                curves.epoch(logs, replayed=True)
        outcome = training.fit(
            model,
            training.Batches(
                _take(train, kind, self.stored), train.labels, train.views, phase.batch_size, self.settings.seed,
                self.shards, mixing,
            ),
            training.Batches(_take(val, kind, self.stored), val.labels, 1, phase.batch_size, None, self.shards),
            training.Schedule(
                **phase.model_dump(exclude={"learning_rate"}), learning_rate=rate,
                optimizer=self.settings.optimizer, arguments=self.settings.optimizer_arguments,
                loss_scaling=self.policy == "mixed_float16" and name != "head",
            ),
            curves.epoch,
            saved,
            lambda state: self.kept.save(name, state),
            by_batch=self.by_batch,
            loss=objective.loss(self.settings.label_smoothing, self.settings.focal_gamma, weights, mixing is not None),
        )  # fmt: skip
        return {"learning_rate": rate, **dataclasses.asdict(outcome)}


def _head(stored: FeatureReader, settings: FineTuneParams) -> keras.Model:
    from stages.core import classifier

    return classifier.head(
        stored.trunk["pooled_features"], len(stored.classes), settings.dropout, settings.seed, settings.units,
        settings.l2, settings.activation,
    )  # fmt: skip


def _take(examples: Examples, kind: str, stored: FeatureReader) -> Any:
    """Stored tensors as they are; pixels freshly augmented in each training epoch (validation's is epoch 0)."""
    if kind != "pixels":
        return lambda images, views, epoch: examples.take(images, views)
    limits = Augmentation.model_validate(stored.trunk["settings"]["augmentation"])
    seed = stored.trunk["settings"]["seed"]

    def fresh(images: Any, views: Any, epoch: int) -> Any:
        pixels = examples.take(images, views)
        if epoch == 0:
            return pixels
        keys = [f"{seed}:{examples.image_ids[image]}:{epoch}" for image in images]
        return np.stack([augment(picture, limits, key) for picture, key in zip(pixels, keys, strict=True)])

    return fresh


def _from_scratch(run: _Run, epochs: int, curves: LearningCurves) -> tuple[keras.Model, dict[str, Any]]:
    """The same network from random weights, on the same images in batches of phase 2's size.

    It gets what helps it: fresh augmentation, every layer trainable, phase 1's higher rate, and what
    `from_scratch.learn_quickly` does.
    """
    import keras

    from stages.core import classifier
    from stages.store import models

    stored, settings = run.stored, run.settings
    how = stored.trunk["preprocessing"]
    keras.utils.set_random_seed(settings.seed)
    base = models.architecture(FEATURES, stored.trunk)
    from_scratch.learn_quickly(base)
    head = _head(stored, settings)
    budget = Phase(epochs=epochs, batch_size=settings.tail.batch_size, learning_rate=settings.head.learning_rate)
    with precision.computing(base, run.policy):
        model = classifier.from_pixels(base, how, head)
        outcome = run.fit("from_scratch", model, "pixels", budget, curves)
    return model if run.policy == "float32" else classifier.from_pixels(base, how, head), outcome


if __name__ == "__main__":
    process.run("fine_tune", main)
