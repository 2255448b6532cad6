"""Weight files from outside, looked through before anything is built of them: what they may hold, and how much.

A file within its pin is the file that somebody chose, which does not make it harmless: HDF5 can link to other files of
this machine and store a terabyte of zeros in a page, and a `.keras` file can ask for layers larger than any memory.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from stages.core.errors import IntegrityError

if TYPE_CHECKING:
    import h5py

PARTS = {"config.json", "metadata.json", "model.weights.h5"}  # of a `.keras` file
MAX_CONFIG = 32 * 2**20  # bytes of a `.keras` file's description
MAX_OBJECTS = 50_000  # groups and datasets of an HDF5 file
# Weights hardly compress. Datasets may be so many times as large as the file, and SLACK bytes larger in any case.
MAX_RATIO, SLACK = 20, 2**20
FILTERS = {1, 2, 3}  # HDF5's own: deflate, shuffle, checksum. Others are libraries that it would load
NUMBERS = "fiub"  # kinds of dtype


def check_weights(path: Path, key: str) -> None:
    """Refuse an HDF5 file that is more than numbers. `key` names the parameter.

    Raises IntegrityError where it is no HDF5 file, links to other places, needs other libraries, or holds far more
    than was stored.
    """
    with path.open("rb") as file:
        _stored(file, path.stat().st_size, f"{key}: {path}")


def check_model(path: Path, key: str) -> None:
    """Refuse a `.keras` file with other parts than Keras writes, or with layers of more weights than it holds.

    Raises IntegrityError. Nothing is allocated for the layers: they are only asked for the shapes of their weights.
    """
    what = f"{key}: {path}"
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            names = [entry.filename for entry in entries]
            if sorted(names) != sorted(PARTS):
                shown = ", ".join(repr(name[:100]) for name in sorted(names)[:8])
                raise IntegrityError(f"{what} holds {shown or 'nothing'}; a .keras file has {', '.join(sorted(PARTS))}")
            sizes = {entry.filename: entry.file_size for entry in entries}
            packed = path.stat().st_size
            if sizes["config.json"] > MAX_CONFIG or sum(sizes.values()) > MAX_RATIO * packed + SLACK:
                raise IntegrityError(
                    f"{what} unpacks to {sum(sizes.values()):,} bytes, its description to {sizes['config.json']:,}; "
                    f"at most {MAX_RATIO} times its size and {MAX_CONFIG:,}. Save the base anew with Keras"
                )
            config = json.loads(archive.read("config.json"))
            weights = archive.read("model.weights.h5")
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError, RecursionError) as error:
        raise IntegrityError(f"{what}: not a readable .keras file ({error}); save the base anew with Keras") from error
    held = _stored(io.BytesIO(weights), len(weights), what)
    asked = _asked_for(config, what)
    if asked > held + SLACK:
        raise IntegrityError(
            f"{what} describes layers of {asked:,} bytes of weights and holds {held:,}; save the base anew with Keras"
        )


def _stored(file: IO[bytes], size: int, what: str) -> int:
    """Bytes of all datasets of an HDF5 file of `size` bytes. Raises IntegrityError."""
    import h5py

    total = 0
    try:
        with h5py.File(file, "r") as opened:
            for name, dataset in _datasets(opened, what):
                if dataset.external or dataset.is_virtual:
                    raise IntegrityError(f"{what}: {name!r} has its values in another file, which is not read")
                filters = dataset.id.get_create_plist()
                if {filters.get_filter(at)[0] for at in range(filters.get_nfilters())} - FILTERS:
                    raise IntegrityError(f"{what}: {name!r} needs a library to be read; save it without a filter")
                if dataset.dtype.kind not in NUMBERS:
                    raise IntegrityError(f"{what}: {name!r} holds {dataset.dtype}; weights are numbers")
                total += int(dataset.size or 0) * dataset.dtype.itemsize
    except IntegrityError:
        raise
    # h5py documents no closed set for broken files.
    except Exception as error:
        raise IntegrityError(f"{what}: not a readable HDF5 file ({error}); use a weights-only .h5 file") from error
    if total > MAX_RATIO * size + SLACK:
        raise IntegrityError(f"{what}: {size:,} bytes that hold {total:,}; at most {MAX_RATIO} times as many")
    return total


def _datasets(root: h5py.Group, what: str) -> Iterator[tuple[str, h5py.Dataset]]:
    """Every dataset with its name, no link followed. Raises IntegrityError where there is one."""
    import h5py

    waiting, seen, places = [root], 0, set()
    while waiting:
        group = waiting.pop()
        place = h5py.h5o.get_info(group.id).addr
        if place in places:
            raise IntegrityError(f"{what}: {str(group.name)[:200]!r} stands in two places; groups of weights do not")
        places.add(place)
        for name in group:
            path = f"{group.name}/{name}".replace("//", "/")[:200]
            seen += 1
            if seen > MAX_OBJECTS:
                raise IntegrityError(f"{what}: more than {MAX_OBJECTS:,} groups and datasets; weights have fewer")
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise IntegrityError(f"{what}: {path!r} is a link, which is not followed; save the weights themselves")
            found = group[name]
            if isinstance(found, h5py.Group):
                waiting.append(found)
            elif isinstance(found, h5py.Dataset):
                yield path, found
            else:
                raise IntegrityError(f"{what}: {path!r} is neither a group nor a dataset")


def _asked_for(config: Any, what: str) -> int:
    """Bytes of the weights that a `.keras` file's layers would have. Raises IntegrityError where it describes none."""
    # In a thread of its own, with which ends what Keras keeps of them: elsewhere it would give them values later.
    with ThreadPoolExecutor(1) as thread:
        try:
            return thread.submit(_without_values, config).result()
        # What Keras raises for a hostile description is an open set, too.
        except Exception as error:
            said = " ".join(str(error).split())[:300]
            raise IntegrityError(
                f"{what} cannot be opened without running code of it or of a package ({said}); save a base of Keras's "
                "own layers, without Lambda"
            ) from error


def _without_values(config: Any) -> int:
    import keras

    # Within it a weight has a shape and no value.
    with keras.StatelessScope(initialize_variables=False):
        model = keras.saving.deserialize_keras_object(config, safe_mode=True)
        return sum(_count(weight.shape) * 4 for weight in model.weights)


def _count(shape: Any) -> int:
    count = 1
    for side in shape:
        count *= int(side)
    return count
