"""Weights are checked before they are opened; what is written is the same bytes each time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.core.errors import ConfigError, EnvironmentFault, IntegrityError
from stages.store import hashes, models, pretrained, saved_model

pytestmark = pytest.mark.usefixtures("tensorflow")
ROOT = Path(__file__).parents[2]
LETTERS = ROOT / "pretraining" / "mobilenet_v2_0.35_96_letters.weights.h5"


def small_model() -> Any:
    import keras

    keras.utils.set_random_seed(1)
    inputs = keras.Input((16, 16, 3), name="pixels")
    pooled = keras.layers.GlobalAveragePooling2D(name="pool")(keras.layers.Conv2D(4, 3, name="conv")(inputs))
    return keras.Model(inputs, keras.layers.Dense(2, activation="softmax", name="top")(pooled), name="small")


def test_the_committed_base_loads_under_its_pin() -> None:
    pin = hashes.sha256_of_file(LETTERS)
    base = pretrained.pretrained_base("MobileNetV2", 96, 0.35, str(LETTERS), pin)
    assert base.output_shape == (None, 3, 3, 1280)
    again = pretrained.pretrained_base("MobileNetV2", 96, 0.35, str(LETTERS), pin)
    assert models.weights_digest(base) == models.weights_digest(again)
    again.layers[-2].set_weights([weight + 1e-3 for weight in again.layers[-2].get_weights()])
    assert models.weights_digest(base) != models.weights_digest(again)


def test_wrong_pin_path_or_shape_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match=r"feature_extract\.weights_sha256 pins 0000"):
        pretrained.pretrained_base("MobileNetV2", 96, 0.35, str(LETTERS), "0" * 64)
    with pytest.raises(ConfigError, match=r"nowhere\.h5"):
        pretrained.pretrained_base("MobileNetV2", 96, 0.35, str(tmp_path / "nowhere.h5"), "0" * 64)
    with pytest.raises(ConfigError, match="not weights that fit"):
        pretrained.pretrained_base("MobileNetV2", 96, 0.5, str(LETTERS), hashes.sha256_of_file(LETTERS))


def own_base(path: Path, side: int = 32) -> str:
    """A base of its own as its maker would save it; its pin."""
    import keras

    keras.utils.set_random_seed(3)
    inputs = keras.Input((side, side, 3))
    made = keras.layers.Conv2D(4, 3, strides=2, name="stem")(inputs)
    made = keras.layers.BatchNormalization(name="stem_bn")(made)
    keras.Model(inputs, keras.layers.Conv2D(6, 3, name="top")(made)).save(path)
    return hashes.sha256_of_file(path)


def test_a_base_by_path_is_pinned_opened_without_running_code_and_built_anew(tmp_path: Path) -> None:
    import keras

    path = tmp_path / "base.keras"
    pin = own_base(path)
    base = pretrained.pretrained_base(str(path), 32, 1.0, "inside", pin)
    assert [layer.name for layer in base.layers][1:] == ["stem", "stem_bn", "top"]
    trunk = {"settings": {"backbone": str(path), "image_size": 32, "alpha": 1.0}}
    models.save(base, tmp_path / "base.keras")
    anew = models.architecture(tmp_path, trunk)
    assert [weight.shape for weight in anew.weights] == [weight.shape for weight in base.weights]
    assert models.weights_digest(anew) != models.weights_digest(base), "random weights, as from scratch wants"

    with pytest.raises(IntegrityError, match=r"feature_extract\.weights_sha256 pins 0000"):
        pretrained.pretrained_base(str(path), 32, 1.0, "inside", "0" * 64)
    with pytest.raises(ConfigError, match=r"takes \(None, 32, 32, 3\).*a base takes \(None, 64, 64, 3\)"):
        pretrained.pretrained_base(str(path), 64, 1.0, "inside", hashes.sha256_of_file(path))
    with pytest.raises(ConfigError, match="is no file"):
        pretrained.pretrained_base(str(tmp_path / "none.keras"), 32, 1.0, "inside", pin)
    inputs = keras.Input((32, 32, 3))
    top = keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(inputs))
    keras.Model(inputs, top).save(tmp_path / "topped.keras")
    with pytest.raises(ConfigError, match="without a top"):
        pretrained.pretrained_base(
            str(tmp_path / "topped.keras"), 32, 1.0, "inside", hashes.sha256_of_file(tmp_path / "topped.keras")
        )
    hostile = keras.Model(inputs, keras.layers.Lambda(lambda pixels: pixels * 2)(inputs))
    hostile.save(tmp_path / "hostile.keras")
    with pytest.raises(IntegrityError, match="without running code"):
        pretrained.pretrained_base(
            str(tmp_path / "hostile.keras"), 32, 1.0, "inside", hashes.sha256_of_file(tmp_path / "hostile.keras")
        )


def test_a_model_within_a_base_by_path_is_taken_apart(tmp_path: Path) -> None:
    """Else freezing would not reach its BatchNormalization, and no cut could lie in it."""
    import keras

    own_base(tmp_path / "inner.keras")
    inner = models.load(tmp_path / "inner.keras")
    pixels = keras.Input((32, 32, 3))
    whole = keras.Model(pixels, inner(keras.layers.Rescaling(1 / 255)(pixels)))
    models.save(whole, tmp_path / "nested.keras")
    pin = hashes.sha256_of_file(tmp_path / "nested.keras")
    base = pretrained.pretrained_base(str(tmp_path / "nested.keras"), 32, 1.0, "inside", pin)
    assert [type(layer).__name__ for layer in base.layers][-3:] == ["Conv2D", "BatchNormalization", "Conv2D"]
    shown = np.random.default_rng(0).random((2, 32, 32, 3), np.float32)
    np.testing.assert_allclose(np.asarray(base(shown)), np.asarray(whole(shown)), atol=1e-6)


def test_imagenet_weights_come_from_kerass_cache(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shared weights lie under the names Keras looks for; no network is asked."""
    import keras

    monkeypatch.setenv("KERAS_HOME", str(shared / "keras_home"))
    monkeypatch.setattr(keras.src.backend.config, "_KERAS_DIR", str(shared / "keras_home"), raising=False)
    monkeypatch.setattr(keras.config, "keras_home", lambda: str(shared / "keras_home"), raising=False)
    base = pretrained.pretrained_base("MobileNet", 128, 0.25, "imagenet", None)
    random = models.backbones.build("MobileNet", 128, 0.25)
    assert models.weights_digest(base) != models.weights_digest(random)


def test_no_network_is_an_environment_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(*_: object) -> None:
        raise Exception("URL fetch failure on https://example.org/w.h5: None -- no route")  # as Keras raises it

    monkeypatch.setattr(pretrained.backbones, "build", fetch)
    with pytest.raises(EnvironmentFault, match="KERAS_HOME"):
        pretrained.pretrained_base("MobileNetV2", 96, 1.0, "imagenet", None)


def test_weights_are_written_alike_and_come_back(tmp_path: Path) -> None:
    model = small_model()
    for name in ("a", "b"):
        models.save_weights(model, tmp_path / f"{name}.weights.h5")
    assert (tmp_path / "a.weights.h5").read_bytes() == (tmp_path / "b.weights.h5").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.weights.h5", "b.weights.h5"]
    other = small_model()
    other.set_weights([weight + 1 for weight in other.get_weights()])
    models.load_stored_weights(other, tmp_path / "a.weights.h5", "it")
    assert models.weights_digest(other) == models.weights_digest(model)


def test_weights_that_do_not_fit_on_the_disk_are_one_error(tmp_path: Path) -> None:
    """Written by HDF5 itself, they ended the process by SIGSEGV, after a traceback for each of its objects."""
    code = """
import resource, signal, sys
from pathlib import Path
import keras
from stages.store import models
model = keras.Sequential([keras.Input((64,)), *(keras.layers.Dense(64) for _ in range(8))])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
try:
    models.save_weights(model, Path("cut.weights.h5"))
except OSError as error:
    sys.stderr.write(f"SAID {error}")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "SAID [Errno 27] File too large" in done.stderr
    assert "Traceback" not in done.stderr


def test_saving_twice_gives_the_same_bytes_without_dates_or_addresses(tmp_path: Path) -> None:
    models.save(small_model(), tmp_path / "one.keras")
    models.save(small_model(), tmp_path / "two.keras")
    assert (tmp_path / "one.keras").read_bytes() == (tmp_path / "two.keras").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.keras", "two.keras"]
    with zipfile.ZipFile(tmp_path / "one.keras") as file:
        assert {entry.date_time[0] for entry in file.infolist()} == {1980}
        assert set(json.loads(file.read("metadata.json"))) == {"keras_version"}
    loaded = models.load(tmp_path / "one.keras")
    pixels = np.ones((2, 16, 16, 3), np.float32)
    np.testing.assert_array_equal(np.asarray(loaded(pixels)), np.asarray(small_model()(pixels)))


def test_a_model_is_saved_without_how_it_was_trained(tmp_path: Path) -> None:
    import keras

    from stages.core import classifier, objective

    head = classifier.head(4, 2, 0.0, 1)
    head.compile(optimizer=keras.optimizers.AdamW(0.1), loss=objective.loss(0.1, 2.0, [1.0, 2.0]), metrics=["accuracy"])
    features = keras.Input((4,))
    for name, model in {"head": head, "around": keras.Model(features, head(features))}.items():
        models.save(model, tmp_path / f"{name}.keras")
        with zipfile.ZipFile(tmp_path / f"{name}.keras") as file:
            config = file.read("config.json").decode()
        assert "compile_config" not in config
        assert "objective" not in config
        loaded = models.load(tmp_path / f"{name}.keras")
        np.testing.assert_array_equal(np.asarray(loaded(np.ones((1, 4)))), np.asarray(model(np.ones((1, 4)))))


def test_a_damaged_or_scripted_model_is_refused(tmp_path: Path) -> None:
    import keras

    (tmp_path / "torn.keras").write_bytes(b"PK\x03\x04torn")
    with pytest.raises(IntegrityError, match=r"torn\.keras"):
        models.load(tmp_path / "torn.keras")
    canary = tmp_path / "pwned"
    path = str(canary)  # a closure over a text is what Keras can write
    touch = keras.layers.Lambda(lambda x: (__import__("pathlib").Path(path).touch(), x)[1])
    code = keras.Sequential([keras.Input((1,)), touch])
    models.save(code, tmp_path / "lambda.keras")
    assert canary.exists()  # building the layer ran it, so running it on loading would show
    canary.unlink()
    with pytest.raises(IntegrityError, match=r"lambda\.keras"):
        models.load(tmp_path / "lambda.keras")
    assert not canary.exists()


@pytest.mark.slow
def test_the_smoke_run_accepts_agreement_and_refuses_a_difference(tmp_path: Path) -> None:
    import io

    import tensorflow as tf
    from PIL import Image

    from stages.core import serving

    module = serving.Classifier(small_model(), ["cat", "dog"])
    for name in ("one", "two"):
        saved_model.write(module, tmp_path / name)
        assert not (tmp_path / name / "fingerprint.pb").exists()
    buffer = io.BytesIO()
    Image.new("RGB", (30, 20), (200, 90, 10)).save(buffer, "PNG")
    true = module.bytes_signature(tf.constant([buffer.getvalue()]))["probabilities"].numpy()[0].tolist()
    assert saved_model.smoke(tmp_path / "one", ["cat", "dog"], [(buffer.getvalue(), true)], 0.02) < 1e-5
    with pytest.raises(IntegrityError, match="differs from the evaluated one by"):
        saved_model.smoke(tmp_path / "one", ["cat", "dog"], [(buffer.getvalue(), true[::-1])], 0.001)
    (tmp_path / "two" / "saved_model.pb").write_bytes(b"broken")
    with pytest.raises(EnvironmentFault, match="does not run in a clean process"):
        saved_model.smoke(tmp_path / "two", ["cat", "dog"], [(buffer.getvalue(), true)], 0.02)


@pytest.mark.parametrize(
    ("label", "probabilities", "message"),
    [
        ("cat", [float("nan"), float("nan")], "differs from the evaluated one"),
        ("dog", [0.91, 0.09], "names 'dog'"),
        ("cat", [0.9], "1 probabilities for 2 classes"),
    ],
)
def test_the_smoke_run_refuses_nan_another_label_and_another_length(
    monkeypatch: pytest.MonkeyPatch, label: str, probabilities: list[float], message: str
) -> None:
    answer = json.dumps({"label": [label], "probabilities": [probabilities]})
    monkeypatch.setattr(saved_model.clean_process, "run", lambda *_, **__: answer)
    with pytest.raises(IntegrityError, match=message):
        saved_model.smoke(Path("m"), ["cat", "dog"], [(b"", [0.9, 0.1])], 0.02)
