"""The base of every stage's parameter model, and how a wrong value is described."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError


class StageParams(BaseModel):
    """Parameters of one stage: frozen, strictly typed, no unknown keys, no NaN.

    A subclass lives in its stage's module (DVC hashes whole files, so a shared one would re-run
    every stage for one new knob). Each field has a default and a description with its unit.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)

    def across(self, blocks: Mapping[str, StageParams]) -> Iterator[Problem]:
        """Rules between this block and others, checked once every block is valid by itself.

        `blocks` maps stage name to its parameters. Yields a Problem per broken rule.
        """
        yield from ()


@dataclass(frozen=True)
class Problem:
    """One thing wrong with params.yaml. `key` is dotted, e.g. `fine_tune.head_learning_rate`."""

    key: str
    message: str


MOST_SHOWN = 200  # characters of a value in a message

_MEMBERS = ("int", "float", "bool", "str")  # what pydantic calls the members of a union


def check_block(name: str, params_type: type[StageParams], values: Any) -> StageParams | list[Problem]:
    """Parse one block of params.yaml; every problem in it at once instead of the first."""
    if not isinstance(values, dict):
        return [Problem(name, f"received {shown(values)}; must be a mapping of parameters")]
    try:
        return params_type.model_validate(values)
    except ValidationError as error:
        schema = params_type.model_json_schema()
        found = [_problem(name, schema, dict(detail)) for detail in error.errors(include_url=False)]
        return list(dict.fromkeys(found))  # of a union there is one for each member


def shown(value: Any) -> str:
    """A value for a message: as Python writes it, cut where it is long."""
    text = repr(value)
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}… ({len(text):,} characters)"


def unknown_key(key: str, legal: list[str]) -> Problem:
    """A key nothing reads, with the nearest legal one where there is one."""
    last = key.rsplit(".", 1)[-1]
    near = difflib.get_close_matches(last, legal, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else f"; legal keys: {', '.join(legal)}"
    return Problem(key, f"unknown key{hint}")


def _problem(block: str, schema: dict[str, Any], detail: dict[str, Any]) -> Problem:
    detail = {**detail, "loc": _in_file(schema, detail["loc"])}
    key = ".".join([block, *(str(part) for part in detail["loc"])])
    if detail["type"] == "extra_forbidden":
        parent = _schema_at(schema, detail["loc"][:-1])
        return unknown_key(key, sorted(parent.get("properties", {})))
    if detail["type"] == "missing":
        return Problem(key, "missing; this parameter has no default")
    if detail["type"] == "value_error":
        return Problem(key, str(detail["ctx"]["error"]))
    received = detail["input"]
    legal = _legal(schema, _schema_at(schema, detail["loc"]))
    return Problem(key, f"received {shown(received)} ({type(received).__name__}); must be {legal}")


def _in_file(schema: dict[str, Any], loc: tuple[Any, ...]) -> tuple[Any, ...]:
    """`loc` as params.yaml has it: behind a union's key pydantic puts the name of the member that did not fit."""
    for at in range(len(loc)):
        if len(_schema_at(schema, loc[:at]).get("anyOf", [])) > 1 and loc[at] in _MEMBERS:
            return loc[:at]
    return loc


def _schema_at(schema: dict[str, Any], loc: tuple[Any, ...]) -> dict[str, Any]:
    """The part of a JSON schema that describes the value at `loc`; {} where it cannot be told."""
    here = schema
    for part in loc:
        here = _resolve(schema, here)
        if isinstance(part, int):
            members = [here, *here.get("anyOf", [])]  # of what may be null, too, the list is looked into
            here = next((one["items"] for one in members if "items" in one), {})
        else:
            here = here.get("properties", {}).get(part) or here.get("additionalProperties") or {}
        if not isinstance(here, dict):
            return {}
    return _resolve(schema, here)


def _resolve(root: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in part:
        part = root["$defs"][part["$ref"].rsplit("/", 1)[-1]]
    return part


def _legal(root: dict[str, Any], part: dict[str, Any]) -> str:
    """A JSON schema fragment in words: 'an integer >= 1 and <= 64'."""
    part = _resolve(root, part)
    if "anyOf" in part:
        options = [_legal(root, option) for option in part["anyOf"]]
        if "a number" in options and "an integer" in options:
            options.remove("an integer")
        return " or ".join(options)
    if "const" in part:
        return repr(part["const"])
    if "enum" in part:
        return "one of " + ", ".join(repr(value) for value in part["enum"])
    names = {
        "integer": "an integer", "number": "a number", "string": "a text", "boolean": "true or false",
        "array": "a list", "object": "a mapping", "null": "null",
    }  # fmt: skip
    words = names.get(str(part.get("type")), "a legal value")
    if part.get("type") == "array":
        words += f" of {_legal(root, part.get('items', {}))}"
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<",
             "minItems": "with length >=", "maxItems": "with length <=",
             "minLength": "with length >=", "maxLength": "with length <=", "pattern": "matching"}  # fmt: skip
    bounds = [f"{sign} {part[name]}" for name, sign in signs.items() if name in part]
    return " ".join([words, " and ".join(bounds)]).strip()
