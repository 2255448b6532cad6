"""Weights out of a SavedModel or a `.keras` file, for a base of the catalogue. No graph or layer of them is run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.core import borrowed_weights
from stages.core.borrowed_weights import Variable
from stages.core.errors import ConfigError
from stages.store import tensorflow_runtime
from stages.store.hashes import sha256_of_listing

if TYPE_CHECKING:
    import keras

CHECKPOINT = "variables"  # folder of a SavedModel, and what its files are called
GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"  # the entry that says which object each variable belongs to
VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
AGAIN = "_all_variables/"  # Keras 3's export holds every variable a second time, in no order
SEED = "seed_generator_state"


def sha256_of_checkpoint(folder: Path) -> str:
    """What pins a SavedModel: `(cd FOLDER && sha256sum variables/* | sha256sum)` prints it.

    Raises ConfigError where the folder is none.
    """
    paths = sorted(path for path in (folder / CHECKPOINT).glob("*") if path.is_file())
    files = {path.relative_to(folder).as_posix(): path for path in paths}
    if f"{CHECKPOINT}/{CHECKPOINT}.index" not in files:
        raise ConfigError(f"feature_extract.weights: {folder} is no SavedModel; it has no variables/variables.index")
    return sha256_of_listing(files)


def fill_from_checkpoint(base: keras.Model, folder: Path, what: str) -> keras.Model:
    """Fill a base from a SavedModel's checkpoint: one that Keras 3 or 2 wrote, of the base or of a model around it.

    Raises ConfigError where it cannot be read or where not every weight of the base is found with its shape.
    """
    with tensorflow_runtime.silent_stderr():
        import tensorflow as tf
        from tensorflow.core.protobuf.trackable_object_graph_pb2 import TrackableObjectGraph

    try:
        reader = tf.train.load_checkpoint(str(folder / CHECKPOINT / CHECKPOINT))
        shapes = reader.get_variable_to_shape_map()
        if GRAPH not in shapes:
            raise ConfigError(f"{folder}: its variables are those of TensorFlow 1; save it with Keras 2 or 3")
        graph = TrackableObjectGraph.FromString(reader.get_tensor(GRAPH))
        names = {one.checkpoint_key: one.full_name for node in graph.nodes for one in node.attributes}
        keys = sorted((key for key in shapes if key.endswith(VALUE)), key=borrowed_weights.counted)
        keys = [key for key in keys if not key.startswith(AGAIN) and not names.get(key, "").endswith(SEED)]
        found = [_variable(key, names.get(key, ""), shapes[key]) for key in keys]
        return _fill(base, found, lambda number: reader.get_tensor(keys[number]), str(folder), what)
    except (tf.errors.OpError, ValueError, IndexError, RuntimeError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(f"{folder}: its variables cannot be read: {first}") from error


def _variable(key: str, full_name: str, shape: list[int]) -> Variable:
    """Keras names a variable `layer/kernel`; of another maker's the place in the object graph has to do."""
    *folder, last = key.removesuffix(VALUE).split("/")
    layer, _, name = full_name.rpartition("/")
    layer = layer.rpartition("/")[2]
    if not last.isdigit():  # Keras 3 keeps a kernel as _kernel
        name = name or last.lstrip("_")
    return Variable(layer or "/".join(folder), name, tuple(shape))


def fill_from_model(base: keras.Model, model: keras.Model, path: Path, what: str) -> keras.Model:
    """Fill a base from an opened model: one of the same architecture, or a model around it. Raises ConfigError."""
    values = model.get_weights()
    return _fill(base, [_weight(one) for one in model.weights], values.__getitem__, str(path), what)


def _weight(weight: Any) -> Variable:
    layer, name = f"/{weight.path}".split("/")[-2:]
    return Variable(layer, name, tuple(weight.shape))


def _fill(base: keras.Model, found: list[Variable], read: Callable[[int], Any], source: str, what: str) -> keras.Model:
    import keras

    try:
        numbers = borrowed_weights.places([_weight(one) for one in base.weights], found)
    except ConfigError as error:
        raise ConfigError(f"{source}: not weights that fit {what}: {error}") from error
    base.set_weights([read(number) for number in numbers])
    for layer in base.layers:
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()
    return base
