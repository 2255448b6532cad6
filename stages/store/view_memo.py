"""What earlier runs computed of the same pictures: features by view, pixels by image."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL
import pyarrow as pa

from stages.core import augmentation, backbones, catalogue, images, views
from stages.core.augmentation import Augmentation
from stages.store import engines
from stages.store.features import FeatureWriter
from stages.store.memo import fingerprint
from stages.store.tensor_memo import TensorMemo

ROOT = Path(".graft/memo")  # not a path of the stage: no output depends on what is in it
PIXEL_VERSIONS = {"numpy": np.__version__, "pillow": PIL.__version__}
IMAGES_AT_ONCE = 16384  # each call reads the index of every file of the memo


class ViewMemo:
    """Fills a FeatureWriter with what is known, and keeps what is put into it anew.

    An activation and its pooled features are one row: a killed run has both or neither.
    """

    def __init__(
        self,
        store: FeatureWriter,
        table: pa.Table,
        engine: engines.Engine,
        trunk: Mapping[str, Any],
        limits: Augmentation,
        seed: int,
    ) -> None:
        """`table` is what the store was given, `trunk` the content of trunk.json."""
        self._store, self._limits, self._seed = store, limits, seed
        self._image_ids = table["image_id"].combine_chunks()
        self._activation_shape = tuple(trunk["activation_shape"]) if trunk["cut"] > 0 else None
        self._pooled: int = trunk["pooled_features"]
        image_size: int = trunk["settings"]["image_size"]
        # Another processor may round otherwise, and outputs may not depend on where a row was computed.
        made_by = {
            "opencv": version("opencv-python-headless"),
            "engine": engine.name,
            "device": engine.device,
            **engine.versions,
        }
        of_trunk = {name: trunk["settings"][name] for name in ("backbone", "alpha", "image_size")}
        of_trunk |= {name: trunk[name] for name in ("cut", "preprocessing", "weights_digest")}
        if catalogue.is_local(of_trunk["backbone"]):
            of_trunk["base_sha256"] = trunk["settings"]["weights_sha256"]  # the weights' digest tells no architecture
        if catalogue.is_preset(of_trunk["backbone"]):
            made_by["keras_hub"] = version("keras-hub")  # it holds the code that a preset's description is of
        self._features = TensorMemo(
            ROOT / "features" / fingerprint(
                [images, augmentation, views, backbones, catalogue, engines],
                {**PIXEL_VERSIONS, **made_by, "trunk": json.dumps(of_trunk)},
            ),
            (int(np.prod(self._activation_shape or (0,))) + self._pooled,), np.float16,
        )  # fmt: skip
        self._pixels = TensorMemo(
            ROOT / "pixels" / fingerprint([images], {**PIXEL_VERSIONS, "image_size": str(image_size)}),
            (image_size, image_size, 3), np.uint8,
        )  # fmt: skip

    def __enter__(self) -> ViewMemo:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._features.close()
        self._pixels.close()

    def fill(self) -> npt.NDArray[np.bool_]:
        """Put every known view into the store; returns which: bool [images, most views], True where there is none."""
        counts = self._store.views
        known = np.arange(counts.max(initial=1)) >= counts[:, None]
        for start in range(0, len(counts), IMAGES_AT_ONCE):
            views_of = counts[start : start + IMAGES_AT_ONCE]
            image = np.repeat(np.arange(start, start + len(views_of)), views_of)
            view = np.arange(len(image)) - np.repeat(np.cumsum(views_of) - views_of, views_of)
            asked = np.stack([image, view], axis=1)
            for at, rows in self._features.take(self._keys(asked)):
                self._put(asked[at], rows)
                known[asked[at, 0], asked[at, 1]] = True
        return known

    def fill_pixels(self) -> npt.NDArray[np.bool_]:
        """Put all known pixels into the store; returns which: bool [images], True where none are stored."""
        wanted = np.flatnonzero(self._store.stores_pixels)
        known = ~self._store.stores_pixels
        for start in range(0, len(wanted), IMAGES_AT_ONCE):
            asked = wanted[start : start + IMAGES_AT_ONCE]
            for at, rows in self._pixels.take([bytes.fromhex(image_id) for image_id in self._ids(asked)]):
                self._store.put_pixels(asked[at], rows)
                known[asked[at]] = True
        return known

    def add(self, places: npt.NDArray[np.intp], outputs: engines.Outputs) -> None:
        """Store and keep a batch: `places` int [n, 2] of (image, view), the trunk's two outputs as fp16."""
        activations, pooled = outputs
        parts = [pooled] if self._activation_shape is None else [activations.reshape(len(places), -1), pooled]
        rows = np.concatenate(parts, axis=1)
        self._put(places, rows)
        self._features.add(self._keys(places), rows)

    def add_pixels(self, image: int, pixels: npt.NDArray[np.uint8]) -> None:
        """Store and keep the pixels of one image, uint8 [S, S, 3]."""
        self._store.put_pixels(np.array([image]), pixels[None])
        self._pixels.add([bytes.fromhex(self._ids(np.array([image]))[0])], pixels[None])

    def _put(self, places: npt.NDArray[np.intp], rows: npt.NDArray[Any]) -> None:
        pooled, activations = rows[:, -self._pooled :], None
        if self._activation_shape is not None:
            activations = rows[:, : -self._pooled].reshape(len(rows), *self._activation_shape)
        self._store.put(places[:, 0], places[:, 1], pooled, activations)

    def _keys(self, places: npt.NDArray[np.intp]) -> list[bytes]:
        ids = self._ids(places[:, 0])
        views_asked = places[:, 1].tolist()
        return [views.key(*place, self._limits, self._seed) for place in zip(ids, views_asked, strict=True)]

    def _ids(self, images: npt.NDArray[np.intp]) -> list[str]:
        found: list[str] = self._image_ids.take(pa.array(images)).to_pylist()
        return found
