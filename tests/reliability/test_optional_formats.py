"""A format that may fail: the others are published, and what is not there is told everywhere, with the reason."""

from __future__ import annotations

import errno
import logging
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from stages import export
from stages.core import certificate
from stages.core.errors import ConfigError, EnvironmentFault
from stages.store import clean_process, documents, exported, exported_files, hashes, onnx_model, params, saved_model
from tests import exportable

MISSING_OP = "op\nGelu is missing, at 0x7f00dead in /tmp/tmpab12cd/graph.pb (process 42)"


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory, tensorflow: object) -> Path:
    root = tmp_path_factory.mktemp("origin")
    before = os.getcwd()
    os.chdir(root)
    try:
        exportable.make(root, {})
    finally:
        os.chdir(before)
    return root


@pytest.fixture
def project(origin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: what export reads, and a model of before."""
    for name in ("data", "reports"):
        (tmp_path / name).symlink_to(origin / name) if name == "reports" else (tmp_path / name).mkdir()
    for path in (origin / "data").iterdir():
        (tmp_path / "data" / path.name).symlink_to(path)
    (tmp_path / "data/export").mkdir()
    (tmp_path / "data/export/model.keras").write_bytes(b"the model before")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def quick(project: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Call it to have formats that are a file each and answer as the evaluated model did, but for those given.

    `write[format]` is raised half way through writing, `ask[format]` raised or answered.
    """

    def prepare(write: dict[str, BaseException] | None = None, ask: dict[str, Any] | None = None) -> None:
        def written(format_: str, model: Any, classes: list[str], folder: Path, examples: Any) -> Path:
            place = folder / exported.PLACES[format_]
            if format_ == "saved_model":
                place.mkdir()
                place = place / "saved_model.pb"
            place.parent.mkdir(exist_ok=True)
            place.write_bytes(format_.encode())
            if format_ == "openvino":
                place.with_suffix(".bin").write_bytes(b"weights")
            if write and format_ in write:
                raise write[format_]
            return folder / exported.PLACES[format_]

        def answered(format_: str, path: Path, asked: Path) -> Any:
            right = np.array([row["probabilities"] for row in export._tested(None)], np.float32)
            given = (ask or {}).get(format_, right)
            if isinstance(given, BaseException):
                raise given
            return (given(right) if callable(given) else given), 0.001

        monkeypatch.setattr(exported, "_write", written)
        monkeypatch.setattr(exported, "answers", answered)
        monkeypatch.setattr(saved_model, "smoke", lambda *_: 0.0)

    return prepare


def choose(project: Path, formats: list[str], optional: list[str]) -> None:
    exportable.choose(project, {"formats": formats, "optional": optional})


def left(project: Path) -> list[str]:
    return sorted(path.relative_to(project / "data/export").as_posix() for path in (project / "data/export").rglob("*"))


def test_only_the_optional_one_is_missing_and_everybody_is_told(
    project: Path, quick: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    formats = ["openvino", "litert", "keras"]
    quick()
    choose(project, formats, ["openvino"])
    export.main()
    whole = hashes.sha256_of_tree(project / "data/export")
    quick(write={"openvino": NotImplementedError(MISSING_OP)})
    with caplog.at_level(logging.WARNING):
        summary = export.main()
    there = hashes.sha256_of_tree(project / "data/export")
    assert set(whole) - set(there) == {"openvino/model.xml", "openvino/model.bin"}
    assert not (project / "data/export/openvino").exists()
    told = {"certificate.json", "MODEL_CARD.md"}
    assert {name: digest for name, digest in whole.items() if name in there and name not in told} == {
        name: digest for name, digest in there.items() if name not in told
    }
    found = documents.read(project / "data/export/certificate.json")
    why = "cannot be written, its converter failed (op Gelu is missing, at … in … (process #))"
    assert found["openvino"] == {"published": False, "why": why}
    assert all(found[name]["published"] and found[name]["sha256"] for name in ("saved_model", "litert", "keras"))
    card = (project / "data/export/MODEL_CARD.md").read_text()
    assert "| openvino |  |  |  |  | no |" in card
    assert f"- `openvino` {why}" in card
    assert summary.startswith("saved_model, litert, keras, openvino not published, ")
    assert f"openvino {why}: not published" in caplog.text
    assert "0x7f00dead in /tmp/tmpab12cd/graph.pb" in caplog.text  # the log has all of it
    with pytest.raises(ConfigError, match=r"openvino was not published: it cannot be written.*published are keras, "):
        exported_files.check(project / "data/export", "openvino")
    assert exported_files.check(project / "data/export", "litert")
    (line,) = exported_files.missing(project / "data/export")
    assert line.startswith("openvino was not published: it cannot be written, its converter failed (op Gelu")
    # Another run, whose error names other addresses and processes, is the same bytes.
    quick(write={"openvino": NotImplementedError(re.sub(r"7f00dead|ab12cd|42", "77", MISSING_OP))})
    export.main()
    assert hashes.sha256_of_tree(project / "data/export") == there


def test_a_file_beside_that_says_otherwise_is_not_opened(project: Path, quick: Callable[..., None]) -> None:
    quick(ask={"litert": lambda right: right[:, ::-1]})
    choose(project, ["litert"], [])
    export.main()
    (project / "data/export/model.tflite").write_bytes(b"from elsewhere")
    with pytest.raises(ConfigError, match=r"litert was not published: it names the same class for 0\.00% of 6 "):
        exported_files.check(project / "data/export", "litert")


@pytest.mark.parametrize("optional", [True, False])
def test_a_format_that_disagrees_is_not_published_either_way(
    project: Path, quick: Callable[..., None], optional: bool
) -> None:
    quick(ask={"openvino": lambda right: right[:, ::-1]})
    choose(project, ["openvino", "keras"], ["openvino"] if optional else [])
    assert "openvino not published" in export.main()
    found = documents.read(project / "data/export/certificate.json")["openvino"]
    why = "names the same class for 0.00% of 6 test images, and 99.5% are asked for"
    assert (found["published"], found["agreement"], found["why"]) == (False, 0.0, why)
    assert f"- `openvino` {why}." in (project / "data/export/MODEL_CARD.md").read_text()
    assert not [name for name in left(project) if "openvino" in name]
    assert "model.keras" in left(project)


FAILS = {
    "a converter": {"write": {"litert": NotImplementedError("op Gelu is missing")}},
    "a base it cannot write": {"write": {"litert": ConfigError("export.formats: this base has branches")}},
    "its runtime": {"ask": {"litert": exported.FormatFailed("it does not run", "does not run (Flex is missing)")}},
}


@pytest.mark.parametrize("how", FAILS.values(), ids=FAILS)
def test_what_an_optional_format_may_do_ends_a_required_one(
    project: Path, quick: Callable[..., None], how: dict[str, Any]
) -> None:
    quick(**how)
    choose(project, ["keras", "litert"], ["keras"])
    with pytest.raises((EnvironmentFault, ConfigError)):
        export.main()
    assert left(project) == ["model.keras"]
    assert (project / "data/export/model.keras").read_bytes() == b"the model before"
    choose(project, ["keras", "litert"], ["litert"])
    export.main()
    found = documents.read(project / "data/export/certificate.json")
    assert {name: one["published"] for name, one in found.items()} == {
        "saved_model": True, "keras": True, "litert": False,
    }  # fmt: skip
    assert found["litert"]["why"]
    assert "model.tflite" not in left(project)


NEVER: dict[str, BaseException] = {
    "full disk": OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
    "full disk, said in C++": RuntimeError(f"Cannot write model.bin: {os.strerror(errno.ENOSPC)}"),
    "broken disk": OSError(errno.EIO, os.strerror(errno.EIO)),
    "no memory": MemoryError(),
    "no memory, said in C++": RuntimeError("std::bad_alloc"),
    "no memory, said by ONNX Runtime": RuntimeError("Failed to allocate memory for requested buffer of size 9"),
    "no memory, said by TensorFlow": type("ResourceExhaustedError", (Exception,), {})("shape[9,9]"),
    "Ctrl-C": KeyboardInterrupt(),
    "ended": SystemExit(143),
    "a deadline": EnvironmentFault("the exported model gave no answer in 1800 s"),
}


@pytest.mark.parametrize("error", NEVER.values(), ids=NEVER)
def test_no_fault_of_the_machine_passes_for_a_formats(
    project: Path, quick: Callable[..., None], error: BaseException
) -> None:
    quick(write={"keras": error})
    choose(project, ["litert", "keras"], ["keras", "litert"])
    expected = EnvironmentFault if isinstance(error, Exception) else type(error)
    with pytest.raises(expected) as caught:
        export.main()
    assert not isinstance(caught.value, exported.FormatFailed)
    assert left(project) == ["model.keras"]
    assert (project / "data/export/model.keras").read_bytes() == b"the model before"
    assert sorted(path.name for path in (project / "data").iterdir() if "export" in path.name) == ["export"]


def test_a_disk_too_full_for_the_model_is_one_whatever_a_converter_says(
    project: Path, quick: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    quick(write={"keras": ValueError("the graph is empty")})
    choose(project, ["keras"], ["keras"])
    # What is free is far from nothing, and less than the model's four bytes a weight, twice.
    monkeypatch.setattr(keras.Model, "count_params", lambda _: 2**20)
    monkeypatch.setattr(exported.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 2**23 - 1})())
    with pytest.raises(EnvironmentFault, match="No space left on device") as caught:
        export.main()
    assert not isinstance(caught.value, exported.FormatFailed)
    monkeypatch.setattr(exported.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 2**23})())
    export.main()
    assert not documents.read(project / "data/export/certificate.json")["keras"]["published"]


def test_what_is_not_installed_is_refused_before_a_run_or_told_after_it(
    project: Path, quick: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    quick()
    monkeypatch.setattr(onnx_model, "find_spec", lambda name: None if name == "tf2onnx" else True)
    choose(project, ["onnx", "keras"], [])
    with pytest.raises(ConfigError, match=r"line 1: export\.formats: 'onnx' needs .*; tf2onnx is not installed: .*opt"):
        params.read_all()
    choose(project, ["onnx", "keras"], ["onnx"])
    export.main()
    found = documents.read(project / "data/export/certificate.json")
    assert found["keras"]["published"]
    assert "tf2onnx is not installed" in found["onnx"]["why"]


@pytest.mark.parametrize(
    ("optional", "said"),
    [
        ("[tflite]", "received 'tflite'; must be among export.formats: 'keras', 'litert'"),
        ("[litert, onnx]", "received 'onnx'; must be among export.formats: 'keras', 'litert'"),
        (
            "[saved_model]",
            "received 'saved_model'; must be among export.formats: 'keras', 'litert'; saved_model is alw",
        ),
    ],
)
def test_only_formats_that_are_asked_for_can_be_optional(optional: str, said: str, tmp_path: Path) -> None:
    blocks = "".join(f"{stage}: {{}}\n" for stage in params.STAGES[1:-1])
    text = f"download: {{watch: x}}\n{blocks}export:\n  formats: [keras, litert]\n  optional: {optional}\n"
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        params.read_all(tmp_path / "params.yaml")
    assert f"line 9: export.optional: {said}" in str(caught.value)
    assert "1 problem; no stage was started" in str(caught.value)
    (tmp_path / "params.yaml").write_text(text.replace(optional, "[litert, keras]"))
    assert params.read_all(tmp_path / "params.yaml")["export"].model_dump()["optional"] == ["litert", "keras"]


ENDS = {
    "raise RuntimeError('Flex op is missing')": "does not run in a clean process (RuntimeError: Flex op is missing)",
    "import os; os.abort()": "does not run in a clean process (it was ended by SIGABRT)",
    "sys.exit(7)": "does not run in a clean process (it ended with 7)",
}


@pytest.mark.parametrize("does", ENDS)
def test_a_runtime_that_ends_is_the_formats_failure(does: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exported, "ASKED", f"import sys\n{does}\n# {{ask}}")
    with pytest.raises(exported.FormatFailed) as caught:
        exported.answers("keras", tmp_path / "model.keras", tmp_path)
    assert caught.value.why == ENDS[does]


@pytest.mark.parametrize(
    "does",
    [
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
        "raise MemoryError",
        "sys.stderr.write('CUDA failure 2: out of memory' + 20 * '\\n  in a call'); sys.exit(1)",
        "raise OSError(28, 'No space left on device')",
        "sys.stderr.write('std::bad_alloc'); sys.stderr.flush(); import os; os.abort()",
    ],
)
def test_a_runtime_that_the_machine_ends_is_not(does: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exported, "ASKED", f"import sys\n{does}\n# {{ask}}")
    with pytest.raises(clean_process.Ended):
        exported.answers("keras", tmp_path / "model.keras", tmp_path)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("op\n Gelu\tis missing", "op Gelu is missing"),
        ("no kernel for conv2d_3 in float32, opset 15", "no kernel for conv2d_3 in float32, opset #"),
        ("ops {'Gelu', 'Erf'}", "ops {'Erf', 'Gelu'}"),
        ("/home/a b/x.pb: 12:30:01 [77] <f at 0x7F10>", "… … # [#] <f at …"),
        ("see tmpab12cd.pb and 0123abcdef", "see … and …"),
        ("\x1b[2J\u202egpj", "…[2J…gpj"),
        ("x" * 300, "x" * 200 + "…"),
    ],
)
def test_a_reason_names_nothing_of_the_machine_or_the_run(text: str, line: str) -> None:
    assert certificate.said(text) == line


def test_real_converters_and_runtimes_beside_one_that_fails(
    project: Path, tensorflow: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import keras

    def fail(self: Any, path: Any, **_: Any) -> Any:
        Path(path).write_bytes(b"half a model")
        raise tensorflow.errors.UnimplementedError(None, None, "Gelu has no kernel\nin this build")

    monkeypatch.setattr(keras.Model, "export", fail)  # LiteRT's, not what writes the other two
    choose(project, ["litert", "keras"], ["litert"])
    assert export.main().startswith("saved_model, keras, litert not published, ")
    found = documents.read(project / "data/export/certificate.json")
    assert (found["saved_model"]["agreement"], found["keras"]["agreement"]) == (1.0, 1.0)
    assert found["litert"]["why"] == "cannot be written, its converter failed (Gelu has no kernel in this build)"
    assert left(project) == ["MODEL_CARD.md", "certificate.json", "labels.txt", "model.keras", "saved_model",
                             "saved_model/assets", "saved_model/saved_model.pb", "saved_model/variables",
                             "saved_model/variables/variables.data-00000-of-00001",
                             "saved_model/variables/variables.index"]  # fmt: skip
