"""Keras models and weights on disk: checked before they are opened, written byte-deterministically."""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.core import backbones, catalogue
from stages.core.errors import ConfigError, IntegrityError

if TYPE_CHECKING:
    import keras

WEIGHTS = "model.weights.h5"  # in a `.keras` file
EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest date a zip can carry


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


def save_weights(model: keras.Model, path: Path) -> None:
    """Write a weights-only HDF5 file, which `load_weights` reads.

    Taken out of a `.keras` file, for which HDF5 writes to memory: on a disk that is full it ends the process by SIGSEGV
    as it closes its objects, after a traceback for each of them.
    """
    whole = path.with_name(f".{path.name}.keras")
    model.save(whole, include_optimizer=False)
    with zipfile.ZipFile(whole) as source, source.open(WEIGHTS) as file, path.open("wb") as target:
        shutil.copyfileobj(file, target)
    whole.unlink()


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
