"""Variables of another model: told by name or by order, never by half."""

from __future__ import annotations

import pytest

from stages.core.borrowed_weights import Variable, counted, places
from stages.core.errors import ConfigError

BASE = [
    Variable("stem", "kernel", (3, 3, 3, 8)),
    Variable("bn", "gamma", (8,)),
    Variable("bn", "beta", (8,)),
    Variable("bn", "moving_mean", (8,)),
    Variable("deep", "kernel", (3, 3, 8, 1)),
]
HEAD = [Variable("head", "kernel", (8, 2)), Variable("head", "bias", (2,))]


def renamed(variables: list[Variable], **layers: str) -> list[Variable]:
    return [one._replace(layer=layers.get(one.layer, f"{one.layer}_7")) for one in variables]


def test_names_decide_wherever_they_stand() -> None:
    found = [*HEAD, *BASE[::-1]]
    assert [found[number] for number in places(BASE, found)] == BASE
    assert places(BASE, [*BASE[:-1], Variable("deep", "depthwise_kernel", (3, 3, 8, 1))]) == [0, 1, 2, 3, 4]


def test_numbered_names_are_taken_in_order_whatever_the_order_inside_a_layer() -> None:
    found = [*HEAD, *renamed([BASE[0], BASE[3], BASE[1], BASE[2], BASE[4]]), *HEAD]
    assert [found[number][1:] for number in places(BASE, found)] == [one[1:] for one in BASE]
    with pytest.raises(ConfigError, match="holds 2 runs of variables that fit"):
        places(BASE, renamed(BASE) + renamed(BASE, stem="other"))


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ([BASE[0]._replace(shape=(3, 3, 3, 16)), *BASE[1:]],
         r"stem/kernel \[3, 3, 3, 8\] is wanted, but it holds stem/kernel \[3, 3, 3, 16\]"),
        (renamed(BASE[:-1]), r"deep/kernel \[3, 3, 8, 1\] is wanted, but it ends there, number 5 of 5"),
        (renamed([*BASE[:3], *HEAD]), r"bn/moving_mean \[8\] is wanted, but it holds head_7/bias \[2\] there"),
        ([], r"stem/kernel \[3, 3, 3, 8\] is wanted, but it ends there"),
    ],
)  # fmt: skip
def test_the_first_that_does_not_fit_is_named(found: list[Variable], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        places(BASE, found)


def test_keys_are_counted_not_spelled() -> None:
    keys = ["layer_with_weights-10/kernel", "layer_with_weights-2/kernel", "variables/3", "variables/20"]
    assert sorted([keys[2], keys[0], keys[3], keys[1]], key=counted) == [keys[1], keys[0], keys[2], keys[3]]
