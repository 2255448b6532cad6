"""Keras models and weights on disk: checked before they are opened, written byte-deterministically."""

from __future__ import annotations

import hashlib
import json
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.core import backbones, catalogue
from stages.core.errors import ConfigError, EnvironmentFault, IntegrityError
from stages.store import weight_files
from stages.store.hashes import check_pin

if TYPE_CHECKING:
    import keras

EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest date a zip can carry


def pretrained_base(name: str, image_size: int, alpha: float, weights: str, pin: str | None) -> keras.Model:
    """A base with pretrained weights: of the catalogue, or from the `.keras` file that `name` is the path of.

    `weights` is "imagenet" (Keras's cache under KERAS_HOME, else its download), the path of a weights-only HDF5
    file, or "inside" a `.keras` file; `pin` is the SHA-256 of the file. Raises ConfigError where the path or the
    file's layers do not fit, IntegrityError where the pin does not, EnvironmentFault where Keras cannot fetch.
    """
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
    path = Path(weights).expanduser()
    if not path.is_file():
        raise ConfigError(f"feature_extract.weights: {weights!r} is no file; use 'imagenet' or a path to .h5 weights")
    assert pin is not None  # the parameter model refuses a path without one
    check_pin(path, pin, "feature_extract.weights_sha256")
    weight_files.check_weights(path, "feature_extract.weights")
    return load_weights(backbones.build(name, image_size, alpha), path, f"feature_extract.weights for {name} {alpha:g}")


def _local_base(name: str, image_size: int, pin: str | None) -> keras.Model:
    path = Path(name).expanduser()
    if not path.is_file():
        raise ConfigError(f"feature_extract.backbone: {name!r} is no file; use a catalogue name or a path to .keras")
    assert pin is not None  # the parameter model refuses a path without one
    check_pin(path, pin, "feature_extract.weights_sha256")
    weight_files.check_model(path, "feature_extract.backbone")
    try:
        base = load(path)
    except IntegrityError as error:
        raise ConfigError(
            f"feature_extract.backbone: {name} cannot be opened without running code of it or of a package "
            f"({error.__cause__}); save a base of Keras's own layers, without Lambda"
        ) from error
    wanted = (None, image_size, image_size, 3)
    shapes = [getattr(base, each, None) for each in ("input_shape", "output_shape")]
    if shapes[0] != wanted or not isinstance(shapes[1], tuple) or len(shapes[1]) != 4:
        raise ConfigError(
            f"feature_extract.backbone: {name} takes {shapes[0]} and gives {shapes[1]}; a base takes {wanted} "
            "(feature_extract.image_size) and gives a feature map [None, h, w, channels], without a top"
        )
    backbones.check_single_use(base, f"feature_extract.backbone: {name}")
    return base


def architecture(folder: Path, trunk: Mapping[str, Any]) -> keras.Model:
    """The base that feature_extract used, with random weights; `folder` is its output, `trunk` its trunk.json."""
    import keras

    settings = trunk["settings"]
    if not catalogue.is_local(settings["backbone"]):
        return backbones.build(settings["backbone"], settings["image_size"], settings["alpha"])
    return keras.models.clone_model(load(folder / "base.keras"))


def load_weights(model: keras.Model, path: Path, what: str) -> keras.Model:
    """Fill a model from a weights-only HDF5 file. Raises ConfigError where the shapes do not fit."""
    try:
        with warnings.catch_warnings():
            # Keras only warns where a layer finds no weights; a base that is half random must not pass.
            warnings.simplefilter("error")
            model.load_weights(path)
    except (ValueError, OSError, KeyError, UserWarning) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(f"{path}: not weights that fit {what}: {first}") from error
    return model


def load_stored_weights(model: keras.Model, path: Path, what: str) -> keras.Model:
    """Like `load_weights`, for a file that an earlier stage wrote. Raises IntegrityError."""
    try:
        return load_weights(model, path, what)
    except ConfigError as error:
        raise IntegrityError(f"{error}; run dvc repro to rebuild it") from error


def weights_digest(model: keras.Model) -> str:
    """SHA-256 over all weights in order, hex: names the weights whatever file they came from."""
    digest = hashlib.sha256()
    for weight in model.get_weights():
        digest.update(str((weight.shape, weight.dtype)).encode())
        digest.update(weight.tobytes())
    return digest.hexdigest()


def save(model: keras.Model, path: Path) -> None:
    """Write a `.keras` file without the dates and memory addresses Keras puts in: same model, same bytes.

    Nor does it hold how the model was trained: a loss of this project would be looked for wherever it is loaded.
    """
    dated = path.with_name(f".{path.name}")
    model.save(dated.with_suffix(".keras"), include_optimizer=False)
    with zipfile.ZipFile(dated) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as target:
        for name in sorted(source.namelist()):
            data = source.read(name)
            if name == "metadata.json":
                metadata = json.loads(data)
                del metadata["date_saved"]
                data = json.dumps(metadata, sort_keys=True).encode()
            elif name == "config.json":
                config = json.loads(data)
                _forget_compilation(config)
                _renumber(config, {})
                data = json.dumps(config).encode()
            target.writestr(zipfile.ZipInfo(name, EPOCH), data)
    dated.unlink()


def _forget_compilation(part: Any) -> None:
    """Remove loss, optimizer and metrics of a model and of the models in it."""
    if isinstance(part, dict):
        part.pop("compile_config", None)
    for value in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        _forget_compilation(value)


def _renumber(part: Any, numbers: dict[int, int]) -> None:
    """Replace each `shared_object_id`, which Keras takes from memory addresses, by its order of appearance."""
    if isinstance(part, dict):
        if "shared_object_id" in part:
            part["shared_object_id"] = numbers.setdefault(part["shared_object_id"], len(numbers) + 1)
        for value in part.values():
            _renumber(value, numbers)
    elif isinstance(part, list):
        for value in part:
            _renumber(value, numbers)


def load(path: Path) -> keras.Model:
    """Read a `.keras` file that a stage wrote; code inside is refused (safe mode)."""
    import keras

    try:
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except (TypeError, ValueError, OSError, KeyError, zipfile.BadZipFile) as error:
        raise IntegrityError(f"{path}: not a readable Keras model ({error}); run dvc repro to rebuild it") from error
