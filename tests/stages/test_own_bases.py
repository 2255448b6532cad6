"""feature_extract and fine_tune on bases that are not Keras's own weights, each stage as a process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.store import borrowed, documents, hub_presets, models, pretrained
from tests.stages.test_feature_extract import ROOT, Workspace, computed
from tests.store.test_hub_presets import TINY, lively

pytestmark = pytest.mark.slow
SIDE = 32
CAPS = {"head": {"epochs": 1, "learning_rate": 0.01}, "tail": {"epochs": 1}, "from_scratch": False, "fine_tune_at": 0.6}


def workspace(folder: Path, **settings: Any) -> Workspace:
    made = Workspace(folder)
    made.images = dict(list(made.images.items())[:20])
    made.values["feature_extract"] = {"image_size": SIDE, "views": 1, "cut_at": 0.6, **settings}
    made.values["fine_tune"] = CAPS
    return made


def test_a_savedmodels_weights_are_those_the_trunk_runs_on(tensorflow: object, tmp_path: Path) -> None:
    import tensorflow as tf

    base = models.backbones.build("MobileNet", SIDE, 0.25)
    random = np.random.default_rng(0)
    base.set_weights([random.random(weight.shape, np.float32) for weight in base.get_weights()])
    # As Keras's export lays it out; tests/store/test_borrowed.py has one that Keras exported itself.
    archive = tf.Module()
    archive.variables_ = [tf.Variable(one, name=one.path) for one in base.weights]
    tf.train.Checkpoint(variables=archive.variables_).write(str(tmp_path / "saved/variables/variables"))
    work = workspace(
        tmp_path / "work", backbone="MobileNet", alpha=0.25, weights=str(tmp_path / "saved"),
        weights_sha256=borrowed.sha256_of_checkpoint(tmp_path / "saved"),
    )  # fmt: skip
    assert computed(work.run()) == 20
    out = work.folder / "data/feature_extract"
    assert documents.read(out / "trunk.json")["weights_digest"] == models.weights_digest(base)


@pytest.mark.skipif(bool(hub_presets.missing()), reason=hub_presets.missing())
def test_a_preset_is_fine_tuned_without_its_folder(tensorflow: object, tmp_path: Path) -> None:
    import keras_hub

    preset = tmp_path / "preset"
    lively(keras_hub.models.MobileNetBackbone(**TINY)).save_to_preset(str(preset))
    keras_hub.layers.MobileNetImageConverter(scale=1 / 127.5, offset=-1.0).save_to_preset(str(preset))
    digest = hub_presets.find(f"preset:{preset}").digest
    work = workspace(tmp_path / "work", backbone=f"preset:{preset}", weights="inside", weights_sha256=digest)
    assert computed(work.run()) == 20
    assert computed(work.run()) == 0
    out = work.folder / "data/feature_extract"
    trunk = documents.read(out / "trunk.json")
    assert trunk["preprocessing"] == "inside"
    assert trunk["cut"] > 0
    base = pretrained.pretrained_base(f"preset:{preset}", SIDE, 1.0, "inside", digest)
    assert trunk["weights_digest"] == models.weights_digest(base)

    for file in preset.iterdir():
        file.unlink()
    done = subprocess.run(
        [sys.executable, "-m", "stages.fine_tune"], cwd=work.folder, capture_output=True, text=True, timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    trained = models.load(work.folder / "data/fine_tune/model.keras")
    assert trained.output_shape == (None, 2)
    before, after = (
        {weight.path.split("/")[-2]: np.asarray(weight) for weight in model.weights if "moving_mean" in weight.path}
        for model in (base, trained)
    )
    assert before.keys() == after.keys() != set()
    assert all(np.array_equal(before[name], after[name]) for name in before)
