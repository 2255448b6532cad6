"""Folders of numbered models, as TensorFlow Serving and KServe's TensorFlow runtime read them.

`FOLDER/3/saved_model.pb`: the name of a version is a whole number, the highest is served, and a server that watches
the folder takes up a version as soon as it stands there. So it has to appear whole.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from stages.core.errors import ConfigError, IntegrityError
from stages.store import hashes

EXTRA = "assets.extra"  # the part of a SavedModel folder that is for files of one's own


def versions(folder: Path) -> list[int]:
    """The numbers of the models in a folder, ascending."""
    if not folder.is_dir():
        return []
    names = [path.name for path in folder.iterdir() if path.is_dir()]
    return sorted(int(name) for name in names if name.isascii() and name.isdigit())


def add(saved_model: Path, extra: list[Path], folder: Path, version: int | None) -> Path:
    """Copy a SavedModel, and files beside it, to `folder`/`version`; None is one more than the highest, from 1.

    Raises ConfigError where that version exists, IntegrityError where a copy does not have its original's bytes.
    """
    found = versions(folder)
    if version is None:
        version = max(found, default=0) + 1
    place = folder / str(version)
    if version in found:
        raise ConfigError(f"{place}: exists; versions are never changed in place, choose one above {max(found)}")
    folder.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{version}.", dir=folder))  # no number, so no server looks at it
    try:
        # Bytes only: what DVC links may be read-only, and a link of its cache must not lie in another's hands.
        shutil.copytree(saved_model, made, copy_function=shutil.copyfile, dirs_exist_ok=True)
        (made / EXTRA).mkdir(exist_ok=True)
        for file in extra:
            shutil.copyfile(file, made / EXTRA / file.name)
        _compare(saved_model, made)
        made.chmod(0o755)
        try:
            made.rename(place)
        except OSError as error:
            if not place.exists():
                raise
            raise ConfigError(f"{place}: appeared meanwhile; choose another version") from error
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise
    return place


def _compare(original: Path, copy: Path) -> None:
    copied = hashes.sha256_of_tree(copy)
    for name, digest in hashes.sha256_of_tree(original).items():
        if copied.get(name) != digest:
            raise IntegrityError(f"{original / name}: its copy has other bytes; nothing was published, try again")
