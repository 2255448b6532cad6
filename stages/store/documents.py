"""Small JSON files, written so that the same values give the same bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from stages.core.errors import IntegrityError


def write(path: Path, value: Any) -> None:
    """Write indented UTF-8 JSON with sorted keys and a final newline; NaN is refused."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def read(path: Path) -> Any:
    """The value of a JSON file. Raises IntegrityError where it is missing or unreadable."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise IntegrityError(f"{path}: not readable ({error}); run dvc repro to rebuild it") from error


def read_classes(path: Path) -> list[str]:
    """The label map that validate wrote. Raises IntegrityError where it is none."""
    value = read(path)
    if not isinstance(value, dict) or not isinstance(value.get("classes"), list):
        raise IntegrityError(f"{path}: holds no list of classes; run dvc repro to rebuild it")
    return [str(label) for label in value["classes"]]
