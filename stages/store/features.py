"""What feature_extract stores and fine_tune and evaluate read: tensors per split, with their index.

Per split there are up to three sets (see `tensors`): `pooled-*` fp16 [features], one row per view;
`activations-*` fp16 [h, w, channels], one row per view, train and val only; `pixels-*` uint8
[S, S, 3], one row per image, train and val only. Test images need no activations: evaluate runs
them through the finished model from their bytes. Rows are in the order of names, a name's views together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from stages.core.schemas import FEATURES, SPLITS
from stages.store import documents, tables, tensors


class FeatureWriter:
    """Takes views in any order and writes every set and the index. Image i is row i of the table it was given."""

    def __init__(
        self,
        folder: Path,
        images: pa.Table,
        views: int,
        activation_shape: tuple[int, ...] | None,
        pooled_features: int,
        pixel_shape: tuple[int, ...] | None,
        rows_per_shard: int,
    ) -> None:
        """`images` is of schemas.SPLIT, ordered by name. A shape of None leaves that set out."""
        self._folder, self._images, self._rows_per_shard = folder, images, rows_per_shard
        numbers = pc.index_in(images["split"].combine_chunks(), pa.array(SPLITS))
        self.splits: npt.NDArray[np.int8] = np.asarray(numbers).astype(np.int8)
        self.views = np.where(self.splits == 0, views, 1)  # int [images], how many views each image has
        self._number = np.zeros(len(images), np.intp)  # of an image within its split
        self._sets: dict[tuple[str, int], tensors.Writer] = {}
        for code, split in enumerate(SPLITS):
            chosen = self.splits == code
            count = int(chosen.sum())
            self._number[chosen] = np.arange(count)
            kinds: dict[str, tuple[int, tuple[int, ...] | None, npt.DTypeLike]] = {
                "pooled": (count * (views if split == "train" else 1), (pooled_features,), np.float16)
            }
            if split != "test":
                kinds["activations"] = (kinds["pooled"][0], activation_shape, np.float16)
                kinds["pixels"] = (count, pixel_shape, np.uint8)
            for kind, (rows, shape, dtype) in kinds.items():
                if shape is not None:
                    name = f"{kind}-{split}"
                    self._sets[kind, code] = tensors.Writer(folder, name, rows, shape, dtype, rows_per_shard)

    @property
    def stores_pixels(self) -> npt.NDArray[np.bool_]:
        """Bool [images]: whether the image's split has a set of pixels."""
        return np.isin(self.splits, [code for kind, code in self._sets if kind == "pixels"])

    def __enter__(self) -> FeatureWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for writer in self._sets.values():
            writer.abort()

    def put(
        self,
        images: npt.NDArray[np.intp],
        views: npt.NDArray[np.intp],
        pooled: npt.NDArray[Any],
        activations: npt.NDArray[Any] | None,
    ) -> None:
        """Store view `views[i]` of image `images[i]`: pooled [n, features], activations [n, h, w, channels]."""
        splits = self.splits[images]
        for code in np.unique(splits):
            chosen = splits == code
            rows = self._number[images[chosen]] * self.views[images[chosen]] + views[chosen]
            self._sets["pooled", code].put(rows, pooled[chosen])
            if activations is not None and ("activations", code) in self._sets:
                self._sets["activations", code].put(rows, activations[chosen])

    def put_pixels(self, images: npt.NDArray[np.intp], pixels: npt.NDArray[np.uint8]) -> None:
        """Store the pixels of images, uint8 [n, S, S, 3], where their split has such a set."""
        splits = self.splits[images]
        for code in np.unique(splits):
            if ("pixels", code) in self._sets:
                chosen = splits == code
                self._sets["pixels", code].put(self._number[images[chosen]], pixels[chosen])

    def close(self) -> None:
        """Check that every set is complete and write the index, ordered by split, name and view."""
        for writer in self._sets.values():
            writer.close()
        tables.write_batches(self._folder / "index.parquet", self._index(), FEATURES)

    def _index(self) -> Iterator[pa.RecordBatch]:
        images = self._images.combine_chunks()  # else each `take` would do so
        order = np.argsort(self.splits, kind="stable")
        for start in range(0, len(order), tables.GROUP):
            block = order[start : start + tables.GROUP]
            views = self.views[block]
            image = np.repeat(block, views)
            view = np.arange(len(image)) - np.repeat(np.cumsum(views) - views, views)
            shard, row = np.divmod(self._number[image] * self.views[image] + view, self._rows_per_shard)
            of_images = images.select(["name", "image_id", "label", "split"]).take(pa.array(image)).combine_chunks()
            places = [pa.array(numbers, pa.int32()) for numbers in (view, shard, row)]
            columns = [column.chunk(0) for column in of_images.columns]
            yield pa.RecordBatch.from_arrays(columns + places, schema=FEATURES)


@dataclass(frozen=True)
class Examples:
    """One split of one kind of tensor: N images of K views each."""

    images: pa.Table  # name, image_id
    labels: npt.NDArray[np.int32]  # [N], index into the classes
    places: npt.NDArray[np.int32]  # [N, K, 2], (shard, row) of each view
    reader: tensors.Reader

    @cached_property
    def names(self) -> list[str]:
        """Of the images, N."""
        found: list[str] = self.images["name"].to_pylist()
        return found

    @cached_property
    def image_ids(self) -> list[str]:
        """Of the images, N."""
        found: list[str] = self.images["image_id"].to_pylist()
        return found

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
        images, places = [], []
        self._rows = dict.fromkeys(SPLITS, 0)
        # A name stands in the index once a view; kept is one of each.
        for rows in tables.batches(folder / "index.parquet", FEATURES, FEATURES.names):
            images.append(rows.filter(pc.equal(rows["view"], 0)).select(["name", "image_id", "label", "split"]))
            places.append(np.stack([rows["shard"].to_numpy(), rows["row"].to_numpy()], axis=-1))
            for split in SPLITS:
                self._rows[split] += _count(rows, split)
        self._images = pa.concat_tables(images)
        self._places = np.concatenate(places)

    def examples(self, kind: str, split: str) -> Examples:
        """`kind` is pooled, activations or pixels."""
        # The index is ordered by split, as SPLITS are: a split's rows stand together.
        before = SPLITS[: SPLITS.index(split)]
        first, row = sum(_count(self._images, one) for one in before), sum(self._rows[one] for one in before)
        count = _count(self._images, split)
        views = self._rows[split] // max(count, 1)
        images = self._images.slice(first, count)
        if kind == "pixels":  # one row per image, in name order, in shards as long as the others
            places = np.stack(np.divmod(np.arange(count), self.trunk["settings"]["rows_per_shard"]), -1)[:, None]
        else:
            places = self._places[row : row + count * views].reshape(count, views, 2)
        numbers = pc.index_in(images["label"].combine_chunks(), pa.array(self.classes, pa.string()))
        return Examples(
            images=images.select(["name", "image_id"]),
            labels=np.asarray(numbers, np.int32),
            places=places.astype(np.int32),
            reader=tensors.Reader(self._folder, f"{kind}-{split}"),
        )


def _count(images: pa.Table, split: str) -> int:
    return int(pc.sum(pc.equal(images["split"], split)).as_py() or 0)
