"""A converter that fails: one error that names its format, and nothing published."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages import export
from stages.core.errors import EnvironmentFault
from stages.store import conversion, documents, exported, models, outputs
from tests import exportable

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


GELU = """
import keras, tensorflow
from pathlib import Path
exported = keras.Model.export
def fail(self, path, format=None, **how):
    if format == "litert":
        Path(path).write_bytes(b"half a model")
        raise tensorflow.errors.UnimplementedError(None, None, "Gelu has no kernel\\nin this build")
    return exported(self, path, format=format, **how)
keras.Model.export = fail
"""


def numbered_anew(path: Path) -> str:
    """An OpenVINO model's text with the numbers at the end of names counted from 0 in their order."""
    numbers: dict[str, int] = {}
    return re.sub(r'(?<=_)\d+(?=")', lambda found: str(numbers.setdefault(found[0], len(numbers))), path.read_text())


def test_real_converters_and_runtimes_beside_one_that_fails(
    project: Path, tensorflow: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    inserted = f"from stages.store import tensorflow_runtime; tensorflow_runtime.start(2, 0); exec({GELU!r}); "
    monkeypatch.setattr(conversion, "CHILD", conversion.CHILD.replace("from stages", f"{inserted}from stages"))
    exportable.choose(project, {"formats": ["litert", "openvino"], "optional": ["litert", "openvino"]})
    assert export.main().startswith("saved_model, openvino, litert not published, ")
    found = documents.read(project / "data/export/certificate.json")
    assert (found["saved_model"]["agreement"], found["openvino"]["agreement"]) == (1.0, 1.0)
    assert found["litert"]["why"] == "cannot be written, its converter failed (Gelu has no kernel in this build)"
    assert exportable.published(project) == [
        "MODEL_CARD.md", "certificate.json", "labels.txt", "openvino", "openvino/model.bin", "openvino/model.xml",
        "saved_model", "saved_model/assets", "saved_model/saved_model.pb", "saved_model/variables",
        "saved_model/variables/variables.data-00000-of-00001", "saved_model/variables/variables.index",
    ]  # fmt: skip
    # An optional format's bytes are those of a required one. OpenVINO numbers nodes without a name over the life of the
    # process, and other tests used it in this one: the numbers are compared by their order.
    model = models.load(export.MODEL)
    exported.write("openvino", model, exportable.CLASSES, project / "required", EXAMPLES)
    optional, required = project / "data/export/openvino", project / "required/openvino"
    assert (optional / "model.bin").read_bytes() == (required / "model.bin").read_bytes()
    assert numbered_anew(optional / "model.xml") == numbered_anew(required / "model.xml")
