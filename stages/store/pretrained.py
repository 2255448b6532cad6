"""Pretrained bases by name or path: pinned, checked, and opened without running code of theirs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, get_args

from stages.core import backbones, catalogue, hub_backbones
from stages.core.errors import ConfigError, EnvironmentFault, IntegrityError
from stages.store import borrowed, hub_presets, models, weight_files
from stages.store.hashes import check_pin
from stages.store.hub_presets import Preset

if TYPE_CHECKING:
    import keras


def pretrained_base(
    name: str,
    image_size: int,
    alpha: float,
    weights: str,
    pin: str | None,
    preprocessing: catalogue.Preprocessing | None = None,
) -> keras.Model:
    """A base with pretrained weights: of the catalogue, from the `.keras` file of that path, or a KerasHub preset.

    `weights` is "imagenet" (Keras's cache under KERAS_HOME, else its download), the path of a weights-only HDF5
    file, of a `.keras` file or a SavedModel's folder to take the weights out of, or "inside" a base of one's own;
    `pin` is the SHA-256 of the file, of a SavedModel that of its checkpoint (borrowed.sha256_of_checkpoint), of a
    preset that of its files (hub_presets.Preset). A preset that says how pixels enter it does that inside, and takes
    no `preprocessing`. Raises ConfigError where the path or the layers do not fit, IntegrityError where the pin does
    not, EnvironmentFault where Keras or KerasHub cannot fetch.
    """
    if catalogue.is_preset(name):
        preset = hub_presets.find(name)
        assert pin is not None  # the parameter model refuses a preset without one
        check_pin(Path(preset.name), pin, "feature_extract.weights_sha256", preset.digest)
        return preset_base(preset, image_size, preprocessing)
    if catalogue.is_local(name):
        return _local_base(name, image_size, pin)
    if weights == "imagenet":
        try:
            return backbones.build(name, image_size, alpha, "imagenet")
        except (OSError, ValueError) as error:
            raise IntegrityError(
                f"feature_extract.weights: Keras's cached ImageNet weights for {name} {alpha:g} cannot be read "
                f"({error}); delete the file under KERAS_HOME/models and run again"
            ) from error
        except Exception as error:  # Keras wraps every network fault in a bare Exception
            if "URL fetch failure" not in str(error):
                raise
            raise EnvironmentFault(
                f"feature_extract.weights: Keras could not fetch the ImageNet weights ({error}). Without a "
                "network, set KERAS_HOME to a folder with models/<Keras's file name>.h5"
            ) from error
    return _weights_by_path(name, image_size, alpha, weights, pin)


def _weights_by_path(name: str, image_size: int, alpha: float, weights: str, pin: str | None) -> keras.Model:
    path = Path(weights).expanduser()
    if not path.exists():
        raise ConfigError(
            f"feature_extract.weights: {weights!r} is no file; use 'imagenet', or the path of .h5 weights, of a .keras "
            "file or of a SavedModel"
        )
    assert pin is not None  # the parameter model refuses a path without one
    received = borrowed.sha256_of_checkpoint(path) if path.is_dir() else None
    check_pin(path, pin, "feature_extract.weights_sha256", received)
    base, what = backbones.build(name, image_size, alpha), f"feature_extract.weights for {name} {alpha:g}"
    if received:
        return borrowed.fill_from_checkpoint(base, path, what)
    if catalogue.is_local(weights):
        return borrowed.fill_from_model(base, _opened(path, "feature_extract.weights"), path, what)
    weight_files.check_weights(path, "feature_extract.weights")
    return models.load_weights(base, path, what)


def _local_base(name: str, image_size: int, pin: str | None) -> keras.Model:
    path = Path(name).expanduser()
    if not path.is_file():
        raise ConfigError(f"feature_extract.backbone: {name!r} is no file; use a catalogue name or a path to .keras")
    assert pin is not None  # the parameter model refuses a path without one
    check_pin(path, pin, "feature_extract.weights_sha256")
    base = _opened(path, "feature_extract.backbone")
    wanted = (None, image_size, image_size, 3)
    shapes = [getattr(base, each, None) for each in ("input_shape", "output_shape")]
    if shapes[0] != wanted or not isinstance(shapes[1], tuple) or len(shapes[1]) != 4:
        raise ConfigError(
            f"feature_extract.backbone: {name} takes {shapes[0]} and gives {shapes[1]}; a base takes {wanted} "
            "(feature_extract.image_size) and gives a feature map [None, h, w, channels], without a top"
        )
    if hub_backbones.nests_models(base):  # freezing a model's layers would not reach into a model within it
        base = hub_backbones.taken_apart(base)
    backbones.check_single_use(base, f"feature_extract.backbone: {name}")
    return base


def preset_base(preset: Preset, image_size: int, preprocessing: catalogue.Preprocessing | None) -> keras.Model:
    """A preset's backbone of Keras's own layers, its image converter inside. Raises ConfigError."""
    converter = preset.converter()
    if (converter is None) == (preprocessing is None):
        wrong = f"received {preprocessing!r}; it has its own ({hub_presets.CONVERTER}); remove it"
        legal = ", ".join(get_args(catalogue.Preprocessing))
        raise ConfigError(
            f"feature_extract.preprocessing: of {preset.name} "
            + (wrong if converter else f"missing; it has no {hub_presets.CONVERTER}, so say one of {legal}")
        )
    scale, offset = converter or ([1.0] * 3, [0.0] * 3)
    try:
        model = hub_backbones.build(preset.backbone(), image_size)
        weight_files.check_weights(preset.files[hub_presets.WEIGHTS], f"{hub_presets.KEY}: preset {preset.name}")
        models.load_weights(model, preset.files[hub_presets.WEIGHTS], "its own config.json")
        base = hub_backbones.base(model, scale, offset)
    except ConfigError as error:
        raise ConfigError(f"{hub_presets.KEY}: preset {preset.name}: {error}") from error
    backbones.check_single_use(base, f"{hub_presets.KEY}: preset {preset.name}")
    return base


def _opened(path: Path, key: str) -> keras.Model:
    weight_files.check_model(path, key)
    try:
        return models.load(path)
    except IntegrityError as error:
        raise ConfigError(
            f"{key}: {path} cannot be opened without running code of it or of a package "
            f"({error.__cause__}); save a model of Keras's own layers, without Lambda"
        ) from error
