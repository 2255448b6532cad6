"""What feature_extract stores and fine_tune and evaluate read: tensors per split, with their index.

Per split there are up to three sets (see `tensors`): `pooled-*` fp16 [features], one row per view;
`activations-*` fp16 [h, w, channels], one row per view, train and val only; `pixels-*` uint8
[S, S, 3], one row per image, train and val only. Test images need no activations: evaluate runs
them through the finished model from their bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stages.core.schemas import FEATURES, SPLITS
from stages.store import documents, tables, tensors

Pixels = npt.NDArray[np.uint8]


class FeatureWriter:
    """Takes views in the raw shards' order (by name) and writes every set and the index."""

    def __init__(
        self,
        folder: Path,
        images: Mapping[str, int],
        views: int,
        activation_shape: tuple[int, ...] | None,
        pooled_features: int,
        pixel_shape: tuple[int, ...] | None,
        rows_per_shard: int,
    ) -> None:
        """A shape of None leaves that set out. `images` counts images per split."""
        self._folder = folder
        self._index: list[dict[str, Any]] = []
        self._sets: dict[str, tensors.Writer] = {}

        def open_set(kind: str, split: str, rows: int, shape: tuple[int, ...], dtype: npt.DTypeLike) -> None:
            name = f"{kind}-{split}"
            self._sets[name] = tensors.Writer(folder, name, rows, shape, dtype, rows_per_shard)

        for split, count in images.items():
            rows = count * (views if split == "train" else 1)
            open_set("pooled", split, rows, (pooled_features,), np.float16)
            if split != "test" and activation_shape is not None:
                open_set("activations", split, rows, activation_shape, np.float16)
            if split != "test" and pixel_shape is not None:
                open_set("pixels", split, count, pixel_shape, np.uint8)

    def add(self, row: Mapping[str, Any], view: int, pixels: Pixels, activation: Any, pooled: Any) -> None:
        """Store one view of the image that `row` of the split table describes."""
        split = row["split"]
        shard, place = self._sets[f"pooled-{split}"].append(pooled)
        if f"activations-{split}" in self._sets:
            self._sets[f"activations-{split}"].append(activation)
        if f"pixels-{split}" in self._sets and view == 0:
            self._sets[f"pixels-{split}"].append(pixels)
        image = {key: row[key] for key in ("name", "image_id", "label", "split")}
        self._index.append({**image, "view": view, "shard": shard, "row": place})

    def close(self) -> int:
        """Check that every set is complete, write the index, return the number of views."""
        for writer in self._sets.values():
            writer.close()
        self._index.sort(key=lambda entry: (SPLITS.index(entry["split"]), entry["name"], entry["view"]))
        tables.write(self._folder / "index.parquet", tables.from_rows(self._index, FEATURES))
        return len(self._index)


@dataclass(frozen=True)
class Examples:
    """One split of one kind of tensor: N images of K views each."""

    names: list[str]
    image_ids: list[str]
    labels: npt.NDArray[np.int32]  # [N], index into the classes
    places: npt.NDArray[np.int32]  # [N, K, 2], (shard, row) of each view
    reader: tensors.Reader

    def take(self, images: npt.NDArray[np.intp], views: npt.NDArray[np.intp]) -> npt.NDArray[Any]:
        """The tensor of view `views[i]` of image `images[i]`, stacked: [n, *shape], as stored."""
        return self.reader.take(self.places[images, views])

    @property
    def views(self) -> int:
        """K."""
        return int(self.places.shape[1])


class FeatureReader:
    """Opens what FeatureWriter wrote. `trunk` is the content of trunk.json."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.trunk: dict[str, Any] = documents.read(folder / "trunk.json")
        self.classes: list[str] = self.trunk["classes"]
        self._index = tables.read(folder / "index.parquet", FEATURES).to_pandas()

    def examples(self, kind: str, split: str) -> Examples:
        """`kind` is pooled, activations or pixels."""
        index = self._index[self._index["split"] == split]
        first = index[index["view"] == 0]
        views = len(index) // max(len(first), 1)
        if kind == "pixels":  # one row per image, in name order, in shards as long as the others
            number = np.arange(len(first))
            places = np.stack(np.divmod(number, self.trunk["settings"]["rows_per_shard"]), -1)[:, None]
        else:
            places = index[["shard", "row"]].to_numpy().reshape(len(first), views, 2)
        number_of = {label: number for number, label in enumerate(self.classes)}
        return Examples(
            names=first["name"].tolist(),
            image_ids=first["image_id"].tolist(),
            labels=first["label"].map(number_of).to_numpy(np.int32),
            places=places.astype(np.int32),
            reader=tensors.Reader(self._folder, f"{kind}-{split}"),
        )
