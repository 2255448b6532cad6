"""Sketches of the features that feature_extract stored, by image: for the drift of what the network sees."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from stages.core.feature_sketch import project
from stages.core.profile import ID_DIGITS
from stages.core.schemas import SPLITS
from stages.store.features import FeatureReader


def read(folder: Path, image_ids: Collection[str]) -> dict[str, Any] | None:
    """{"trunk": which network, "of": {the first ID_DIGITS of an image_id: numbers}} for those of `image_ids` that
    have features; None where none were extracted yet."""
    if not (folder / "index.parquet").is_file():
        return None
    reader = FeatureReader(folder)
    settings = reader.trunk["settings"]
    wanted = {image_id[:ID_DIGITS] for image_id in image_ids}
    found: dict[str, list[float]] = {}
    for split in SPLITS:
        if not reader.trunk["images"][split]:
            continue
        examples = reader.examples("pooled", split)
        chosen = [at for at, image_id in enumerate(examples.image_ids) if image_id[:ID_DIGITS] in wanted]
        if chosen:
            numbers = np.array(chosen)
            features = examples.take(numbers, np.zeros_like(numbers))
            ids = [examples.image_ids[at][:ID_DIGITS] for at in chosen]
            found |= dict(zip(ids, project(features), strict=True))
    trunk = f"{settings['backbone']} at {settings['image_size']} pixels, weights {reader.trunk['weights_digest'][:16]}"
    return {"trunk": trunk, "of": dict(sorted(found.items()))}
