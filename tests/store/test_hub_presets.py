"""Presets of KerasHub: pinned, nothing but its backbones built, taken apart so that they are cut and frozen as any."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.core import backbones, hub_backbones
from stages.core.errors import ConfigError, EnvironmentFault, IntegrityError
from stages.store import hub_presets, models, pretrained

pytestmark = [
    pytest.mark.usefixtures("tensorflow"),
    pytest.mark.skipif(bool(hub_presets.missing()), reason=hub_presets.missing()),
]
SIDE = 32
TINY = {
    "stackwise_expansion": [[8, 16]], "stackwise_num_blocks": [2], "stackwise_num_filters": [[8, 8]],
    "stackwise_kernel_size": [[3, 3]], "stackwise_num_strides": [[2, 1]], "stackwise_se_ratio": [[None, 0.25]],
    "stackwise_activation": [["relu", "hard_swish"]], "stackwise_padding": [[1, 1]], "output_num_filters": 16,
    "depthwise_filters": 8, "depthwise_stride": 1, "depthwise_residual": False, "last_layer_filter": 16,
    "squeeze_and_excite": 0.5,
}  # fmt: skip
SCALE, OFFSET = [0.017, 0.018, 0.019], [-2.1, -2.0, -1.8]


@pytest.fixture(scope="module")
def hub(tensorflow: Any) -> Any:
    import keras_hub

    return keras_hub


def lively(model: Any) -> Any:
    random = np.random.default_rng(1)
    model.set_weights([abs(random.normal(0.3, 0.2, weight.shape)) for weight in model.get_weights()])
    return model


@pytest.fixture(scope="module")
def preset(hub: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A MobileNet whose blocks are layers of KerasHub's, as save_to_preset writes it with its image converter."""
    folder = tmp_path_factory.mktemp("presets") / "tiny"
    lively(hub.models.MobileNetBackbone(**TINY)).save_to_preset(str(folder))
    hub.layers.MobileNetImageConverter(image_size=(64, 64), scale=SCALE, offset=OFFSET).save_to_preset(str(folder))
    return folder


def opened(folder: Path, **settings: Any) -> Any:
    name = f"preset:{folder}"
    return pretrained.pretrained_base(name, SIDE, 1.0, "inside", hub_presets.find(name).digest, **settings)


def pictures() -> Any:
    return np.random.default_rng(0).integers(0, 256, (3, SIDE, SIDE, 3)).astype(np.float32)


def test_a_preset_is_the_same_function_in_keras_layers_with_its_converter_inside(hub: Any, preset: Path) -> None:
    base = opened(preset)
    whole = hub.models.Backbone.from_preset(str(preset))
    converter = hub.layers.ImageConverter.from_preset(str(preset), image_size=None)
    wanted = np.asarray(whole(converter(pictures())))
    found = np.asarray(base(pictures()))
    assert np.ptp(wanted) > 0
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)
    assert {type(one).__module__.split(".")[0] for one in base.operations} == {"keras"}
    backbones.check_single_use(base, "the preset")
    with pytest.raises(ConfigError, match="rescaled twice; set inside"):
        backbones.check_entrance(base, "tf")


def test_it_is_cut_and_frozen_as_any_base(preset: Path, tmp_path: Path) -> None:
    import keras

    base = opened(preset)
    whole = np.asarray(base(pictures())).mean((1, 2))
    first = backbones.layer_number(base, 0.6, "test")
    cut = backbones.deepest_cut(base, first)
    assert 0 < cut < len(base.operations) - 1
    activations, pooled = backbones.trunk(base, "inside", cut)(pictures())
    np.testing.assert_allclose(np.asarray(pooled), whole, rtol=1e-5)
    backbones.freeze_below(base, first)
    tail = backbones.tail(base, "inside", cut)
    np.testing.assert_allclose(np.asarray(tail(np.asarray(activations))), whole, rtol=1e-5)
    before = [layer.get_weights() for layer in base.layers]
    tail.compile(optimizer=keras.optimizers.SGD(0.1), loss="mse")
    tail.fit(np.asarray(activations), np.asarray(pooled) + 1.0, epochs=1, verbose=0)
    moved = {
        number
        for number, (layer, old) in enumerate(zip(base.layers, before, strict=True))
        if any(not np.array_equal(one, other) for one, other in zip(old, layer.get_weights(), strict=True))
    }
    assert moved
    assert min(moved) >= first
    assert not any(isinstance(base.layers[number], keras.layers.BatchNormalization) for number in moved)
    normalizations = [at for at, one in enumerate(base.layers) if isinstance(one, keras.layers.BatchNormalization)]
    assert normalizations[-1] > first, "there was one that could have moved"

    models.save(base, tmp_path / "base.keras")
    trunk = {"settings": {"backbone": f"preset:{preset}", "image_size": SIDE, "alpha": 1.0}}
    anew = models.architecture(tmp_path, trunk)
    assert [weight.shape for weight in anew.weights] == [weight.shape for weight in base.weights]
    assert models.weights_digest(anew) != models.weights_digest(base), "random weights, as from scratch wants"
    anew.set_weights(base.get_weights())
    np.testing.assert_allclose(np.asarray(anew(pictures())), np.asarray(base(pictures())), rtol=1e-5)


@pytest.mark.parametrize("name", ["ResNet", "DenseNet", "VGG", "Xception", "EfficientNet"])
def test_other_backbones_are_taken_apart_too(hub: Any, name: str) -> None:
    """Of one block a kind; base() itself compares what it made with the whole."""
    blocks = {
        "ResNet": {"input_conv_filters": [64], "input_conv_kernel_sizes": [7], "stackwise_num_filters": [64],
                   "stackwise_num_blocks": [1], "stackwise_num_strides": [1], "block_type": "basic_block"},
        "DenseNet": {"stackwise_num_repeats": [1, 1], "growth_rate": 4},
        "VGG": {"stackwise_num_repeats": [1], "stackwise_num_filters": [4]},
        "Xception": {"stackwise_conv_filters": [[4, 8]], "stackwise_pooling": [True]},
        "EfficientNet": {"stackwise_kernel_sizes": [3, 3], "stackwise_num_repeats": [1, 1],
                         "stackwise_input_filters": [8, 8], "stackwise_output_filters": [8, 8],
                         "stackwise_expansion_ratios": [1, 4], "stackwise_squeeze_and_excite_ratios": [0.0, 0.25],
                         "stackwise_strides": [1, 2], "stackwise_block_types": ["fused", "unfused"],
                         "stackwise_width_coefficients": [1.0, 1.0], "stackwise_depth_coefficients": [1.0, 1.0],
                         "num_features": 16},
    }[name]  # fmt: skip
    description = {
        "module": f"keras_hub.src.models.{name.lower()}", "class_name": f"{name}Backbone",
        "registered_name": f"keras_hub>{name}Backbone", "config": blocks,
    }  # fmt: skip
    base = hub_backbones.base(lively(hub_backbones.build(description, SIDE)), [1.0] * 3, [0.0] * 3)
    backbones.check_single_use(base, name)
    assert len(backbones.cuts(base)) > 2


def changed(preset: Path, folder: Path, change: Callable[[Any], Any], file: str = "config.json") -> Path:
    shutil.copytree(preset, folder)
    content = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(change(content) or content))
    return folder


def test_nothing_but_a_backbone_of_kerashub_is_built(preset: Path, tmp_path: Path) -> None:
    import keras

    canary = tmp_path / "pwned"
    path = str(canary)
    touch = keras.layers.Lambda(lambda x: (__import__("pathlib").Path(path).touch(), x)[1], name="touch")
    hostile = keras.saving.serialize_keras_object(touch)
    (tmp_path / "planted.py").write_text(f"open({path!r}, 'w')\nclass Planted: pass\n")
    cases = {
        "lambda": (lambda _: hostile, "must be a backbone of KerasHub"),
        "inner": (lambda one: one["config"].update(input_activation=hostile), "'input_activation' is .*must be a num"),
        "other": (lambda one: one.update(module="planted", class_name="Planted", registered_name=None), "of 'planted'"),
        "borrowed": (lambda one: one.update(class_name="Task", registered_name="keras_hub>Task"), "must be a backbone"),
        "unknown": (lambda one: one["config"].update(run=path), "its 'run' is nothing that KerasHub"),
        "text": (lambda one: one.update(class_name="BertBackbone", registered_name="keras_hub>BertBackbone"),
                 "BertBackbone takes no pictures"),
        "list": (lambda _: [1], "it holds no mapping"),
    }  # fmt: skip
    for name, (change, message) in cases.items():
        with pytest.raises(ConfigError, match=message):
            opened(changed(preset, tmp_path / name, change))
    assert not canary.exists()


def test_more_outputs_and_opaque_layers_are_refused(hub: Any) -> None:
    def described(name: str, **arguments: Any) -> dict[str, Any]:
        registered = f"keras_hub>{name}Backbone"
        return {"module": "keras_hub.m", "class_name": registered[10:], "registered_name": registered,
                "config": arguments}  # fmt: skip

    vit = described("ViT", patch_size=16, num_layers=1, num_heads=2, hidden_dim=8, mlp_dim=8)
    with pytest.raises(ConfigError, match=r"gives \(None, 5, 8\); a base gives one feature map"):
        hub_backbones.build(vit, SIDE)
    gnet = described(
        "HGNetV2", depths=[1, 1], embedding_size=8, hidden_sizes=[16, 16], stem_channels=[3, 8, 8], hidden_act="relu",
        use_learnable_affine_block=False, stackwise_stage_filters=[[8, 8, 16, 1, 1, 3], [16, 8, 16, 1, 1, 3]],
        apply_downsample=[False, True], use_lightweight_conv_block=[False, False],
    )  # fmt: skip
    with pytest.raises(ConfigError, match=r"gives \(None, 8, 8, \d+\), .*a base gives one feature map"):
        hub_backbones.build(gnet, SIDE)


def test_pin_weights_and_converter_are_checked(preset: Path, tmp_path: Path) -> None:
    shown = subprocess.run(
        "sha256sum config.json image_converter.json model.weights.h5 | sha256sum", shell=True, cwd=preset,
        capture_output=True, text=True, check=True,
    ).stdout.split()[0]  # fmt: skip
    assert hub_presets.find(f"preset:{preset}").digest == shown
    with pytest.raises(IntegrityError, match=rf"SHA-256 is {shown}, but feature_extract\.weights_sha256 pins 0000"):
        pretrained.pretrained_base(f"preset:{preset}", SIDE, 1.0, "inside", "0" * 64)
    with pytest.raises(ConfigError, match=r"feature_extract\.preprocessing: .*received 'tf'; it has its own"):
        opened(preset, preprocessing="tf")
    narrower = changed(preset, tmp_path / "narrower", lambda one: one["config"].update(stackwise_expansion=[[8, 24]]))
    with pytest.raises(ConfigError, match=r"model\.weights\.h5: not weights that fit its own config\.json"):
        opened(narrower)
    for scale in (0, [1, 2], "1/255", [1, 2, {}]):
        folder = tmp_path / "scaled"
        changed(preset, folder, lambda one, new=scale: one["config"].update(scale=new), "image_converter.json")
        with pytest.raises(ConfigError, match=r"scale is .*must be a number or three"):
            opened(folder)
        shutil.rmtree(folder)
    bare = Path(shutil.copytree(preset, tmp_path / "bare"))
    (bare / "image_converter.json").unlink()
    with pytest.raises(ConfigError, match=r"preprocessing: .*missing; it has no image_converter\.json"):
        opened(bare)
    without = opened(bare, preprocessing="tf")
    assert not [one for one in without.layers if type(one).__name__ == "Normalization"]
    (bare / "model.weights.h5").unlink()
    with pytest.raises(ConfigError, match=r"has no model\.weights\.h5; must be a folder"):
        opened(bare)


def test_what_cannot_be_fetched_is_the_networks_fault(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub.constants
    import kagglehub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(EnvironmentFault, match=r"hf://nobody/nothing could not be fetched"):
        hub_presets.find("preset:hf://nobody/nothing")

    def refuse(handle: str, path: str) -> str:
        raise ConnectionError(f"no route to {handle}/{path}")

    monkeypatch.setattr(kagglehub, "model_download", refuse)
    for name in ("resnet_50_imagenet", "kaggle://keras/resnetv1/keras/resnet_50_imagenet/3"):
        with pytest.raises(EnvironmentFault, match=r"kaggle://keras/resnetv1/.* could not be fetched \(no route"):
            hub_presets.find(f"preset:{name}")
    with pytest.raises(ConfigError, match=r"KerasHub has no preset 'mine'; for a folder write \./mine"):
        hub_presets.find("preset:mine")
    with pytest.raises(ConfigError, match="presets are fetched from kaggle:// and hf://"):
        hub_presets.find("preset:gs://bucket/mine")
