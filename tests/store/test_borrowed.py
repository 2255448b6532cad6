"""Weights out of a SavedModel or a .keras file: all of the base's, or one error; nothing of it is run."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.core.errors import ConfigError, IntegrityError
from stages.store import borrowed, hashes, models, pretrained

pytestmark = pytest.mark.usefixtures("tensorflow")
SIDE, WIDTH = 32, 0.25


@pytest.fixture(scope="module")
def base(tensorflow: Any) -> Any:
    """MobileNet with every weight its own: what was left random or taken twice shows."""
    made = models.backbones.build("MobileNet", SIDE, WIDTH)
    random = np.random.default_rng(0)
    made.set_weights([random.random(weight.shape, np.float32) for weight in made.get_weights()])
    return made


@pytest.fixture(scope="module")
def classifier(base: Any) -> Any:
    """As a tutorial builds one: augmentation and preprocessing before the frozen base, a head behind it."""
    import keras

    pixels = keras.Input((SIDE, SIDE, 3))
    made = keras.layers.Rescaling(1 / 127.5, -1)(keras.layers.RandomFlip()(pixels))
    made = keras.layers.Dropout(0.2)(keras.layers.GlobalAveragePooling2D()(base(made)))
    base.trainable = False
    return keras.Model(pixels, keras.layers.Dense(2, name="head")(made))


@pytest.fixture(scope="module")
def exported(classifier: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "saved"
    classifier.export(folder, verbose=False)
    return folder


def taken(path: Path, width: float = WIDTH) -> Any:
    pin = borrowed.sha256_of_checkpoint(path) if path.is_dir() else hashes.sha256_of_file(path)
    return pretrained.pretrained_base("MobileNet", SIDE, width, str(path), pin)


def test_a_base_in_an_exported_classifier_is_found_and_no_graph_is_read(
    base: Any, exported: Path, tmp_path: Path
) -> None:
    copied = Path(shutil.copytree(exported, tmp_path / "copied"))
    (copied / "saved_model.pb").write_bytes(b"no graph at all")
    assert models.weights_digest(taken(copied)) == models.weights_digest(base)


def test_the_pin_is_what_the_documented_command_prints(exported: Path) -> None:
    pin = subprocess.run(
        "sha256sum variables/* | sha256sum", shell=True, cwd=exported, capture_output=True, text=True, check=True
    ).stdout.split()[0]
    assert borrowed.sha256_of_checkpoint(exported) == pin
    with pytest.raises(IntegrityError, match=rf"SHA-256 is {pin}, but feature_extract\.weights_sha256 pins 0000"):
        pretrained.pretrained_base("MobileNet", SIDE, WIDTH, str(exported), "0" * 64)


def test_another_width_is_refused_by_name_and_what_is_no_savedmodel_too(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"conv1/kernel \[3, 3, 3, 16\] is wanted, but it holds conv1/kernel \[3, 3,"):
        taken(exported, 0.5)
    with pytest.raises(ConfigError, match=r"is no SavedModel; it has no variables/variables\.index"):
        taken(tmp_path)
    copied = Path(shutil.copytree(exported, tmp_path / "cut"))
    data = copied / "variables/variables.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:-100])
    with pytest.raises(ConfigError, match="its variables cannot be read"):
        taken(copied)


def keras_2(folder: Path, base: Any, named: bool, left_out: int = 0) -> Path:
    """A checkpoint as tf.keras lays one out: layers counted as layer_with_weights-N, attributes below, then a head."""
    import tensorflow as tf

    root = tf.Module()
    layers = [layer for layer in base.layers if layer.weights][left_out:]
    for number, layer in enumerate(layers):
        part = tf.Module()
        for weight, value in zip(layer.weights, layer.get_weights(), strict=True):
            attribute = "depthwise_kernel" if "dw" in layer.name and weight.name == "kernel" else weight.name
            owner = layer.name if named else f"layer_{number + 40}"
            setattr(part, attribute, tf.Variable(value, name=f"{owner}/{attribute}"))
        setattr(root, f"layer_with_weights-{number}", part)
    head = tf.Module()
    head.kernel = tf.Variable(np.zeros((256, 2), np.float32), name="dense/kernel")
    setattr(root, f"layer_with_weights-{len(layers)}", head)
    tf.train.Checkpoint(root=root).write(str(folder / "variables/variables"))
    return folder


@pytest.mark.parametrize("named", [True, False])
def test_a_checkpoint_as_keras_2_lays_it_out_fills_the_base(base: Any, tmp_path: Path, named: bool) -> None:
    folder = keras_2(tmp_path, base, named)
    import tensorflow as tf

    keys = [key for key, _ in tf.train.list_variables(str(folder / "variables/variables"))]
    assert "layer_with_weights-2/depthwise_kernel/.ATTRIBUTES/VARIABLE_VALUE" in keys
    assert models.weights_digest(taken(folder)) == models.weights_digest(base)


def test_a_checkpoint_that_lacks_a_layer_is_no_base(base: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"not weights that fit .*MobileNet 0\.25: conv1/kernel \[3, 3, 3, 8\] is"):
        taken(keras_2(tmp_path, base, named=False, left_out=1))


def test_a_keras_file_gives_its_weights_to_the_catalogues_architecture(
    base: Any, classifier: Any, tmp_path: Path
) -> None:
    import keras

    models.save(classifier, tmp_path / "mine.keras")
    assert models.weights_digest(taken(tmp_path / "mine.keras")) == models.weights_digest(base)
    inputs = keras.Input((8, 8, 3))
    keras.Model(inputs, keras.layers.Lambda(lambda pixels: pixels * 2)(inputs)).save(tmp_path / "hostile.keras")
    with pytest.raises(IntegrityError, match=r"feature_extract\.weights: .*without running code"):
        taken(tmp_path / "hostile.keras")
