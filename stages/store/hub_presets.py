"""Presets of KerasHub, for which the extra `hub` is needed: fetched or found in a folder, digested, and read."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from stages.core import catalogue
from stages.core.errors import ConfigError, EnvironmentFault
from stages.store.hashes import sha256_of_listing

CONFIG, CONVERTER, WEIGHTS = FILES = ("config.json", "image_converter.json", "model.weights.h5")
OPTIONAL = (CONVERTER,)
MOST_BYTES = 1_000_000  # of a description
KEY = "feature_extract.backbone"


@dataclass(frozen=True)
class Preset:
    """What a preset says of its backbone, and where its weights lie."""

    name: str
    digest: str  # `(cd FOLDER && sha256sum config.json image_converter.json model.weights.h5 | sha256sum)`
    files: dict[str, Path]

    def backbone(self) -> dict[str, Any]:
        """The content of config.json. Raises ConfigError."""
        return _read(self.files[CONFIG])

    def converter(self) -> tuple[list[float], list[float]] | None:
        """What pixels of 0-255 are multiplied by, and what is added then, per channel; None where it does not say.

        Raises ConfigError.
        """
        path = self.files.get(CONVERTER)
        if path is None:
            return None
        found = _read(path).get("config")
        if not isinstance(found, dict):
            raise ConfigError(f"{KEY}: {path} describes no image converter")
        scale = _per_channel(path, "scale", found.get("scale"), 1.0)
        offset = _per_channel(path, "offset", found.get("offset"), 0.0)
        if "mean" in found and "variance" in found:  # as KerasHub wrote it before it had an offset
            deviation = [each**0.5 for each in _per_channel(path, "variance", found["variance"], 1.0)]
            offset = [-m / d for m, d in zip(_per_channel(path, "mean", found["mean"], 0.0), deviation, strict=True)]
            scale = [s / d for s, d in zip(scale, deviation, strict=True)]
        return scale, offset


def missing() -> str:
    """What to do where KerasHub is not installed; empty where it is. Does not import it."""
    if find_spec("keras_hub") is not None:
        return ""
    return "a preset needs keras-hub, which is not installed: pip install -c constraints.txt '.[hub]'"


def find(backbone: str) -> Preset:
    """A preset's files: of the folder that `backbone` names behind `preset:`, or as KerasHub's hosts hold them.

    A folder has a `/` in its path and no `://`. Of a name only the three files are fetched, into the cache of
    kagglehub or huggingface_hub. Raises ConfigError where there is none, EnvironmentFault where it cannot be fetched.
    """
    name = backbone.removeprefix(catalogue.PRESET)
    if "/" in name and "://" not in name:
        folder = Path(name).expanduser()
        files = {each: folder / each for each in FILES if (folder / each).is_file()}
    else:
        files = _fetched(name)
    absent = [each for each in FILES if each not in files and each not in OPTIONAL]
    if absent:
        raise ConfigError(
            f"{KEY}: {name!r} has no {absent[0]}; must be a folder as KerasHub's save_to_preset writes it (./name for "
            "one right here), a name of KerasHub's, kaggle://… or hf://…"
        )
    return Preset(name, sha256_of_listing(files), files)


def _fetched(name: str) -> dict[str, Path]:
    import keras_hub

    scheme, _, handle = name.partition("://")
    if not handle:
        known = keras_hub.models.Backbone.presets
        if name not in known:
            raise ConfigError(f"{KEY}: KerasHub has no preset {name!r}; for a folder write ./{name}")
        scheme, _, handle = str(known[name]["kaggle_handle"]).partition("://")
    fetch = {"kaggle": _from_kaggle, "hf": _from_hugging_face}.get(scheme)
    if fetch is None:
        raise ConfigError(f"{KEY}: received {name!r}; presets are fetched from kaggle:// and hf://")
    found = {file: fetch(handle, file) for file in FILES}
    return {file: path for file, path in found.items() if path is not None}


def _from_kaggle(handle: str, file: str) -> Path | None:
    import kagglehub

    return _tried(lambda: kagglehub.model_download(handle, file), f"kaggle://{handle}", _not_on_kaggle)


def _not_on_kaggle(error: Exception) -> bool:
    return "404 Client Error" in str(error) or "is not present in the model files" in str(error)


def _from_hugging_face(handle: str, file: str) -> Path | None:
    import huggingface_hub
    from huggingface_hub.errors import RemoteEntryNotFoundError, RepositoryNotFoundError

    return _tried(
        lambda: huggingface_hub.hf_hub_download(repo_id=handle, filename=file),
        f"hf://{handle}",
        lambda error: isinstance(error, (RemoteEntryNotFoundError, RepositoryNotFoundError)),
    )


def _tried(fetch: Callable[[], str], name: str, is_absent: Callable[[Exception], bool]) -> Path | None:
    """The fetched file; None where the host has none of that name."""
    try:
        return Path(fetch())
    except Exception as error:  # each host's client raises a dozen kinds of its own and of its HTTP library
        if is_absent(error):
            return None
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        if isinstance(error, ValueError):
            raise ConfigError(f"{KEY}: {name}: {first}") from error
        raise EnvironmentFault(
            f"{KEY}: {name} could not be fetched ({first[:300]}). Without a network, save it elsewhere with KerasHub's "
            "save_to_preset and name the folder"
        ) from error


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"it has more than {MOST_BYTES} bytes")
        found = json.loads(path.read_bytes())
        if not isinstance(found, dict):
            raise ValueError("it holds no mapping")
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{KEY}: {path} is no description of KerasHub's: {error}") from error
    return found


def _per_channel(path: Path, what: str, value: Any, otherwise: float) -> list[float]:
    values = value if isinstance(value, list) else [otherwise if value is None else value] * 3
    numbers = [float(each) for each in values if isinstance(each, (int, float)) and not isinstance(each, bool)]
    if len(numbers) != 3 or len(values) != 3 or (what in ("scale", "variance") and min(numbers) <= 0):
        raise ConfigError(f"{KEY}: {path}: {what} is {str(value)[:80]}; must be a number or three, a scale above 0")
    return numbers
