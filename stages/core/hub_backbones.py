"""KerasHub's image backbones: built from a checked description, and taken apart into Keras's own layers.

KerasHub hides whole blocks of a network in layers of its own. A cut inside one could not be told, nor its
BatchNormalization be frozen, and whoever opens the trained model would need KerasHub. So its layers are called with
symbolic tensors, which records the Keras layers and operations inside them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from stages.core.backbones import channels_last
from stages.core.errors import ConfigError

if TYPE_CHECKING:
    import keras

SIDES = ("image_shape", "input_shape")  # what KerasHub's image backbones call the shape of a picture
DEPTH = 8  # layers within layers; KerasHub nests them 3 deep


def build(description: Mapping[str, Any], image_size: int) -> keras.Model:
    """KerasHub's own model of a preset's config.json, with random weights: float32 [N, S, S, 3] → [N, h, w, channels].

    Only a backbone that KerasHub itself offers is built, from numbers, texts and lists: nothing else that the
    description names is looked up. Raises ConfigError.
    """
    import keras_hub

    name, arguments = str(description.get("class_name")), description.get("config")
    kind: Any = getattr(keras_hub.models, name, None)
    known = inspect.isclass(kind) and issubclass(kind, keras_hub.models.Backbone)
    registered = (description.get("registered_name"), str(description.get("module")).split(".")[0])
    if not known or registered != (f"keras_hub>{name}", "keras_hub") or not isinstance(arguments, dict):
        raise ConfigError(f"it describes {registered[0]!r} of {registered[1]!r}; must be a backbone of KerasHub")
    chosen = {key: value for key, value in arguments.items() if key not in ("name", "trainable", "dtype")}
    legal = inspect.signature(kind).parameters
    side = next((each for each in SIDES if each in legal), None)
    if side is None:
        raise ConfigError(f"{name} takes no pictures; must be an image backbone")
    for key, value in chosen.items():
        if key not in legal:
            raise ConfigError(f"its {key!r} is nothing that KerasHub's {name} takes; it takes {', '.join(legal)}")
        if not _plain(value):
            raise ConfigError(f"its {key!r} is {str(value)[:80]}; must be a number, a text or a list of them")
    chosen[side] = (image_size, image_size, 3)
    if "data_format" in legal:
        chosen["data_format"] = "channels_last"
    try:
        with channels_last():
            model = kind(**chosen)
    except (TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
        raise ConfigError(f"KerasHub cannot build {name} of it: {_first_line(error)}") from error
    if len(model.inputs) != 1 or len(model.outputs) != 1 or len(model.outputs[0].shape) != 4:
        given = ", ".join(str(one.shape) for one in model.outputs)
        raise ConfigError(f"{name} gives {given}; a base gives one feature map (None, h, w, channels)")
    return model


def _plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(_plain(each) for each in value)
    return value is None or isinstance(value, (bool, int, float, str))


def base(model: keras.Model, scale: list[float], offset: list[float]) -> keras.Model:
    """The same network of Keras's own layers, each called once: pixels of 0-255 times `scale` plus `offset` enter it.

    Both are per channel, in RGB; 1 and 0 add no layer. Raises ConfigError where a layer of KerasHub cannot be taken
    apart, or where the pixels would be rescaled twice.
    """
    import keras

    pixels = keras.Input(model.inputs[0].shape[1:], name="pixels_in")
    entering = pixels
    if scale != [1.0] * 3 or offset != [0.0] * 3:
        # In its terms the mean that is taken off, and the square of what is divided by. It has no weights then.
        mean, variance = [-b / a for a, b in zip(scale, offset, strict=True)], [a**-2 for a in scale]
        entering = keras.layers.Normalization(axis=-1, mean=mean, variance=variance, name="image_converter")(pixels)
    whole = keras.Model(pixels, model(entering), name=model.name)
    made = taken_apart(whole)
    rescaling = [one.name for one in made.layers[:8] if type(one).__name__ in ("Rescaling", "Normalization")]
    if len(rescaling) > 1:
        raise ConfigError(f"pixels would be rescaled twice, by {rescaling[0]!r} and by {rescaling[1]!r}")
    shown = np.random.default_rng(0).integers(0, 256, (1, *pixels.shape[1:])).astype(np.float32)
    before, after = (keras.ops.convert_to_numpy(one(shown)) for one in (whole, made))
    if not np.allclose(before, after, rtol=1e-3, atol=1e-4 * max(float(np.abs(before).max()), 1e-6)):
        raise ConfigError("taken apart into Keras's own layers it does not give the same features")
    return made


def taken_apart(model: keras.Model) -> keras.Model:
    """The same function in layers of Keras alone, with the same weights, no models within it. Raises ConfigError."""
    import keras

    found, depth = model, 0
    while inner := [one for one in found.operations if _nested(one)]:
        depth += 1
        try:
            if depth > DEPTH:
                raise ValueError("too many layers within layers")
            found = keras.models.clone_model(found, clone_function=lambda layer: layer, call_function=_called)
        except Exception as error:  # whatever a layer's own code raises on symbolic tensors
            raise ConfigError(
                f"its layer {inner[0].name!r} ({type(inner[0]).__name__}) cannot be taken apart into Keras's own: "
                f"{_first_line(error)}"
            ) from error
    try:
        found = keras.models.clone_model(found, clone_function=lambda layer: layer, call_function=_calls_once())
        made = keras.Model.from_config(found.get_config())
        made.set_weights(found.get_weights())
    except (TypeError, ValueError) as error:
        raise ConfigError(f"it cannot be taken apart into Keras's own layers: {_first_line(error)}") from error
    if len(made.weights) != len(model.weights):
        raise ConfigError("it has weights outside Keras's own layers, which cannot be taken apart")
    return made


def nests_models(model: keras.Model) -> bool:
    """Whether a layer of the model is a model itself."""
    import keras

    return any(isinstance(one, keras.Model) for one in model.operations)


def _nested(operation: Any) -> bool:
    import keras

    return type(operation).__module__.split(".")[0] != "keras" or isinstance(operation, keras.Model)


def _called(layer: Any, *inputs: Any, **arguments: Any) -> Any:
    if not _nested(layer):
        return layer(*inputs, **arguments)
    return layer.call(*inputs, **{key: value for key, value in arguments.items() if value is not None})


def _calls_once() -> Callable[..., Any]:
    """Calls a layer; one without weights, an activation say, that was called before gives a copy of itself for it."""
    names: set[str] = set()

    def call(layer: Any, *inputs: Any, **arguments: Any) -> Any:
        import keras

        if layer.name in names and isinstance(layer, keras.Layer) and not layer.weights:
            config, count = layer.get_config(), 2
            while f"{layer.name}_{count}" in names:
                count += 1
            layer = type(layer).from_config(config | {"name": f"{layer.name}_{count}"})
        names.add(layer.name)
        return layer(*inputs, **arguments)

    return call


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
