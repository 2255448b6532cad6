"""fine_tune killed with SIGKILL, stopped and started again: the same bytes as one that ran through."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ruamel.yaml import YAML

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
CHECKPOINTS = Path(".graft/checkpoints/fine_tune")
SIDE, CUT_SHAPE, POOLED, VIEWS = 32, (2, 2, 32), 1280, 4
COUNTS = {"train": 66, "val": 20, "test": 4}
HEAD = {"epochs": 8, "learning_rate": 0.1, "batch_size": 16, "stop_after": 3, "reduce_after": 1}
TOO_FAST = 0.03  # a learning rate of the tail at which early stopping ends it before its last epoch
TAIL = {"epochs": 4, "batch_size": 16, "stop_after": 1, "reduce_after": 1}


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory, tensorflow: object) -> Path:
    return extracted(tmp_path_factory.mktemp("extracted") / "feature_extract", ["cat", "dog", "owl"])


def extracted(folder: Path, classes: list[str]) -> Path:
    """A data/feature_extract of noise around a mean per class: learnable, but the callbacks have work."""
    import keras

    from stages.core import backbones
    from stages.core.schemas import SPLIT
    from stages.store import documents, tables
    from stages.store.features import FeatureWriter

    folder.mkdir()
    keras.utils.set_random_seed(0)
    base = backbones.build("MobileNetV2", SIDE, 0.35)
    base.load_weights(ROOT / "pretraining/mobilenet_v2_0.35_96_letters.weights.h5")
    base.save_weights(folder / "base.weights.h5")
    random = np.random.default_rng(0)
    means = [(random.random(CUT_SHAPE), random.random(POOLED), random.integers(60, 196, 3)) for _ in classes]
    splits = [split for split, count in COUNTS.items() for _ in range(count)]
    rows = [
        {
            "name": f"{number:04}.png",
            "image_id": f"{number:064x}",
            "label": classes[number % len(classes)],
            "group": "",
            "split": split,
        }
        for number, split in enumerate(splits)
    ]
    table = tables.from_rows(rows, SPLIT)
    with FeatureWriter(folder, table, VIEWS, CUT_SHAPE, POOLED, (SIDE, SIDE, 3), 100) as writer:
        for number in range(len(rows)):
            at_cut, pooled, colour = means[number % len(classes)]
            image = np.array([number])
            for view in range(writer.views[number]):
                pixels = np.clip(colour + random.normal(0, 60, (1, SIDE, SIDE, 3)), 0, 255).astype(np.uint8)
                activations = at_cut + random.normal(0, 0.5, (1, *CUT_SHAPE))
                writer.put(image, np.array([view]), pooled + random.normal(0, 3, (1, POOLED)), activations)
                if view == 0:
                    writer.put_pixels(image, pixels)
        writer.close()
    settings = {
        "backbone": "MobileNetV2", "image_size": SIDE, "alpha": 0.35, "views": VIEWS, "seed": 1, "rows_per_shard": 100,
        "augmentation": {"flip": True, "rotation": 0.05, "zoom": 0.1, "translation": 0.1},
    }  # fmt: skip
    trunk = {
        "settings": settings, "classes": classes, "pooled_features": POOLED, "preprocessing": "tf",
        "cut": 97, "cut_layer": "block_10_project_BN",
    }  # fmt: skip
    documents.write(folder / "trunk.json", trunk)
    return folder


class Workspace:
    """A folder in which fine_tune runs as a process."""

    def __init__(
        self, folder: Path, features: Path, from_scratch: bool = True, rate: float = 0.003, **settings: Any
    ) -> None:
        self.folder = folder
        folder.mkdir()
        (folder / "data").mkdir()
        (folder / "data" / "feature_extract").symlink_to(features)
        values = YAML(typ="safe").load(ROOT / "recipes" / "digits.yaml")
        values["fine_tune"].update(head=HEAD, tail=TAIL | {"learning_rate": rate}, from_scratch=from_scratch)
        values["fine_tune"].update(settings)
        with (folder / "params.yaml").open("w") as file:
            YAML().dump(values, file)

    def start(self, code: str | None = None) -> subprocess.Popen[str]:
        """Start the stage, or `code` in its place."""
        what = ["-m", "stages.fine_tune"] if code is None else ["-c", code]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.Popen(
            [sys.executable, *what], cwd=self.folder, env=environment, stderr=subprocess.PIPE, text=True
        )

    def run(self, code: str | None = None) -> str:
        """Run to the end; returns what it printed."""
        return self.finish(self.start(code))

    def finish(self, process: subprocess.Popen[str]) -> str:
        """Wait for the end of what `start` started; returns what it printed."""
        _, printed = process.communicate(timeout=300)
        assert process.returncode == 0, printed
        return printed

    def stop_when(
        self, reached: Callable[[], bool], number: signal.Signals = signal.SIGKILL, code: str | None = None
    ) -> tuple[str, int]:
        """Start, send a signal as soon as `reached`, return (what it printed, exit status)."""
        process = self.start(code)
        deadline = time.monotonic() + 240
        while not reached() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.0005)
        process.send_signal(number)
        _, printed = process.communicate(timeout=120)
        return printed, process.returncode

    def saves(self, phase: str, count: int) -> Callable[[], bool]:
        """Whether `phase` has been saved `count` times since now."""
        path = self.folder / CHECKPOINTS / f"{phase}.npz"

        def written() -> int:
            try:
                return path.stat().st_mtime_ns
            except FileNotFoundError:
                return 0

        seen = {0, written()}
        before = len(seen)

        def reached() -> bool:
            seen.add(written())
            return len(seen) >= before + count

        return reached

    def epochs(self, phase: str) -> int:
        """Epochs that the checkpoint of `phase` holds; 0 without one."""
        path = self.folder / CHECKPOINTS / f"{phase}.npz"
        if not path.exists():
            return 0
        with path.open("rb") as file:
            file.readline()
            return len(json.loads(np.load(file)["state"].tobytes())["logs"])

    def files(self) -> dict[str, bytes]:
        """Every file that was published."""
        paths = [path for top in ("data/fine_tune", "reports/fine_tune") for path in (self.folder / top).rglob("*")]
        return {path.relative_to(self.folder).as_posix(): path.read_bytes() for path in paths if path.is_file()}


def test_killed_again_and_again_it_goes_on_and_ends_with_the_same_bytes(features: Path, tmp_path: Path) -> None:
    through, killed = (Workspace(tmp_path / name, features, rate=TOO_FAST) for name in ("through", "killed"))
    uninterrupted = through.start()
    # Right after a checkpoint of the head.
    _, code = killed.stop_when(killed.saves("head", 2))
    assert (code, killed.files()) == (-signal.SIGKILL, {})
    at = killed.epochs("head")
    assert at >= 2
    # In the middle of writing a checkpoint of the tail.
    partial = killed.folder / CHECKPOINTS / ".tail.npz.partial"
    saved = killed.saves("tail", 1)
    printed, _ = killed.stop_when(lambda: saved() and partial.exists())
    assert f"fine_tune: resuming at head, epoch {at + 1} of 8\n" in printed
    assert " % head epoch 1 of" not in printed
    at = killed.epochs("tail")
    assert at >= 1
    printed = through.finish(uninterrupted)
    assert "resuming" not in printed
    assert not (through.folder / CHECKPOINTS).exists()
    expected = through.files()
    phases = json.loads(expected["data/fine_tune/training.json"])["phases"]
    # The callbacks had work to do, so their state counts.
    assert phases["tail"]["epochs"] < TAIL["epochs"]
    rates = expected["reports/fine_tune/plots/metrics/learning_rate.tsv"].decode().split()
    assert len(set(rates[3::2])) > 2, rates
    # After the baseline's last epoch, before anything was published.
    last = phases["from_scratch"]["epochs"]
    printed, _ = killed.stop_when(killed.saves("from_scratch", last))
    assert f"fine_tune: head was finished, after {phases['head']['epochs']} epochs\n" in printed
    if at < phases["tail"]["epochs"]:
        assert f"fine_tune: resuming at tail, epoch {at + 1} of 4\n" in printed
    assert killed.epochs("from_scratch") == last
    printed = killed.run()
    assert f"fine_tune: from scratch was finished, after {last} epochs\n" in printed
    assert " % " not in printed  # nothing was left to train
    assert killed.files().keys() == expected.keys()
    assert [path for path, data in killed.files().items() if data != expected[path]] == []
    assert not (killed.folder / CHECKPOINTS).exists()


MIRRORED = """
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from stages import fine_tune
from stages.store import process, tensorflow_runtime
strategy = tensorflow_runtime.strategy
tensorflow_runtime.strategy = lambda: strategy(["CPU:0", "CPU:1"])
process.run("fine_tune", fine_tune.main)
"""


def test_two_devices_train_mirrored_and_resume(features: Path, tmp_path: Path) -> None:
    from stages.store import models

    through, killed = Workspace(tmp_path / "through", features, False), Workspace(tmp_path / "killed", features, False)
    uninterrupted = through.start(MIRRORED)
    # SIGTERM this time: a clean stop that leaves the checkpoints alone.
    printed, code = killed.stop_when(killed.saves("tail", 1), signal.SIGTERM, MIRRORED)
    assert "fine_tune stopped (exit 143); run it again to go on" in printed
    assert "Traceback" not in printed
    assert code == 143
    assert not list(killed.folder.glob("*/.*.partial"))
    printed = through.finish(uninterrupted)
    phases = json.loads(through.files()["data/fine_tune/training.json"])["phases"]
    assert phases["tail"]["val_accuracy"] > 0.8, printed
    model = models.load(through.folder / "data/fine_tune/model.keras")
    assert np.asarray(model(np.zeros((1, SIDE, SIDE, 3), np.float32))).sum() == pytest.approx(1, abs=1e-5)
    at = killed.epochs("tail")
    printed = killed.run(MIRRORED)
    assert f"fine_tune: resuming at tail, epoch {at + 1} of 4\n" in printed
    assert [path for path, data in killed.files().items() if data != through.files()[path]] == []
