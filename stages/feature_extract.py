"""feature_extract: the frozen trunk, run once per image and view.

Freezing below a layer means nothing up to it ever changes, so its output is computed here once and
stored: activations at the cut for the tail, pooled features of the whole base for the head. What an
earlier run computed of the same bytes is taken from the memo; the outputs' bytes do not depend on it.

Reads   data/split/split.parquet, data/validate/classes.json, data/download/images/
Writes  data/feature_extract/{trunk.json, base.weights.h5, index.parquet, *.npy}, base.keras of one's own base
Run     python -m stages.feature_extract
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, field_validator

from stages.core import backbones, catalogue, views
from stages.core.augmentation import Augmentation, Pixels
from stages.core.errors import ConfigError
from stages.core.parameters import Problem, StageParams
from stages.core.schemas import SPLIT, SPLITS
from stages.store import (
    documents,
    engines,
    hub_presets,
    models,
    outputs,
    params,
    pictures,
    pretrained,
    process,
    tables,
)
from stages.store.features import FeatureWriter
from stages.store.view_memo import ViewMemo

if TYPE_CHECKING:
    import keras

SPLIT_TABLE = Path("data/split/split.parquet")
CLASSES = Path("data/validate/classes.json")
OUT = Path("data/feature_extract")


class FeatureExtractParams(StageParams):
    """The base, where it is cut, and how many views of each training image are stored."""

    backbone: str = Field(
        "MobileNetV2", description="Keras Applications name (graft backbones), a .keras file, or preset: and the "
        "folder or name of a KerasHub preset, which needs the extra hub"
    )  # fmt: skip
    preprocessing: catalogue.Preprocessing | None = Field(
        None, description="of a .keras file, or a preset without an image converter: how it takes pixels of 0-255; "
        "others know theirs"
    )  # fmt: skip
    alpha: float = Field(1.0, gt=0.0, le=2.0, description="width multiplier of the base")
    image_size: int = Field(160, ge=32, le=1024, description="side in pixels that images are resized to")
    weights: str = Field(
        "imagenet", description="'imagenet', the path of a weights-only .h5 file, of a .keras file or a SavedModel's "
        "folder to take them out of, or 'inside' a .keras file or preset"
    )  # fmt: skip
    weights_sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$", description="pin, needed for a path")
    cut_at: catalogue.Layer = Field(
        100, description="layer; those below are never trained. 0 keeps pixels only. See fine_tune.fine_tune_at"
    )
    views: int = Field(4, ge=1, le=64, description="views stored per training image, the image itself included")
    augmentation: Augmentation = Augmentation()
    pixels: bool = Field(False, description="also store pixels, for the from-scratch baseline")
    engine: Literal["auto", "tensorflow", "openvino"] = Field(
        "auto", description="what runs the trunk; auto: tensorflow on a GPU, openvino on a CPU"
    )
    batch_size: int = Field(32, ge=1, le=4096, description="views per run of the trunk")
    rows_per_shard: int = Field(4096, ge=1, description="rows per .npy file")
    threads: int = Field(2, ge=1, le=256, description="threads that decode and that run the trunk")
    seed: int = Field(1, ge=0, le=2**32 - 1, description="seed of the augmented views")

    @field_validator("backbone")
    @classmethod
    def _known(cls, backbone: str) -> str:
        if catalogue.is_preset(backbone) and (why := hub_presets.missing()):
            raise ValueError(f"received {backbone!r}; {why}")
        if backbone in catalogue.CATALOGUE or catalogue.is_local(backbone):
            return backbone
        near = get_close_matches(backbone, catalogue.CATALOGUE, 3, 0.5) or list(catalogue.CATALOGUE)
        raise ValueError(
            f"received {backbone!r}; must be the path of a .keras file, preset:… or one of {', '.join(near)}"
        )

    @property
    def how(self) -> catalogue.Preprocessing:
        """How pixels enter the base."""
        if self.preprocessing is not None:
            return self.preprocessing
        if catalogue.is_preset(self.backbone):
            return "inside"
        return catalogue.CATALOGUE[self.backbone].preprocessing

    def across(self, blocks: Mapping[str, StageParams]) -> Iterator[Problem]:
        """What the catalogue offers, and the pin that a local file needs."""
        if catalogue.is_local(self.backbone):
            yield from self._local()
            return
        entry = catalogue.CATALOGUE[self.backbone]
        if self.preprocessing is not None:
            problem = f"received {self.preprocessing!r}; {self.backbone} has its own ({entry.preprocessing}); remove it"
            yield Problem("feature_extract.preprocessing", problem)
        if not entry.alphas and self.alpha != 1.0:
            yield Problem("feature_extract.alpha", f"received {self.alpha:g}; {self.backbone} has one width, 1")
        elif self.weights == "imagenet" and entry.alphas and self.alpha not in entry.alphas:
            legal = ", ".join(f"{alpha:g}" for alpha in entry.alphas)
            yield Problem("feature_extract.alpha", f"received {self.alpha:g}; ImageNet weights exist for {legal}")
        if self.image_size < entry.least_side:
            problem = f"received {self.image_size}; {self.backbone} needs {entry.least_side} or more"
            yield Problem("feature_extract.image_size", problem)
        if self.weights == "imagenet" and entry.imagenet_side not in (None, self.image_size):
            problem = f"received {self.image_size}; Keras has {self.backbone}'s weights for {entry.imagenet_side} alone"
            yield Problem("feature_extract.image_size", problem)
        try:
            catalogue.layer_number(self.cut_at, entry.layers)
        except ConfigError as error:
            yield Problem("feature_extract.cut_at", str(error))
        if self.weights == "imagenet" and self.weights_sha256 is not None:
            yield Problem("feature_extract.weights_sha256", "a pin is for a local file; set null with 'imagenet'")
        if self.weights != "imagenet" and self.weights_sha256 is None:
            yield Problem("feature_extract.weights_sha256", "missing; a local weight file must be pinned")
        if self.backbone.startswith("EfficientNetB") and self.weights != "imagenet" and self.weights[-3:] != ".h5":
            problem = (
                f"received {self.weights!r}; a model around {self.backbone} may divide its pixels once more, as Keras "
                "does with ImageNet weights, and weights do not tell; use 'imagenet', .h5 weights or a .keras base"
            )
            yield Problem("feature_extract.weights", problem)

    def _local(self) -> Iterator[Problem]:
        if self.weights != "inside":
            problem = f"received {self.weights!r}; must be 'inside', as {self.backbone} holds its weights"
            yield Problem("feature_extract.weights", problem)
        if self.weights_sha256 is None:
            yield Problem("feature_extract.weights_sha256", "missing; a local base must be pinned")
        if self.preprocessing is None and not catalogue.is_preset(self.backbone):
            legal = ", ".join(get_args(catalogue.Preprocessing))
            yield Problem("feature_extract.preprocessing", f"missing; a .keras file needs one of {legal}")


def main() -> str:
    settings = params.read(FeatureExtractParams)
    columns = ["name", "image_id", "label", "split"]
    images = tables.read(SPLIT_TABLE, SPLIT, columns).sort_by("name").combine_chunks()
    counts = {split: pc.sum(pc.equal(images["split"], split)).as_py() or 0 for split in SPLITS}
    engine = engines.start(settings.engine, settings.threads, settings.seed)
    base = pretrained.pretrained_base(
        settings.backbone, settings.image_size, settings.alpha, settings.weights, settings.weights_sha256,
        settings.preprocessing,
    )  # fmt: skip
    backbones.check_entrance(base, settings.how)
    cut = backbones.deepest_cut(base, backbones.layer_number(base, settings.cut_at, "feature_extract.cut_at"))
    trunk = backbones.trunk(base, settings.how, cut)
    (_, *activation_shape), (_, pooled_features) = trunk.output_shape
    side = (settings.image_size, settings.image_size, 3)
    trunk_facts = {
        # What decides the bytes; a batch size or thread count must not make fine_tune stale.
        "settings": settings.model_dump(
            exclude={"batch_size", "threads", "cut_at", "pixels", "engine", "preprocessing"}
        ),
        "preprocessing": settings.how,
        "engine": engine.name,
        "classes": documents.read_classes(CLASSES),
        "cut": cut,
        "cut_layer": base.operations[cut].name,
        "activation_shape": activation_shape,
        "pooled_features": pooled_features,
        "images": counts,
        "weights_digest": models.weights_digest(base),
    }
    with (
        outputs.replacing(OUT) as (out,),
        FeatureWriter(
            out,
            images,
            settings.views,
            activation_shape=tuple(activation_shape) if cut > 0 else None,
            pooled_features=pooled_features,
            pixel_shape=side if settings.pixels or cut == 0 else None,
            rows_per_shard=settings.rows_per_shard,
        ) as store,
        ViewMemo(store, images, engine, trunk_facts, settings.augmentation, settings.seed) as memo,
    ):
        run = _run(engine, trunk, store, memo, images, settings)
        store.close()
        models.save_weights(base, out / "base.weights.h5")
        if catalogue.is_local(settings.backbone):
            models.save(base, out / "base.keras")
        documents.write(out / "trunk.json", trunk_facts)
    layer = f"layer {cut} ({base.operations[cut].name}, {'x'.join(map(str, activation_shape))})"
    return (
        f"{len(images):,} images, {int(store.views.sum()):,} views at {layer}: {run:,} through the frozen trunk with "
        f"{engine.name} on {engine.device}, the rest known"
    )


def _run(
    engine: engines.Engine,
    trunk: keras.Model,
    store: FeatureWriter,
    memo: ViewMemo,
    images: pa.Table,
    settings: FeatureExtractParams,
) -> int:
    """Store every view: what the memo knows, then what the trunk makes of the rest; returns how many those were."""
    known = memo.fill()
    pixels_known = memo.fill_pixels()
    missing = int((~known).sum())
    batches = -(-missing // settings.batch_size)
    chosen = np.flatnonzero(~(known.all(axis=1) & pixels_known))
    if not len(chosen):
        return 0

    def prepare(number: int, pixels: Pixels) -> tuple[int, Pixels, list[tuple[int, Pixels]]]:
        image = int(chosen[number])
        asked = np.flatnonzero(~known[image]).tolist()
        image_id = images["image_id"][image].as_py()
        return image, pixels, [(view, views.pixels_of(pixels, image_id, view, *how)) for view in asked]

    # A name at a time: of a million images all would be a hundred megabytes.
    names = (images["name"][image].as_py() for image in chosen)
    how = settings.augmentation, settings.seed
    under_way: deque[npt.NDArray[np.intp]] = deque()  # the places of batches that the engine has taken

    def stream() -> Iterator[tuple[int, int, Pixels]]:
        for _, (image, pixels, made) in pictures.mapped(prepare, names, settings.image_size, settings.threads):
            if not pixels_known[image]:
                memo.add_pixels(image, pixels)
            yield from ((image, view, picture) for view, picture in made)

    def batched() -> Iterator[Pixels]:
        waiting = stream()
        while batch := list(islice(waiting, settings.batch_size)):
            under_way.append(np.array([place for *place, _ in batch]))
            yield np.stack([picture for *_, picture in batch])

    results = engine.run(trunk, batched(), settings.batch_size, np.float16)
    for result in process.progress(results, "running the trunk", batches):
        memo.add(under_way.popleft(), result)
    return missing


if __name__ == "__main__":
    process.run("feature_extract", main)
