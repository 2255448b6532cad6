"""Which numbers a network computes in: float32, or half of their bits where the device gains.

Mixed precision (Micikevicius et al., "Mixed Precision Training", ICLR 2018): weights, their gradients' sums, losses and
BatchNormalization's statistics stay float32, what layers compute is half as wide. float16 has too few exponents for
small gradients, so its loss is scaled (see training.optimizer); bfloat16 has float32's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import keras

Precision = Literal["auto", "float32", "mixed_bfloat16", "mixed_float16"]
Policy = Literal["float32", "mixed_bfloat16", "mixed_float16"]
# Compute capability from which a GPU's matrix units take each (NVIDIA's CUDA guide, "Compute Capabilities").
BFLOAT16, FLOAT16 = (8, 0), (7, 0)
ON_PIXELS = ("Rescaling", "Normalization")  # layers of a base that see pixels: cheap, and 0-255 asks for more bits


def chosen(asked: Precision, capabilities: Sequence[tuple[int, int] | None]) -> Policy:
    """Keras's name of the policy: what was asked for; for auto what every GPU of these compute capabilities gains by.

    Without a GPU, or with one of unknown capability, auto is float32.
    """
    if asked != "auto":
        return asked
    known = [one for one in capabilities if one is not None]
    if not known or len(known) < len(capabilities):
        return "float32"
    return "mixed_bfloat16" if min(known) >= BFLOAT16 else "mixed_float16" if min(known) >= FLOAT16 else "float32"


@contextmanager
def computing(base: keras.Model, policy: Policy) -> Iterator[None]:
    """Let a float32 base's layers compute by `policy` in models that are built of them inside; float32 again after.

    Weights are the same float32 variables throughout. Around the base, the mean over places and the head stay float32.
    """
    if policy == "float32":
        yield
        return
    layers = [layer for layer in base._flatten_layers(include_self=False) if type(layer).__name__ not in ON_PIXELS]
    try:
        for layer in layers:
            layer.dtype_policy = policy
        yield
    finally:
        for layer in layers:
            layer.dtype_policy = "float32"
