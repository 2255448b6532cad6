"""The catalogue of pretrained bases, and the ways to name one of a base's layers. Needs no Keras.

Parameters are checked against it before any stage starts, and importing TensorFlow for that would cost every stage
seconds; tests/core/test_backbones.py compares it with what Keras builds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

from stages.core.errors import ConfigError

# How pixels of 0-255 enter a base. `tf`, `caffe` and `torch` are the modes of Keras's imagenet_utils.preprocess_input:
# to [-1, 1]; BGR less ImageNet's mean; RGB less its mean, by its deviation. `inside`: the base's first layers do it.
Preprocessing = Literal["tf", "caffe", "torch", "inside"]
# An index from 0; a negative count from the top; a share of the layers, from the bottom; a layer's name.
Layer = int | float | str


@dataclass(frozen=True)
class Backbone:
    """An architecture of Keras Applications, as built without its top."""

    layers: int
    preprocessing: Preprocessing
    normalization: Literal["BatchNormalization", "LayerNormalization"] = "BatchNormalization"
    alphas: tuple[float, ...] = ()  # width multipliers that ImageNet weights are published for; () has none
    least_side: int = 32  # pixels
    imagenet_side: int | None = None  # pixels, where Keras offers ImageNet weights for one size alone
    channels_first: bool = True  # whether it can be built so, as OpenVINO likes it


CATALOGUE = {
    "MobileNet": Backbone(86, "tf", alphas=(0.25, 0.5, 0.75, 1.0)),
    "MobileNetV2": Backbone(154, "tf", alphas=(0.35, 0.5, 0.75, 1.0, 1.3, 1.4)),
    "MobileNetV3Small": Backbone(157, "inside", alphas=(0.75, 1.0)),
    "MobileNetV3Large": Backbone(187, "inside", alphas=(0.75, 1.0)),
    "ResNet50": Backbone(175, "caffe"),
    "ResNet101": Backbone(345, "caffe"),
    "ResNet50V2": Backbone(190, "tf"),
    "ResNet101V2": Backbone(377, "tf"),
    "EfficientNetB0": Backbone(237, "inside"),
    "EfficientNetB1": Backbone(339, "inside"),
    "EfficientNetB2": Backbone(339, "inside"),
    "EfficientNetB3": Backbone(384, "inside"),
    "EfficientNetB4": Backbone(474, "inside"),
    "EfficientNetB5": Backbone(576, "inside"),
    "EfficientNetB6": Backbone(666, "inside"),
    "EfficientNetB7": Backbone(813, "inside"),
    "EfficientNetV2B0": Backbone(270, "inside"),
    "EfficientNetV2B1": Backbone(334, "inside"),
    "EfficientNetV2B2": Backbone(349, "inside"),
    "EfficientNetV2B3": Backbone(409, "inside"),
    "EfficientNetV2S": Backbone(513, "inside"),
    "EfficientNetV2M": Backbone(740, "inside"),
    "EfficientNetV2L": Backbone(1028, "inside"),
    "InceptionV3": Backbone(311, "tf", least_side=75),
    "Xception": Backbone(132, "tf", least_side=71),
    "DenseNet121": Backbone(427, "torch", channels_first=False),
    "DenseNet169": Backbone(595, "torch", channels_first=False),
    "DenseNet201": Backbone(707, "torch", channels_first=False),
    # Keras builds ConvNeXt channels first without a word, and normalizes along the wrong axis.
    "ConvNeXtTiny": Backbone(133, "inside", "LayerNormalization", channels_first=False),
    "ConvNeXtSmall": Backbone(259, "inside", "LayerNormalization", channels_first=False),
    "ConvNeXtBase": Backbone(259, "inside", "LayerNormalization", channels_first=False),
    "ConvNeXtLarge": Backbone(259, "inside", "LayerNormalization", channels_first=False),
    "ConvNeXtXLarge": Backbone(259, "inside", "LayerNormalization", channels_first=False),
    "NASNetMobile": Backbone(769, "tf", imagenet_side=224),
    "NASNetLarge": Backbone(1039, "tf", imagenet_side=331),
}
LOCAL = ".keras"  # how the path of a base that is not in the catalogue ends
PRESET = "preset:"  # how a preset of KerasHub begins; its name or folder follows


def is_local(backbone: str) -> bool:
    """Whether it is a base that is not in the catalogue: the path of a Keras file, or a preset of KerasHub."""
    return backbone.endswith(LOCAL) or is_preset(backbone)


def is_preset(backbone: str) -> bool:
    """Whether it is a preset of KerasHub."""
    return backbone.startswith(PRESET)


def layer_number(layer: Layer, layers: int, names: Sequence[str] | None = None) -> int | None:
    """Index 0 … `layers` of the layer meant; `layers` itself stands behind the last. None for a name without `names`.

    Raises ConfigError where there is no such layer.
    """
    if isinstance(layer, str):
        if names is None:
            return None
        if layer not in names:
            near = ", ".join(get_close_matches(layer, names, 3, 0.4)) or f"{names[0]} to {names[-1]}"
            raise ConfigError(f"received {layer!r}; the base has no such layer. Near it: {near} (graft backbones)")
        return list(names).index(layer)
    if isinstance(layer, float):
        if not 0.0 <= layer <= 1.0:
            raise ConfigError(f"received {layer:g}; a share of the layers must be 0.0 to 1.0")
        return round(layer * layers)
    if not -layers <= layer <= layers:
        raise ConfigError(f"received {layer}; the base has {layers} layers, so it must be {-layers} to {layers}")
    return layer % layers if layer < 0 else layer
