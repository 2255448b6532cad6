"""How fast do 12-megapixel JPEGs come down to 224 pixels, and does a network still see the same?

    python -m benchmarks.large_photographs            # about five minutes of two idle cores
    python -m benchmarks.large_photographs --quick    # about half a minute; too few photographs to trust

On photographs of ../shared/data/cats_and_dogs_filtered.zip, enlarged and given a grain so that their files are as
large as a camera's; says so and ends where they are not there. Prints one line of JSON.

rate         `keras.utils.image_dataset_from_directory`, iterated once with its own parallel reading and prefetching,
             against `images.decode_resized` on a thread a core. In turn, the same files, from the page cache. Building
             Keras's data set, and one round of each to warm up, are not counted. Both end in float32 batches of 32.
             Every fourth file is turned by EXIF, which Keras ignores and graft puts right. Then, not for the bound,
             the same with files of half the length.
agreement    top-1, of the same photographs decoded whole and at a scale: MobileNetV2 at 224 pixels, ImageNet weights,
             with a logistic head fitted on other photographs. 2000 x 1500 pixels, of which a quarter leaves as many
             pixels a side, 375, as an eighth of 12 megapixels; and the 12-megapixel files themselves.
orientation  one photograph as each of EXIF 1-8 would store it: each must come out nearest to the upright one.

Times on a machine that does other things are read as ratios: the median of the rounds' own.
"""

from __future__ import annotations

import io
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from stages.core import images

SIZE = 224
MEGAPIXELS_12 = (4000, 3000)
MEGAPIXELS_3 = (2000, 1500)
# Grain in grey levels and JPEG quality. At 12 megapixels these make files of 3.6-3.9 MB, as a camera's, and of 2.0 MB.
CAMERA, LEAN = (6.0, 92), (5.0, 85)
BATCH = 32
LEAST_RATIO, LEAST_AGREEMENT = 3.0, 0.995
LARGEST_DIFFERENCE = 3.0  # grey levels, mean over a picture: an upright picture against the whole decoding
ORIENTATION = 0x0112
KERAS_HOME = Path("../shared/keras_home")
# How a camera held that way stores the upright pixels.
STORED: dict[int, Callable[[npt.NDArray[Any]], npt.NDArray[Any]]] = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.transpose(1, 0, 2),
    6: lambda upright: np.rot90(upright),
    7: lambda upright: np.rot90(upright, 2).transpose(1, 0, 2),
    8: lambda upright: np.rot90(upright, -1),
}


def measure(quick: bool) -> dict[str, Any]:
    """The figure, its bound, whether it holds, and what it was made of; "passed" is None where nothing was measured."""
    from benchmarks import fault_set

    found: dict[str, Any] = {
        "figure": "12-megapixel JPEGs to 224 pixels",
        "bound": f"at least {LEAST_RATIO:.0f}x the rate of keras.utils.image_dataset_from_directory, "
        f"top-1 agreement at least {LEAST_AGREEMENT:.1%}, EXIF 1-8 upright",
    }
    if not fault_set.ARCHIVE.exists() or not KERAS_HOME.is_dir():
        skipped = f"{fault_set.ARCHIVE} or {KERAS_HOME} is not here: nothing measured"
        return {**found, "value": None, "passed": None, "skipped": skipped}
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("KERAS_HOME", str(KERAS_HOME.resolve()))
    files, rounds, fitted, compared = (16, 3, 160, 40) if quick else (24, 5, 400, 200)
    rows = fault_set.photographs()
    fit_on = _spread([row for row in rows if row.given_split == "train"], fitted)
    rest = _spread([row for row in rows if row.given_split != "train"], max(compared, files))
    with tempfile.TemporaryDirectory() as folder:
        photographs = [row.data for row in rest[:files]]
        large = write_large(photographs, Path(folder), CAMERA)
        rate = rates(Path(folder), large, rounds)
        pairs = [_both_ways(path.read_bytes()) for path in large]
        # What is left after scaling is reading the file's entropy code, so its length decides.
        lean = {} if quick else rates(Path(folder), write_large(photographs, Path(folder), LEAN), rounds)
    network = Network([images.decode_resized(row.data, SIZE) for row in fit_on], [row.label for row in fit_on])
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        smaller = list(pool.map(lambda at: _both_ways(enlarged(rest[at].data, MEGAPIXELS_3, at)), range(compared)))
    agreement: dict[str, Any] = {
        "2000 x 1500": network.agreement(smaller),
        "4000 x 3000": network.agreement(pairs),
        "head fitted on, photographs": fitted,
    }
    turned = orientations(rest[0].data)
    share = (agreement["2000 x 1500"]["same"] + agreement["4000 x 3000"]["same"]) / (compared + files)
    passed = rate["ratio"]["median"] >= LEAST_RATIO and share >= LEAST_AGREEMENT and turned["right"] == len(STORED)
    import PIL
    import tensorflow as tf

    return {
        **found,
        "value": rate["ratio"]["median"],
        "passed": passed,
        "quick": quick,
        **rate,
        **({"files of half the length": lean} if lean else {}),
        "top-1 agreement": {"share": round(share, 4), **agreement},
        "orientation": turned,
        "versions": {"tensorflow": tf.__version__, "pillow": PIL.__version__, "python": sys.version.split()[0]},
        "load": round(os.getloadavg()[0], 1),
        "cores": os.cpu_count(),
    }


def _spread(rows: Sequence[Any], count: int) -> list[Any]:
    """`count` of the rows, evenly from first to last, in an order that mixes the classes."""
    chosen = [rows[at] for at in np.linspace(0, len(rows) - 1, count).round().astype(int)]
    return [chosen[at] for at in np.random.default_rng(0).permutation(count)]


def enlarged(
    data: bytes, size: tuple[int, int], number: int, orientation: int = 1, look: tuple[float, int] = CAMERA
) -> bytes:
    """A photograph as a JPEG of (width, height) pixels with a grain of its own, stored as its EXIF orientation says."""
    upright = size if orientation < 5 else size[::-1]
    picture = Image.fromarray(images.decode(data)).resize(upright, Image.Resampling.BICUBIC)
    stored = STORED[orientation](np.asarray(picture)).astype(np.float32)
    grain = np.random.default_rng(number).standard_normal((size[1], size[0], 1), dtype=np.float32)
    pixels = np.clip(stored + look[0] * grain, 0, 255).astype(np.uint8)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=look[1], exif=exif)
    return file.getvalue()


def write_large(photographs: Sequence[bytes], folder: Path, look: tuple[float, int]) -> list[Path]:
    """12-megapixel files of the photographs, in two class folders as Keras wants them; every fourth is turned."""

    def write(number: int) -> Path:
        orientation = 2 + number // 4 % 7 if number % 4 == 3 else 1
        path = folder / "ab"[number % 2] / f"{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(enlarged(photographs[number], MEGAPIXELS_12, number, orientation, look))
        return path

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(write, range(len(photographs))))


def rates(folder: Path, files: Sequence[Path], rounds: int) -> dict[str, Any]:
    """Images a second of both, in turn, and their ratio; processor time beside it, which neighbours disturb less."""
    import keras

    def by_keras() -> tuple[float, float]:
        dataset = keras.utils.image_dataset_from_directory(
            folder, image_size=(SIZE, SIZE), batch_size=BATCH, shuffle=False, verbose=False
        )
        start, processor = time.perf_counter(), time.process_time()
        seen = sum(len(labels) for _, labels in dataset)
        assert seen == len(files), seen
        return len(files) / (time.perf_counter() - start), (time.process_time() - processor) / len(files)

    def by_graft() -> tuple[float, float]:
        start, processor = time.perf_counter(), time.process_time()
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for at in range(0, len(files), BATCH):
                pixels = pool.map(lambda path: images.decode_resized(path.read_bytes(), SIZE), files[at : at + BATCH])
                np.stack(list(pixels)).astype(np.float32)
        return len(files) / (time.perf_counter() - start), (time.process_time() - processor) / len(files)

    by_keras(), by_graft()
    taken: list[tuple[tuple[float, float], tuple[float, float]]] = []
    for number in range(rounds):
        # Another one goes first each time, because the later one finds warmer caches.
        if number % 2:
            graft = by_graft()
            taken.append((by_keras(), graft))
        else:
            taken.append((by_keras(), by_graft()))
    return {
        "ratio": _summary([graft[0] / other[0] for other, graft in taken]),
        "keras, images/s": _summary([other[0] for other, _ in taken]),
        "graft, images/s": _summary([graft[0] for _, graft in taken]),
        "ratio of processor time": _summary([other[1] / graft[1] for other, graft in taken]),
        "graft, processor ms an image": _summary([1000 * graft[1] for _, graft in taken]),
        "rounds": rounds,
        "files": len(files),
        "file, MB": _summary([path.stat().st_size / 1e6 for path in files]),
    }


def _summary(values: Sequence[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), 2),
        "min": round(min(values), 2),
        "max": round(max(values), 2),
    }


def _both_ways(data: bytes) -> tuple[images.Pixels, images.Pixels]:
    return images.resize(images.decode(data), SIZE), images.decode_resized(data, SIZE)


class Network:
    """MobileNetV2 with ImageNet weights and a logistic head fitted on `pictures`, uint8 [S, S, 3] each."""

    def __init__(self, pictures: Sequence[images.Pixels], labels: Sequence[str]) -> None:
        import keras
        from sklearn.linear_model import LogisticRegression

        shape = (SIZE, SIZE, 3)
        self._base = keras.applications.MobileNetV2(
            input_shape=shape, include_top=False, weights="imagenet", pooling="avg"
        )
        self._head = LogisticRegression(max_iter=2000)
        self._head.fit(self._features(pictures), labels)

    def _features(self, pictures: Sequence[images.Pixels]) -> npt.NDArray[np.float32]:
        pixels = np.stack(pictures).astype(np.float32) / 127.5 - 1
        features: npt.NDArray[np.float32] = self._base.predict(pixels, batch_size=BATCH, verbose=0)
        return features

    def agreement(self, pairs: Sequence[tuple[images.Pixels, images.Pixels]]) -> dict[str, Any]:
        """How many pairs (decoded whole, at a scale) get one class, and how far they differ in grey levels."""
        whole, scaled = zip(*pairs, strict=True)
        logits = [self._head.decision_function(self._features(side)) for side in (whole, scaled)]
        difference = np.abs(np.stack(whole).astype(np.int16) - np.stack(scaled))
        return {
            "photographs": len(pairs),
            "same": int(((logits[0] > 0) == (logits[1] > 0)).sum()),
            "mean difference": round(float(difference.mean()), 3),
            "largest difference": int(difference.max()),
            "mean change of the logit": round(float(np.abs(logits[0] - logits[1]).mean()), 3),
            "median size of the logit": round(float(np.median(np.abs(logits[0]))), 3),
        }


def orientations(photograph: bytes) -> dict[str, Any]:
    """The photograph stored in all eight ways, at 12 megapixels: how many come out upright, and how nearly."""
    upright = images.resize(images.decode(enlarged(photograph, MEGAPIXELS_12, 0)), SIZE).astype(np.int16)
    views = {number: turn(upright) for number, turn in STORED.items()}
    right, worst = 0, 0.0
    for number in STORED:
        size = MEGAPIXELS_12 if number < 5 else MEGAPIXELS_12[::-1]
        seen = images.decode_resized(enlarged(photograph, size, number, number), SIZE)
        apart = {other: float(np.abs(view - seen).mean()) for other, view in views.items()}
        right += min(apart, key=apart.__getitem__) == 1 and apart[1] < LARGEST_DIFFERENCE
        worst = max(worst, apart[1])
    return {"right": right, "of": len(STORED), "largest mean difference": round(worst, 3)}


def main(words: Sequence[str]) -> None:
    """Measure, and print the figure as one line of JSON."""
    sys.stdout.write(json.dumps(measure("--quick" in words)) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
