"""A converter that fails: one error that names its format, and nothing published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.core.errors import EnvironmentFault
from stages.store import exported, models, outputs

EXAMPLES = np.zeros((1, 8, 8, 3), np.uint8)


class Model:
    """What a converter is given, and stumbles over."""

    input_shape = (None, 8, 8, 3)

    def export(self, path: Any, **_: Any) -> None:
        Path(path).parent.mkdir(exist_ok=True)
        Path(path).write_bytes(b"half a model")
        raise NotImplementedError("op\nGelu is missing")

    def count_params(self) -> int:
        return 8

    def save(self, path: Any, **_: Any) -> None:
        self.export(path)


@pytest.mark.parametrize("format_", ["openvino", "litert", "keras"])
@pytest.mark.parametrize("before", [b"", b"the model before"], ids=["nothing before", "an older model"])
def test_a_converter_that_fails_publishes_nothing(
    format_: str, before: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    out = Path("data/export")
    if before:
        out.mkdir(parents=True)
        (out / "model.keras").write_bytes(before)
    model: Any = Model()
    with pytest.raises(EnvironmentFault) as caught, outputs.replacing(out) as (partial,):
        exported.write(format_, model, ["a", "b"], partial, EXAMPLES)
    assert caught.value.exit_code == 5
    said = str(caught.value)
    assert f"export.formats: {format_!r} cannot be written, its converter failed (op Gelu is missing)" in said
    assert "nothing was published" in said
    left = {path.as_posix(): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert left == ({(tmp_path / out / "model.keras").as_posix(): before} if before else {})


def test_a_fault_of_the_disk_stays_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(models, "save", full)
    model: Any = Model()
    with pytest.raises(OSError, match="No space left"):
        exported.write("keras", model, ["a", "b"], tmp_path, EXAMPLES)
