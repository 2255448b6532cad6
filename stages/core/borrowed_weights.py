"""Which variables of another model fill a base: by their layers' names, else by their order. Every shape must fit."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

from stages.core.errors import ConfigError

# Keras 2 calls the kernel of a depthwise convolution so, Keras 3 a kernel like any other.
RENAMED = {"depthwise_kernel": "kernel"}


class Variable(NamedTuple):
    """A variable of a model: its layer's name, its own (kernel, gamma …) and its shape."""

    layer: str
    name: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.layer}/{self.name} {list(self.shape)}"


def places(wanted: Sequence[Variable], found: Sequence[Variable]) -> list[int]:
    """For each wanted variable the number of the found one that fills it; the others, a head's, are left over.

    Names decide where each wanted one is found once. Names that Keras counted up (conv2d_17) say nothing: then the
    wanted ones must lie together among the found ones, in their order, with their own names and shapes, at one place
    alone. Raises ConfigError naming the first variable that does not fit.
    """
    named: dict[tuple[str, str], list[int]] = {}
    for number, one in enumerate(found):
        named.setdefault((one.layer, _name(one)), []).append(number)
    by_name = [named.get((one.layer, _name(one)), []) for one in wanted]
    if all(len(numbers) == 1 for numbers in by_name):
        chosen = [numbers[0] for numbers in by_name]
        for one, number in zip(wanted, chosen, strict=True):
            if one.shape != found[number].shape:
                raise ConfigError(f"{one} is wanted, but it holds {found[number]}")
        return chosen
    return _in_order(wanted, found)


def _in_order(wanted: Sequence[Variable], found: Sequence[Variable]) -> list[int]:
    asked, had = _sorted(wanted), _sorted(found)
    kinds = [(_name(wanted[number]), wanted[number].shape) for number in asked]
    held = [(_name(found[number]), found[number].shape) for number in had]
    lengths = {
        start: next((at for at, (one, other) in enumerate(zip(kinds, held[start:], strict=False)) if one != other),
                    min(len(kinds), len(held) - start))
        for start in range(len(held))
    }  # fmt: skip
    starts = [start for start, length in lengths.items() if length == len(kinds)]
    if len(starts) > 1:
        raise ConfigError(f"it holds {len(starts)} runs of variables that fit; which one is meant cannot be told")
    if not starts:
        start, length = max(lengths.items(), key=lambda item: item[1], default=(0, 0))
        other = f"it holds {found[had[start + length]]}" if start + length < len(had) else "it ends"
        raise ConfigError(f"{wanted[asked[length]]} is wanted, but {other} there, number {length + 1} of {len(kinds)}")
    places = [0] * len(wanted)
    for at, number in enumerate(asked):
        places[number] = had[starts[0] + at]
    return places


def _sorted(variables: Sequence[Variable]) -> list[int]:
    """Numbers of the variables in their order, but within a layer by name: formats differ in that."""
    numbered = groupby(range(len(variables)), key=lambda number: variables[number].layer)
    return [number for _, layer in numbered for number in sorted(layer, key=lambda one: _name(variables[one]))]


def _name(variable: Variable) -> str:
    return RENAMED.get(variable.name, variable.name)


def counted(key: str) -> list[tuple[int, int | str]]:
    """A key by which layer_with_weights-2 comes before layer_with_weights-10."""
    return [(1, int(part)) if part.isdigit() else (0, part) for part in re.split(r"(\d+)", key)]
