"""The files that people review in git: decisions about single images, and what data was last accepted."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from stages.core import profile, review
from stages.core.errors import ConfigError
from stages.core.feature_sketch import DIMENSIONS
from stages.core.review import Decision

DECISIONS = "decisions.csv"
ACCEPTED = "accepted.json"


def decisions(folder: Path) -> list[Decision]:
    """The lines of decisions.csv; none where there is no such file. Raises ConfigError where it is wrong."""
    path = folder / DECISIONS
    if not path.exists():
        return []
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: byte {error.start} is no UTF-8; save the file as UTF-8") from error
    return review.parse(text, str(path))


def accepted(folder: Path) -> dict[str, Any] | None:
    """{"profile", "classes", "rules", "features"} as `accept` wrote it, or None. Raises ConfigError."""
    path = folder / ACCEPTED
    if not path.exists():
        return None
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(value, dict) or set(value) != {"profile", "classes", "rules", "features"}:
            raise ValueError("must hold profile, classes, rules and features")
        if not isinstance(value["classes"], list) or not all(isinstance(label, str) for label in value["classes"]):
            raise ValueError(f"classes is {value['classes']!r}, must be a list of names")
        if not isinstance(value["rules"], dict) or not _is_sketch(value["features"]):
            raise ValueError("rules must map names to numbers, and features be null or hold trunk and of")
        for rule, failing in value["rules"].items():
            if not isinstance(failing, int) or isinstance(failing, bool) or failing < 0:
                raise ValueError(f"rules.{rule} is {failing!r}, must be a whole number from 0")
        return {**value, "profile": profile.read(value["profile"])}
    except ValueError as error:
        raise ConfigError(
            f"{path}: {error}. Undo the edit; or delete the file, run `dvc repro validate` and then `graft accept`"
        ) from error


def accept(
    folder: Path, current: dict[str, Any], classes: list[str], results: dict[str, Any], features: dict[str, Any] | None
) -> Path:
    """Write accepted.json: the profile and classes of data that a person blesses, how many rows failed each rule,
    and, where there are any, a sketch of the features (`feature_sketches.read`)."""
    value = {
        "profile": current,
        "classes": classes,
        "rules": {rule["id"]: rule["failing"] for rule in results["rules"]},
        "features": features,
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ACCEPTED
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(_lines(value) + "\n", encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)  # where the disk was full
    return path


def _is_sketch(value: Any) -> bool:
    if value is None:
        return True
    if not isinstance(value, dict) or set(value) != {"trunk", "of"} or not isinstance(value["of"], dict):
        return False
    return all(
        isinstance(row, list) and len(row) == DIMENSIONS and all(map(_is_number, row)) for row in value["of"].values()
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _lines(value: Any) -> str:
    """JSON with a line per entry of a mapping and none within lists: short, and its differences can be read."""
    if isinstance(value, dict) and value:
        entries = (f"{json.dumps(key, ensure_ascii=False)}: {_lines(value[key])}" for key in sorted(value))
        return "{\n" + ",\n".join(entries) + "\n}"
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
