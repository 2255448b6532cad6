"""The base network, and the bookkeeping of its batch normalisation."""

from __future__ import annotations

import tempfile
from pathlib import Path

import h5py
import keras

from pretraining.settings import Network


def build_base(settings: Network, any_size: bool = False) -> keras.Model:
    """MobileNetV2 without its head and with random weights, for the delivered input side or for any.

    Input float32 (batch, side, side, 3) in -1..1, output (batch, side / 32, side / 32, 1280). The weights
    have the same shapes whatever the side.
    """
    side = None if any_size else settings.size
    # Left to itself Keras numbers input layers, and the name is saved with the weights.
    pixels = keras.Input((side, side, 3), name="input_layer")
    base = keras.applications.MobileNetV2(
        input_shape=(side, side, 3),
        alpha=settings.alpha,
        include_top=False,
        weights=None,
        input_tensor=pixels,
    )
    set_bn_momentum(base, settings.bn_momentum)
    # Given an input tensor, Keras makes a model of a list of one input and warns at every call of it.
    return keras.Model(pixels, base.output, name=base.name)


def set_bn_momentum(model: keras.Model, momentum: float) -> None:
    """Give every batch normalisation this momentum; takes effect in functions compiled afterwards."""
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = momentum
        elif isinstance(layer, keras.Model):
            set_bn_momentum(layer, momentum)


def save_compact(model: keras.Model, path: Path) -> None:
    """Save weights for `load_weights`; the same weights always give the same bytes.

    Keras writes HDF5's oldest format, whose many small groups take a fifth of the file, and the time.
    The newest format is leaner, and its times can be left out, though of groups only by h5py's low level.
    """
    access, creation = h5py.h5p.create(h5py.h5p.FILE_ACCESS), h5py.h5p.create(h5py.h5p.FILE_CREATE)
    access.set_libver_bounds(h5py.h5f.LIBVER_LATEST, h5py.h5f.LIBVER_LATEST)
    creation.set_obj_track_times(False)
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / path.name
        model.save_weights(plain)
        handle = h5py.h5f.create(str(path).encode(), h5py.h5f.ACC_TRUNC, creation, access)
        with h5py.File(plain) as source, h5py.File(handle) as target:
            _copy(source, target)


def _copy(source: h5py.Group, target: h5py.Group) -> None:
    """Everything under `source` into `target`, without times."""
    creation = h5py.h5p.create(h5py.h5p.GROUP_CREATE)
    creation.set_obj_track_times(False)
    for key, value in source.attrs.items():
        target.attrs[key] = value
    for name, item in source.items():
        if isinstance(item, h5py.Group):
            _copy(item, h5py.Group(h5py.h5g.create(target.id, name.encode(), gcpl=creation)))
        else:
            target.create_dataset(name, data=item[()], track_times=False)
