"""Reads params.yaml: the whole file is checked before any stage starts work, every problem at once."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, TypeVar

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import MappingNode, Node

from stages.core.errors import ConfigError
from stages.core.parameters import Problem, StageParams, check_block, unknown_key

PARAMS = Path("params.yaml")
STAGES = ("download", "validate", "split", "feature_extract", "fine_tune", "evaluate", "export")
# A params file is a page of settings. These bounds stop a bomb before it is expanded.
MAX_BYTES = 64 * 1024
MAX_ALIASES = 32
MAX_DEPTH = 6

P = TypeVar("P", bound=StageParams)


def read(params_type: type[P], path: Path = PARAMS) -> P:
    """The checked parameters of the stage whose module holds `params_type`.

    Raises ConfigError naming every problem in the file, in any stage's block: a wrong rate in
    fine_tune must stop download already, not surface an hour later.
    """
    blocks = read_all(path)
    for params in blocks.values():
        # By name: run as `python -m stages.split`, the module exists twice, as itself and as __main__.
        if type(params).__name__ == params_type.__name__:
            return params_type.model_validate(params.model_dump())
    raise ConfigError(f"{params_type.__name__} is no stage's parameter model; legal: {', '.join(STAGES)}")


def read_alone(stage: str, path: Path = PARAMS) -> StageParams:
    """The checked parameters of one stage, for what is no stage and must start fast: no other block is looked at.

    Raises ConfigError naming every problem in the block.
    """
    values, lines = _load(path)
    checked = check_block(stage, params_type_of(stage), values.get(stage))
    problems = checked if isinstance(checked, list) else []
    if problems:
        raise ConfigError(_message(path, problems, lines))
    assert isinstance(checked, StageParams)
    return checked


def read_all(path: Path = PARAMS) -> dict[str, StageParams]:
    """Every stage's checked parameters, by stage name. Raises ConfigError."""
    values, lines = _load(path)
    blocks: dict[str, StageParams] = {}
    problems = [unknown_key(str(key), list(STAGES)) for key in values if key not in STAGES]
    for stage in STAGES:
        if stage not in values:
            problems.append(Problem(stage, "missing block; `{}` takes every default"))
            continue
        checked = check_block(stage, params_type_of(stage), values[stage])
        if isinstance(checked, list):
            problems += checked
        else:
            blocks[stage] = checked
    if not problems:
        problems = [problem for params in blocks.values() for problem in params.across(blocks)]
    if problems:
        raise ConfigError(_message(path, problems, lines))
    return blocks


def params_type_of(stage: str) -> type[StageParams]:
    """The parameter model of a stage.

    Imported by name at run time on purpose: what other stages' models look like decides only
    whether a run is refused, never what it writes, so it is no dependency of this stage.
    """
    module = importlib.import_module(f"stages.{stage}")
    params_type = getattr(module, "".join(word.title() for word in stage.split("_")) + "Params")
    assert isinstance(params_type, type)
    assert issubclass(params_type, StageParams)
    return params_type


def _load(path: Path) -> tuple[dict[Any, Any], dict[str, int]]:
    """The plain values, and the line (from 1) of every dotted key."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(f"{path}: not found; copy one from recipes/, e.g. cp recipes/digits.yaml {path}") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); must be a YAML file") from None
    if len(raw) > MAX_BYTES:
        raise ConfigError(f"{path}: {len(raw)} bytes; a params file has at most {MAX_BYTES}")
    try:
        text = raw.decode("utf-8")
        # The parser and version of YAML that DVC itself uses: both must read the same values.
        yaml = YAML(typ="safe", pure=True)
        aliases = sum(type(event).__name__ == "AliasEvent" for event in yaml.parse(text))
        if aliases > MAX_ALIASES:
            raise ConfigError(f"{path}: {aliases} aliases (*name); at most {MAX_ALIASES} are allowed")
        lines: dict[str, int] = {}
        _collect_lines(YAML(typ="safe", pure=True).compose(text), "", lines)
        values = YAML(typ="safe", pure=True).load(text)
    except (YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        kind = type(values).__name__
        raise ConfigError(f"{path}: holds {kind}; must be a mapping with the blocks {', '.join(STAGES)}")
    return values, lines


def _collect_lines(node: Node | None, prefix: str, lines: dict[str, int]) -> None:
    if not isinstance(node, MappingNode) or prefix.count(".") > MAX_DEPTH:  # an alias may point at its own parent
        return
    for key, value in node.value:
        dotted = f"{prefix}{key.value}"
        lines[dotted] = key.start_mark.line + 1
        _collect_lines(value, f"{dotted}.", lines)


def _message(path: Path, problems: list[Problem], lines: dict[str, int]) -> str:
    noun = "problem" if len(problems) == 1 else "problems"
    rows = []
    for problem in problems:
        line = lines.get(problem.key)
        rows.append(f"  {f'line {line}: ' if line else ''}{problem.key}: {problem.message}")
    return "\n".join([f"{path}: {len(problems)} {noun}; no stage was started", *rows])
