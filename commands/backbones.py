"""graft backbones: the pretrained bases there are, and where one may be cut."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from stages.core import catalogue
from stages.core.errors import ConfigError


def backbones(
    name: Annotated[
        str | None, typer.Argument(help="One of them, or preset:FOLDER: its layers that the trunk can end at.")
    ] = None,
    image_size: Annotated[int, typer.Option(help="Side in pixels that shapes are told for.")] = 224,
    alpha: Annotated[float, typer.Option(help="Width multiplier.")] = 1.0,
) -> None:
    """List the bases that `feature_extract.backbone` may name, or one's layers to fine-tune from.

    A trunk ends at a layer whose output alone feeds all later ones; `fine_tune_at` at the layer after it stores most.
    """
    if name is None:
        _catalogue()
        return
    if name not in catalogue.CATALOGUE and not catalogue.is_preset(name):
        raise ConfigError(f"received {name!r}; must be one of {', '.join(catalogue.CATALOGUE)}, or preset:…")
    from stages.store import tensorflow_runtime

    tensorflow_runtime.start(threads=2, seed=0)
    from stages.core import backbones as bases

    pin = ""
    if catalogue.is_preset(name):
        base, pin = _of_preset(name, image_size)
    else:
        base = bases.build(name, image_size, alpha)
    number = {one.name: at for at, one in enumerate(base.layers)}
    table = Table("fine_tune_at", "layer", "the trunk ends at", "activations", "trained above", box=None)
    costs = bases.multiplications(base)
    for cut in bases.cuts(base)[:-1]:
        first = next(one for one in base.operations[cut + 1 :] if one.name in number)
        shape = " x ".join(str(side) for side in base.operations[cut].output.shape[1:])
        share = bases.multiplications(base, cut + 1) / costs
        table.add_row(str(number[first.name]), first.name, base.operations[cut].name, shape, f"{share:.0%}")
    _print(table)
    sys.stdout.write(f"{name}: {len(base.layers)} layers; trained above: of the multiplications of one picture\n{pin}")


def _of_preset(name: str, image_size: int) -> tuple[Any, str]:
    """The base, and a line with what pins it."""
    from stages.store import hub_presets, pretrained

    if why := hub_presets.missing():
        raise ConfigError(f"received {name!r}; {why}")
    preset = hub_presets.find(name)
    # How pixels enter one without a converter changes no layer.
    own: catalogue.Preprocessing | None = None if preset.converter() else "inside"
    return pretrained.preset_base(preset, image_size, own), f"weights_sha256: {preset.digest}\n"


def _catalogue() -> None:
    table = Table("backbone", "layers", "preprocessing", "normalization", "alpha", "least side", box=None)
    for name, entry in catalogue.CATALOGUE.items():
        alphas = ", ".join(f"{alpha:g}" for alpha in entry.alphas) or "1"
        table.add_row(name, str(entry.layers), entry.preprocessing, entry.normalization, alphas, str(entry.least_side))
    _print(table)


def _print(table: Table) -> None:
    # Wide enough for every name where the output is no terminal.
    Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 160).print(table)
