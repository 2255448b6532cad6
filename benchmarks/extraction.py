"""How fast are views extracted, beside the same trunk in TensorFlow and beside the engine alone?

    python -m benchmarks.extraction [--quick]

Four rates in views per second, each in a process of its own, in turn, at least three rounds:

    tensorflow   `model.predict` of the trunk (Keras on TensorFlow) on pictures already decoded
    bare         OpenVINO alone, the same pictures already decoded, its outputs thrown away
    loop         what feature_extract does with pictures already decoded: run, round to fp16, store, keep in the memo
    whole        what feature_extract does with stored photographs: decode, resize, augment and all of `loop`

Figures: whole / tensorflow, and loop / bare.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import photographs

IMAGES, QUICK_IMAGES = 600, 60
ROUNDS = 3
SIDES = ("tensorflow", "bare", "loop", "whole")


def measure(quick: bool) -> list[dict[str, Any]] | dict[str, Any]:
    """Both figures, or why they were skipped."""
    why = photographs.missing()
    if why:
        return {"skipped": why}
    rates: dict[str, list[float]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(ROUNDS):
            for side in SIDES:
                place = Path(folder) / f"{side}-{number}"
                place.mkdir()
                photographs.store(place, photographs.read(QUICK_IMAGES if quick else IMAGES))
                done = subprocess.run(
                    [sys.executable, "-m", "benchmarks.extraction", "--side", side], cwd=place, check=True,
                    env=photographs.environment(), stdout=subprocess.PIPE, text=True,
                )  # fmt: skip
                rates[side].append(json.loads(done.stdout.splitlines()[-1]))
    median = {side: statistics.median(values) for side, values in rates.items()}
    details = {
        "views/s": {side: [round(value, 1) for value in values] for side, values in rates.items()},
        "images": QUICK_IMAGES if quick else IMAGES, "rounds": ROUNDS, "load": round(os.getloadavg()[0], 1),
        "cores": os.cpu_count(), "python": platform.python_version(),
        "versions": {name: version(name) for name in ("tensorflow", "keras", "openvino")},
    }  # fmt: skip
    over, of_bare = median["whole"] / median["tensorflow"], median["loop"] / median["bare"]
    whole_of_bare = round(median["whole"] / median["bare"], 3)
    return [
        {
            "figure": "Extraction, decoding and augmenting included / model.predict of the trunk in TensorFlow",
            "bound": ">= 3", "value": round(over, 3), "passed": over >= 3, "details": details,
        },
        {
            "figure": "Extraction of decoded pictures, storing included / OpenVINO's bare rate",
            "bound": ">= 0.9", "value": round(of_bare, 3), "passed": of_bare >= 0.9,
            "details": {**details, "with decoding and augmenting": whole_of_bare},
        },
    ]  # fmt: skip


def side(name: str) -> float:
    """Views per second of one side, in the folder that `photographs.store` prepared."""
    import pyarrow as pa

    from stages import feature_extract
    from stages.core import backbones, views
    from stages.core.schemas import SPLIT
    from stages.store import engines, models, params, pictures, pretrained, tables
    from stages.store.features import FeatureWriter
    from stages.store.view_memo import ViewMemo

    settings = params.read(feature_extract.FeatureExtractParams)
    images: pa.Table = tables.read(feature_extract.SPLIT_TABLE, SPLIT).sort_by("name")
    engine = engines.start("tensorflow" if name == "tensorflow" else "openvino", settings.threads, settings.seed)
    base = pretrained.pretrained_base(settings.backbone, settings.image_size, settings.alpha, settings.weights, None)
    cut = backbones.deepest_cut(base, backbones.layer_number(base, settings.cut_at, "feature_extract.cut_at"))
    trunk = backbones.trunk(base, settings.how, cut)
    (_, *shape), (_, pooled) = trunk.output_shape
    facts = {
        "settings": settings.model_dump(), "activation_shape": shape, "pooled_features": pooled, "cut": cut,
        "preprocessing": settings.how,
        "weights_digest": models.weights_digest(base),
    }  # fmt: skip
    out = Path("out")
    out.mkdir()
    with (
        FeatureWriter(out, images, settings.views, tuple(shape), pooled, None, settings.rows_per_shard) as store,
        ViewMemo(store, images, engine, facts, settings.augmentation, settings.seed) as memo,
    ):
        if name == "whole":
            start = time.perf_counter()
            done = feature_extract._run(engine, trunk, store, memo, images, settings)
            store.close()
            return done / (time.perf_counter() - start)
        places = np.array([(image, view) for image in range(len(images)) for view in range(store.views[image])])
        number_of = {image_name: number for number, image_name in enumerate(images["name"].to_pylist())}
        decoded = np.empty((len(places), settings.image_size, settings.image_size, 3), np.uint8)
        starts = np.concatenate([[0], np.cumsum(store.views)])
        for image_name, pixels in pictures.read(sorted(number_of), settings.image_size):
            image = number_of[image_name]
            for view in range(store.views[image]):
                identity = images["image_id"][image].as_py()
                picture = views.pixels_of(pixels, identity, view, settings.augmentation, settings.seed)
                decoded[starts[image] + view] = picture
        size = settings.batch_size
        blocks = [decoded[at : at + size] for at in range(0, len(decoded), size)]
        if name == "tensorflow":
            as_float = decoded.astype(np.float32)
            trunk.predict(as_float[:size], batch_size=size, verbose=0)
            start = time.perf_counter()
            trunk.predict(as_float, batch_size=size, verbose=0)
        elif name == "bare":
            requests = engine._requests(trunk, size)  # type: ignore[attr-defined]
            for request in requests:
                request.infer({0: blocks[0]})
            start = time.perf_counter()
            for number, block in enumerate(blocks[:-1]):
                request = requests[number % len(requests)]
                request.wait()
                request.start_async({0: block}, share_inputs=True)
            for request in requests:
                request.wait()
            return (len(blocks) - 1) * size / (time.perf_counter() - start)
        else:
            next(engine.run(trunk, iter(blocks[:1]), size, np.float16))
            start = time.perf_counter()
            for number, result in enumerate(engine.run(trunk, iter(blocks), size, np.float16)):
                memo.add(places[number * size : number * size + size], result)
            store.close()
        return len(decoded) / (time.perf_counter() - start)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--side", choices=SIDES)
    chosen = parser.parse_args()
    sys.stdout.write(json.dumps(side(chosen.side) if chosen.side else measure(chosen.quick)) + "\n")
