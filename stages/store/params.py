"""Reads params.yaml: the whole file is checked before any stage starts work, every problem at once."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent
from ruamel.yaml.nodes import CollectionNode, MappingNode, Node

from stages.core.errors import ConfigError
from stages.core.parameters import Problem, StageParams, check_block, unknown_key

PARAMS = Path("params.yaml")
STAGES = ("download", "validate", "split", "feature_extract", "fine_tune", "evaluate", "export")
# A params file is a page of settings. These bounds stop a bomb before it is expanded.
MAX_BYTES = 64 * 1024
MAX_ALIASES = 32
MAX_DEPTH = 16
MAX_VALUES = 10_000  # with every alias written out
MAX_BITS = 64  # of an integer
MAX_PROBLEMS = 100  # that are listed

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
        _check_events(path, text)
        root = YAML(typ="safe", pure=True).compose(text)
        if root is not None and _written_out(path, root, {}) > MAX_VALUES:
            raise ConfigError(f"{path}: more than {MAX_VALUES:,} values, aliases written out; it is a page of settings")
        lines: dict[str, int] = {}
        _collect_lines(root, "", lines)
        values = YAML(typ="safe", pure=True).load(text)
    except (YAMLError, ValueError, RecursionError, AssertionError) as error:  # the last of `%YAML 1.0`
        raise ConfigError(_printable(f"{path}: not readable as YAML: {' '.join(str(error).split())}")) from None
    if not isinstance(values, dict):
        kind = type(values).__name__
        raise ConfigError(f"{path}: holds {kind}; must be a mapping with the blocks {', '.join(STAGES)}")
    if problems := list(_unusable(values, "")):
        raise ConfigError(_printable(_message(path, problems, lines)))
    return values, lines


def _check_events(path: Path, text: str) -> None:
    """Refuse what a page of settings never has, before anything is built of it: tags, many aliases, deep nesting.

    The parser is asked for one event after the other, for what lies deep takes it seconds.
    """
    aliases = depth = 0
    for event in YAML(typ="safe", pure=True).parse(text):
        line = event.start_mark.line + 1
        aliases += isinstance(event, AliasEvent)
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        if aliases > MAX_ALIASES:
            raise ConfigError(f"{path}: line {line}: more than {MAX_ALIASES} aliases (*name), the most allowed")
        if depth > MAX_DEPTH:
            raise ConfigError(f"{path}: line {line}: nested deeper than {MAX_DEPTH}; values lie in blocks of stages")
        tag = getattr(event, "tag", None)
        if tag is not None:
            raise ConfigError(f"{path}: line {line}: received the tag {tag!r}; values have no tags (!, !!)")


def _written_out(path: Path, node: Node, known: dict[int, int | None]) -> int:
    """How many values a node holds, itself included and every alias written out."""
    if not isinstance(node, CollectionNode):
        return 1
    if id(node) not in known:
        known[id(node)] = None  # until it is counted
        inner = [part for entry in node.value for part in (entry if isinstance(node, MappingNode) else (entry,))]
        known[id(node)] = 1 + sum(_written_out(path, part, known) for part in inner)
    count = known[id(node)]
    if count is None:
        raise ConfigError(f"{path}: line {node.start_mark.line + 1}: an alias (*name) stands inside what it names")
    return count


def _unusable(value: Any, key: str) -> Iterator[Problem]:
    """Values that YAML can say and no file that graft writes can hold."""
    if isinstance(value, dict | list):
        for name, part in value.items() if isinstance(value, dict) else enumerate(value):
            dotted = f"{key}.{name}" if key else f"{name}"
            yield from _unusable(name, dotted) if isinstance(value, dict) else ()
            yield from _unusable(part, dotted)
    elif isinstance(value, int) and value.bit_length() > MAX_BITS:
        yield Problem(key, f"received an integer of {value.bit_length():,} bits; at most {MAX_BITS}")
    elif isinstance(value, str) and not _is_unicode(value):
        yield Problem(key, "received half of a surrogate pair; must be Unicode")


def _printable(message: str) -> str:
    """Keys are repeated as they are; half of a surrogate pair in one is nothing that a terminal or log takes."""
    return message.encode("utf-8", "backslashreplace").decode()


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _collect_lines(node: Node | None, prefix: str, lines: dict[str, int]) -> None:
    if not isinstance(node, MappingNode):
        return
    for key, value in node.value:
        dotted = f"{prefix}{key.value}"
        lines[dotted] = key.start_mark.line + 1
        _collect_lines(value, f"{dotted}.", lines)


def _message(path: Path, problems: list[Problem], lines: dict[str, int]) -> str:
    noun = "problem" if len(problems) == 1 else "problems"
    rows = []
    for problem in problems[:MAX_PROBLEMS]:
        line = lines.get(problem.key)
        rows.append(f"  {f'line {line}: ' if line else ''}{problem.key}: {problem.message}")
    if len(problems) > MAX_PROBLEMS:
        rows.append(f"  and {len(problems) - MAX_PROBLEMS:,} more")
    return "\n".join([f"{path}: {len(problems)} {noun}; no stage was started", *rows])
