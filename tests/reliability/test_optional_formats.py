"""A format that may fail: the others are published, and what is not there is told everywhere, with the reason."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import pytest

from stages import export
from stages.core import certificate
from stages.core.errors import ConfigError, EnvironmentFault
from stages.store import (
    clean_process,
    documents,
    exported,
    exported_files,
    hashes,
    onnx_model,
    params,
    process,
)
from tests import exportable

MISSING_OP = "op\nGelu is missing, at 0x7f00dead in /tmp/tmpab12cd/graph.pb (process 42)"


def choose(project: Path, formats: list[str], optional: list[str]) -> None:
    exportable.choose(project, {"formats": formats, "optional": optional})


def test_only_the_optional_one_is_missing_and_everybody_is_told(
    project: Path, scripted: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    scripted()
    choose(project, ["openvino", "litert", "keras"], ["openvino"])
    export.main()
    whole = hashes.sha256_of_tree(project / "data/export")
    scripted(write={"openvino": f"raise NotImplementedError({MISSING_OP!r})"})
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
    scripted(write={"openvino": f"raise NotImplementedError({re.sub('7f00dead|ab12cd|42', '77', MISSING_OP)!r})"})
    export.main()
    assert hashes.sha256_of_tree(project / "data/export") == there


def test_a_file_beside_that_says_otherwise_is_not_opened(project: Path, scripted: Callable[..., None]) -> None:
    scripted(ask={"litert": lambda right: right[:, ::-1]})
    choose(project, ["litert"], [])
    export.main()
    (project / "data/export/model.tflite").write_bytes(b"from elsewhere")
    with pytest.raises(ConfigError, match=r"litert was not published: it names the same class for 0\.00% of 6 "):
        exported_files.check(project / "data/export", "litert")


@pytest.mark.parametrize("optional", [True, False])
def test_a_format_that_disagrees_is_not_published_either_way(
    project: Path, scripted: Callable[..., None], optional: bool
) -> None:
    scripted(ask={"openvino": lambda right: right[:, ::-1]})
    choose(project, ["openvino", "keras"], ["openvino"] if optional else [])
    assert "openvino not published" in export.main()
    found = documents.read(project / "data/export/certificate.json")["openvino"]
    why = "names the same class for 0.00% of 6 test images, and 99.5% are asked for"
    assert (found["published"], found["agreement"], found["why"]) == (False, 0.0, why)
    assert f"- `openvino` {why}." in (project / "data/export/MODEL_CARD.md").read_text()
    assert not [name for name in exportable.published(project) if "openvino" in name]
    assert "model.keras" in exportable.published(project)


FAILS = {
    "a converter": {"write": {"litert": "raise NotImplementedError('op Gelu is missing')"}},
    "a base it cannot write": {
        "write": {"litert": "raise errors.ConfigError('export.formats: this base has branches')"}
    },
    "its runtime": {"ask": {"litert": exported.FormatFailed("it does not run", "does not run (Flex is missing)")}},
}


@pytest.mark.parametrize("how", FAILS.values(), ids=FAILS)
def test_what_an_optional_format_may_do_ends_a_required_one(
    project: Path, scripted: Callable[..., None], how: dict[str, Any]
) -> None:
    scripted(**how)
    choose(project, ["keras", "litert"], ["keras"])
    with pytest.raises((EnvironmentFault, ConfigError)):
        export.main()
    assert exportable.published(project) == ["model.keras"]
    assert (project / "data/export/model.keras").read_bytes() == b"the model before"
    choose(project, ["keras", "litert"], ["litert"])
    export.main()
    found = documents.read(project / "data/export/certificate.json")
    assert {name: one["published"] for name, one in found.items()} == {
        "saved_model": True, "keras": True, "litert": False,
    }  # fmt: skip
    assert found["litert"]["why"]
    assert "model.tflite" not in exportable.published(project)


NEVER = {
    "full disk": "raise OSError(28, os.strerror(28))",
    "full disk, said in C++": "raise RuntimeError('Cannot write model.bin: ' + os.strerror(28))",
    "full disk, and aborts": "os.write(2, b'model.bin: No space left on device\\n'); os.abort()",
    "broken disk": "raise OSError(5, os.strerror(5), 'model.bin')",
    "no memory": "raise MemoryError",
    "no memory, said in C++": "raise RuntimeError('std::bad_alloc')",
    "no memory, and aborts": "os.write(2, b'CUDA failure 2: out of memory\\n'); os.abort()",
    "no memory, said by ONNX Runtime": "raise RuntimeError('Failed to allocate memory for requested buffer of size 9')",
    "no memory, said by TensorFlow": "raise type('ResourceExhaustedError', (Exception,), {})('shape[9,9]')",
    "no memory, as Linux ends a process": "os.kill(os.getpid(), signal.SIGKILL)",
    "a limit": "os.kill(os.getpid(), signal.SIGXCPU)",
    "Ctrl-C": "os.kill(os.getpid(), signal.SIGINT); time.sleep(60)",
    "Ctrl-C, raised": "raise KeyboardInterrupt",
    "ended": "os.kill(os.getpid(), signal.SIGTERM)",
    "ended, raised": "sys.exit(143)",
    "a deadline": "raise errors.EnvironmentFault('the exported model gave no answer in 1800 s')",
}


@pytest.mark.parametrize("how", NEVER)
def test_no_fault_of_the_machine_passes_for_a_formats(project: Path, scripted: Callable[..., None], how: str) -> None:
    scripted(write={"keras": NEVER[how]})
    choose(project, ["litert", "keras"], ["keras"])
    kinds = {"Ctrl-C": KeyboardInterrupt, "ended": process.Terminated}
    with pytest.raises(kinds.get(how.partition(",")[0], EnvironmentFault)) as caught:
        export.main()
    assert not isinstance(caught.value, exported.FormatFailed)
    assert exportable.published(project) == ["model.keras"]
    assert (project / "data/export/model.keras").read_bytes() == b"the model before"
    assert sorted(path.name for path in (project / "data").iterdir() if "export" in path.name) == ["export"]


@pytest.mark.parametrize("ends", ["raise ValueError('the graph is empty')", "os.abort()"])
def test_a_disk_too_full_for_the_model_is_one_whatever_a_converter_says(
    project: Path, scripted: Callable[..., None], monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    choose(project, ["keras"], ["keras"])
    usage = shutil.disk_usage(project)
    # What is free is far from nothing, and less than the model's four bytes a weight, twice.
    monkeypatch.setattr(keras.Model, "count_params", lambda _: 2**20)

    def run(free: int) -> None:
        monkeypatch.setattr(exported.shutil, "disk_usage", lambda _: usage._replace(free=free))
        there = f"exported.shutil.disk_usage = lambda _: type('Usage', (), dict(free={free}))()"
        scripted(write={"keras": f"{there}; {ends}"})
        export.main()

    with pytest.raises(EnvironmentFault, match="No space left on device") as caught:
        run(2**23 - 1)
    assert not isinstance(caught.value, exported.FormatFailed)
    run(2**23)
    assert not documents.read(project / "data/export/certificate.json")["keras"]["published"]


def test_what_is_not_installed_is_refused_before_a_run_or_told_after_it(
    project: Path, scripted: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted()
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
