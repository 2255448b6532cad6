"""A training's state after each epoch, so that a killed run goes on instead of starting over.

One file per phase in `.graft/checkpoints/<stage>/` of the current directory, outside DVC's outputs
(DVC deletes those before it runs a stage). A file is one line, `graft checkpoint 1 <SHA-256 of the
rest>`, and then a NumPy .npz without pickles: the arrays, and `state`, the rest as JSON. It is
written beside its place and renamed, so there is the old one or the new one. It is believed only
if the SHA-256 fits and it carries this run's fingerprint.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
import zipfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from stages.store import hashes, outputs

if TYPE_CHECKING:
    from stages.core.training import Saved

FOLDER = Path(".graft/checkpoints")
MAGIC = b"graft checkpoint 1 "
HEADER = len(MAGIC) + 64 + 1
# OpenCV draws the augmented views, OpenVINO takes their features: other versions give other bytes.
PACKAGES = ("keras", "tensorflow", "numpy", "pillow", "opencv-python-headless", "openvino")
GROUPS = ("variables", "optimizer", "best_weights")  # Saved's lists of arrays
log = logging.getLogger(__name__)


def fingerprint(settings: Mapping[str, Any], data: Path, device: str) -> str:
    """SHA-256 over all that decides a training's result, hex; another one's checkpoint must not be resumed.

    That is the settings, every file below `data`, the source of every loaded module of the stages
    (so load them first), the versions of the packages that compute, and the device.
    """
    specs = [getattr(module, "__spec__", None) for module in list(sys.modules.values())]
    # By the spec: the stage's own module is called __main__ when it runs.
    sources = {spec.name: spec.origin for spec in specs if spec and spec.origin and spec.name.startswith("stages")}
    parts = {
        "settings": settings,
        "data": hashes.sha256_of_tree(data),
        "code": {name: hashes.sha256_of_file(Path(origin)) for name, origin in sources.items()},
        "versions": {name: version(name) for name in PACKAGES},
        "device": device,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class Checkpoints:
    """The saved phases of one stage."""

    def __init__(self, stage: str, fingerprint: str) -> None:
        self._folder = FOLDER / stage
        self._fingerprint = fingerprint
        self._loaded: set[Path] = set()

    def load(self, phase: str) -> Saved | None:
        """What an interrupted run saved of `phase`; None, with a line in the log, where it cannot be believed.

        Ask in the order of training: a phase builds on the one before, so where one starts anew
        the files of those not yet asked for go too.
        """
        path = self._folder / f"{phase}.npz"
        try:
            with path.open("rb") as file:
                saved = self._read(file, phase)
        except FileNotFoundError:
            saved = None
        except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
            log.warning("%s is not used (%s); %s starts from zero", path, error, _spoken(phase))
            saved = None
        if saved is not None:
            self._loaded.add(path)
            return saved
        for other in set(self._folder.glob("*")) - self._loaded:
            outputs.remove(other)
        return None

    def save(self, phase: str, saved: Saved) -> None:
        """Replace what is saved of `phase`. A disk that refuses costs the checkpoint, not the training."""
        path = self._folder / f"{phase}.npz"
        partial = path.with_name(f".{path.name}.partial")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with partial.open("w+b") as file:
                self._write(file, phase, saved)
            partial.replace(path)
            _sync_folder(self._folder)
        except OSError as error:
            outputs.remove(partial)
            log.warning("no checkpoint of %s, epoch %d: %s", _spoken(phase), saved.epochs, error)
            return
        self._loaded.add(path)

    def clear(self) -> None:
        """Remove every file: what was trained has been published."""
        outputs.remove(self._folder)

    def _write(self, file: BinaryIO, phase: str, saved: Saved) -> None:
        state = {
            "fingerprint": self._fingerprint,
            "phase": phase,
            "logs": saved.logs,
            "best": saved.best,
            "callbacks": saved.callbacks,
            "stopped": saved.stopped,
            "counts": {group: len(getattr(saved, group)) for group in GROUPS},
        }
        arrays = {f"{group}_{i}": array for group in GROUPS for i, array in enumerate(getattr(saved, group))}
        text = np.frombuffer(json.dumps(state, allow_nan=False).encode(), np.uint8)
        file.write(bytes(HEADER))
        np.savez(file, state=text, **arrays)
        file.seek(HEADER)
        digest = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
        file.seek(0)
        file.write(MAGIC + digest.encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())

    def _read(self, file: BinaryIO, phase: str) -> Saved:
        """Raises ValueError saying why where the file is not this run's."""
        from stages.core.training import Saved

        header = file.read(HEADER)
        digest = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
        if header != MAGIC + digest.encode() + b"\n":
            raise ValueError("it is damaged or no checkpoint")
        file.seek(HEADER)
        with np.load(file, allow_pickle=False) as stored:
            state = json.loads(stored["state"].tobytes())
            if state["fingerprint"] != self._fingerprint or state["phase"] != phase:
                raise ValueError("it is of other data, settings, code or another device")
            groups = {group: [stored[f"{group}_{i}"] for i in range(count)] for group, count in state["counts"].items()}
        return Saved(
            logs=state["logs"],
            best=tuple(state["best"]),
            callbacks=state["callbacks"],
            stopped=state["stopped"],
            **groups,
        )


def _spoken(phase: str) -> str:
    return phase.replace("_", " ")


def _sync_folder(folder: Path) -> None:
    """Make a rename in `folder` last through a power cut."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
