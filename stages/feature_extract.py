"""feature_extract: the frozen trunk, run once per image and view.

Freezing below a layer means nothing up to it ever changes, so its output is computed here once and
stored: activations at the cut for the tail, pooled features of the whole base for the head.

Reads   data/split/split.parquet, data/validate/classes.json, data/download/images/
Writes  data/feature_extract/{trunk.json, base.weights.h5, index.parquet, *.npy}
Run     python -m stages.feature_extract
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field

from stages.core import backbones
from stages.core.augmentation import Augmentation, augment
from stages.core.parameters import Problem, StageParams
from stages.core.schemas import SPLIT, SPLITS
from stages.store import documents, models, outputs, params, pictures, process, tables, tensorflow_runtime
from stages.store.features import FeatureWriter

SPLIT_TABLE = Path("data/split/split.parquet")
CLASSES = Path("data/validate/classes.json")
OUT = Path("data/feature_extract")


class FeatureExtractParams(StageParams):
    """The base, where it is cut, and how many views of each training image are stored."""

    backbone: Literal["MobileNet", "MobileNetV2"] = Field("MobileNetV2", description="Keras Applications name")
    alpha: float = Field(1.0, gt=0.0, le=2.0, description="width multiplier of the base")
    image_size: int = Field(160, ge=32, le=1024, description="side in pixels that images are resized to")
    weights: str = Field("imagenet", description="'imagenet', or the path of a weights-only .h5 file")
    weights_sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$", description="pin, needed for a path")
    cut_at: int = Field(100, ge=0, description="layer index; layers below are never trained. 0 keeps pixels only")
    views: int = Field(4, ge=1, le=64, description="views stored per training image, the image itself included")
    augmentation: Augmentation = Augmentation()
    pixels: bool = Field(False, description="also store pixels, for the from-scratch baseline")
    batch_size: int = Field(64, ge=1, le=4096, description="views per run of the trunk")
    rows_per_shard: int = Field(4096, ge=1, description="rows per .npy file")
    threads: int = Field(2, ge=1, le=256, description="TensorFlow's intra-op threads")
    seed: int = Field(1, ge=0, le=2**32 - 1, description="seed of the augmented views")

    def across(self, blocks: Mapping[str, StageParams]) -> Iterator[Problem]:
        """What the catalogue offers, and the pin that a local file needs."""
        alphas = backbones.CATALOGUE[self.backbone].alphas
        if self.weights == "imagenet" and self.alpha not in alphas:
            legal = ", ".join(f"{alpha:g}" for alpha in alphas)
            yield Problem("feature_extract.alpha", f"received {self.alpha:g}; ImageNet weights exist for {legal}")
        layers = backbones.CATALOGUE[self.backbone].layers
        if self.cut_at > layers:
            yield Problem("feature_extract.cut_at", f"received {self.cut_at}; {self.backbone} has {layers} layers")
        if self.weights == "imagenet" and self.weights_sha256 is not None:
            yield Problem("feature_extract.weights_sha256", "a pin is for a local file; set null with 'imagenet'")
        if self.weights != "imagenet" and self.weights_sha256 is None:
            yield Problem("feature_extract.weights_sha256", "missing; a local weight file must be pinned")


class View(NamedTuple):
    """One picture on its way through the trunk."""

    row: Mapping[str, Any]  # of the split table
    number: int  # 0 is the image itself
    pixels: npt.NDArray[np.uint8]  # [S, S, 3]


def views_of(rows: Mapping[str, Mapping[str, Any]], settings: FeatureExtractParams) -> Iterator[View]:
    """Every view in the raw shards' order: one per held-out image, `views` per training image."""
    for name, pixels in pictures.read(rows.keys(), settings.image_size):
        row = rows[name]
        yield View(row, 0, pixels)
        for number in range(1, settings.views if row["split"] == "train" else 1):
            key = f"{settings.seed}:{row['image_id']}:{number}"
            yield View(row, number, augment(pixels, settings.augmentation, key))


def batches_of(stream: Iterator[View], size: int) -> Iterator[list[View]]:
    """Lists of `size` views, the last one shorter; the next is prepared while one is in use."""
    with ThreadPoolExecutor(1) as ahead:
        following = ahead.submit(lambda: list(islice(stream, size)))
        while batch := following.result():
            following = ahead.submit(lambda: list(islice(stream, size)))
            yield batch


def padded(batch: list[View], size: int) -> npt.NDArray[np.float32]:
    """Pixels as float32 [size, S, S, 3]; the last batch is filled up so that one shape is compiled."""
    pixels = np.zeros((size, *batch[0].pixels.shape), np.float32)
    for number, view in enumerate(batch):
        pixels[number] = view.pixels
    return pixels


def main() -> str:
    settings = params.read(FeatureExtractParams)
    rows = {row["name"]: row for row in tables.read(SPLIT_TABLE, SPLIT).to_pylist()}
    images = {split: sum(row["split"] == split for row in rows.values()) for split in SPLITS}
    device = tensorflow_runtime.start(settings.threads, settings.seed)
    base = models.pretrained_base(
        settings.backbone, settings.image_size, settings.alpha, settings.weights, settings.weights_sha256
    )
    cut = backbones.deepest_cut(base, settings.cut_at)
    trunk = backbones.trunk(base, settings.backbone, cut)
    (_, *activation_shape), (_, pooled_features) = trunk.output_shape
    side = (settings.image_size, settings.image_size, 3)
    total = sum(images.values()) + images["train"] * (settings.views - 1)

    with outputs.replacing(OUT) as (out,):
        store = FeatureWriter(
            out,
            images,
            settings.views,
            activation_shape=tuple(activation_shape) if cut > 0 else None,
            pooled_features=pooled_features,
            pixel_shape=side if settings.pixels or cut == 0 else None,
            rows_per_shard=settings.rows_per_shard,
        )
        batches = batches_of(views_of(rows, settings), settings.batch_size)
        for batch in process.progress(batches, "running the trunk", -(-total // settings.batch_size)):
            activations, pooled = trunk.predict_on_batch(padded(batch, settings.batch_size))
            for view, activation, features in zip(batch, activations, pooled, strict=False):
                store.add(view.row, view.number, view.pixels, activation, features)
        store.close()
        base.save_weights(out / "base.weights.h5")
        trunk_facts = {
            # What decides the bytes; a batch size or thread count must not make fine_tune stale.
            "settings": settings.model_dump(exclude={"batch_size", "threads", "cut_at", "pixels"}),
            "classes": documents.read_classes(CLASSES),
            "cut": cut,
            "cut_layer": base.layers[cut].name,
            "activation_shape": activation_shape,
            "pooled_features": pooled_features,
            "images": images,
            "weights_digest": models.weights_digest(base),
        }
        documents.write(out / "trunk.json", trunk_facts)
    layer = f"layer {cut} ({base.layers[cut].name}, {'x'.join(map(str, activation_shape))})"
    return f"{len(rows):,} images, {total:,} views through the frozen trunk to {layer} on {device}"


if __name__ == "__main__":
    process.run("feature_extract", main)
