"""A converter that crashes its process or never ends: an optional format is left out, and no process is left."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest

from stages import export
from stages.store import conversion, documents, exported, exported_files, hashes, models
from tests import exportable
from tests.conftest import ROOT
from tests.hostile_labels import LABELS
from tests.reliability import scripted_converters
from tests.waiting import wait_for

TOLD = {"certificate.json", "MODEL_CARD.md"}  # what says that a format is not there
DIES = {
    "ctypes.string_at(0)": "was ended by SIGSEGV",
    "os.abort()": "was ended by SIGABRT",
    "os.kill(os.getpid(), signal.SIGBUS)": "was ended by SIGBUS",
    "os.kill(os.getpid(), signal.SIGILL)": "was ended by SIGILL",
    "os.kill(os.getpid(), signal.SIGFPE)": "was ended by SIGFPE",
    "os._exit(0)": "ended with 0",
    "sys.exit(7)": "ended with 7",
    "while True: os.write(2, b'word ' * 9999)": "did not end in 0.2 s",
}


def stage(project: Path, optional: list[str], does: dict[str, str]) -> subprocess.Popen[str]:
    """The export stage as a process, in a group of its own; what its converters do as in scripted_converters."""
    exportable.choose(project, {"formats": ["keras", "litert"], "optional": optional})
    environment = {**os.environ, "PYTHONPATH": str(ROOT), scripted_converters.DOES: json.dumps(does)}
    return subprocess.Popen(
        [sys.executable, "-m", "tests.reliability.scripted_converters"],
        cwd=project, env=environment, stderr=subprocess.PIPE, text=True, process_group=0,
    )  # fmt: skip


def is_as_before(project: Path) -> bool:
    return exportable.published(project) == ["model.keras"] and (
        (project / "data/export/model.keras").read_bytes() == b"the model before"
    )


def runs(number: int) -> bool:
    try:
        return psutil.Process(number).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("does", DIES)
def test_what_ends_an_optional_formats_converter_costs_that_format(
    project: Path,
    scripted: Callable[..., None],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    does: str,
) -> None:
    exportable.choose(project, {"formats": ["openvino", "litert", "keras"], "optional": ["openvino"]})
    monkeypatch.setattr(conversion, "DEADLINE", 0.2 if "while" in does else 600.0)
    makes = "print(__import__('tempfile').mkdtemp(), end='', file=open(f'{folder}/../made', 'w'), flush=True)"
    scripted(write={"openvino": f"{makes}\nos.write(2, b'seen it coming\\n')\n{does}"})
    printed, judge = [], conversion._judge
    monkeypatch.setattr(conversion, "_judge", lambda *given: (printed.append(given[2]), judge(*given)))
    with caplog.at_level(logging.WARNING):
        summary = export.main()
    assert summary.startswith("saved_model, litert, keras, openvino not published, ")
    why = f"cannot be written, its converter {DIES[does]}"
    found = documents.read(project / "data/export/certificate.json")
    assert found["openvino"] == {"published": False, "why": why}
    assert all(found[name]["published"] and found[name]["sha256"] for name in ("saved_model", "litert", "keras"))
    assert f"- `openvino` {why}" in (project / "data/export/MODEL_CARD.md").read_text()
    (line,) = exported_files.missing(project / "data/export")
    assert line == f"openvino was not published: it {why}"
    assert f"openvino is optional, and failed: its converter {DIES[does]}: " in caplog.text
    assert ("word word" if "while" in does else "seen it coming") in caplog.text
    assert len(caplog.text) < 5000  # however much it printed
    assert len(printed[0]) <= conversion.KEPT
    # Nothing else has other bytes than beside a format that converts, and nothing is left over.
    there = hashes.sha256_of_tree(project / "data/export")
    assert set(there) == {*TOLD, "labels.txt", "saved_model/saved_model.pb", "model.tflite", "model.keras"}
    assert {name: (project / "data/export" / name).read_bytes() for name in ("model.tflite", "model.keras")} == {
        "model.tflite": b"litert", "model.keras": b"keras",
    }  # fmt: skip
    assert not Path((project / "data/made").read_text()).exists()
    assert not [path for path in project.rglob("*core*") if path.is_file()]


def test_a_required_formats_converter_that_crashes_ends_the_stage_with_nothing_published(project: Path) -> None:
    crashed = stage(project, ["keras"], {"litert": "ctypes.string_at(0)"})
    crashed.communicate(timeout=120)
    assert crashed.returncode == -signal.SIGSEGV
    assert is_as_before(project)
    again = stage(project, ["keras"], {})
    _, said = again.communicate(timeout=120)
    assert again.returncode == 0, said
    assert {"model.keras", "model.tflite", "certificate.json"} < set(exportable.published(project))
    assert not list((project / "data").glob(".export.*partial"))  # what the crash had left


def test_a_converter_that_the_kernel_kills_is_a_lack_of_memory(project: Path) -> None:
    killed = stage(project, ["litert"], {"litert": "os.kill(os.getpid(), signal.SIGKILL)"})
    _, said = killed.communicate(timeout=120)
    assert killed.returncode == 5
    assert "'litert' was ended by SIGKILL, as Linux does where memory runs out" in said
    assert "nothing was published. Free some memory" in " ".join(said.split())
    assert is_as_before(project)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["kill", "term", "int"]
)
def test_no_process_outlives_a_stage_that_is_ended(project: Path, number: signal.Signals, code: int) -> None:
    waits = "pathlib = __import__('pathlib'); pathlib.Path(f'{folder}/../pid').write_text(str(os.getpid()))"
    ended = stage(project, ["litert"], {"litert": f"{waits}\nwhile True: time.sleep(1)"})
    told = project / "data/pid"
    try:
        assert wait_for(lambda: told.is_file() and told.read_text() != "", 120)
        child = int(told.read_text())
        assert runs(child)
        os.killpg(ended.pid, number)
        _, said = ended.communicate(timeout=60)
        assert ended.returncode == code
        assert wait_for(lambda: not runs(child), 60)
    finally:
        ended.kill()
    assert is_as_before(project)
    if number != signal.SIGKILL:
        assert "Traceback" not in said
        assert not (project / "data/.export.partial").exists()


def test_what_a_converter_started_ends_with_it(project: Path, scripted: Callable[..., None]) -> None:
    starts = "print(subprocess.Popen(['sleep', '600']).pid, file=open(f'{folder}/../pid', 'w'), flush=True)"
    exportable.choose(project, {"formats": ["keras"], "optional": ["keras"]})
    scripted(write={"keras": f"{starts}\nos.abort()"})
    export.main()
    assert wait_for(lambda: not runs(int((project / "data/pid").read_text())), 60)


def test_the_process_is_given_what_the_stage_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels of every kind, the temperature and the pictures come as data, whatever is in them."""
    given = "json.dump([classes, model.divided, examples.tolist(), str(folder)], open(folder / 'given', 'w'))"
    monkeypatch.setattr(conversion, "CHILD", scripted_converters.CHILD)
    monkeypatch.setenv(scripted_converters.DOES, json.dumps({"keras": given}))
    folder = tmp_path / "a $(touch canary); folder"
    folder.mkdir()
    examples = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3)).astype(np.uint8)
    source = conversion.Source(tmp_path / "model.keras", 0.1 + 0.2)
    assert conversion.write("keras", source, 8, list(LABELS), folder, examples) == folder / "model.keras"
    expected = [list(LABELS), 0.1 + 0.2, examples.tolist(), str(folder)]
    assert json.loads((folder / "given").read_text()) == expected
    assert sorted(path.name for path in folder.iterdir()) == ["given", "model.keras"]
    assert not list(tmp_path.rglob("canary"))


@pytest.mark.parametrize("does", ["raise RuntimeError('no GPU')", "os.abort()"])
def test_a_process_that_cannot_start_is_no_formats_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, does: str
) -> None:
    fails = "from stages.store import conversion; import os\ndef start(*_): " + does
    monkeypatch.setattr(conversion, "CHILD", (
        f"import sys; sys.path[:] = sys.argv[2:]; exec({fails!r}); "
        "conversion.tensorflow_runtime.start = start; conversion.serve(sys.argv[1])"
    ))  # fmt: skip
    with pytest.raises(conversion.EnvironmentFault, match="the process that writes 'keras' ") as caught:
        conversion.write("keras", conversion.Source(tmp_path, None), 8, ["a"], tmp_path, np.zeros(1, np.uint8))
    assert not isinstance(caught.value, exported.FormatFailed)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("format_", ["keras", "litert_int8"])  # openvino: test_optional_formats
def test_an_optional_formats_bytes_are_a_required_ones(
    exportable_project: Path, tensorflow: object, tmp_path: Path, format_: str
) -> None:
    path = exportable_project / export.MODEL
    examples = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3)).astype(np.uint8)
    for name in ("required", "optional"):
        (tmp_path / name).mkdir()
    exported.write(format_, models.load(path), exportable.CLASSES, tmp_path / "required", examples)
    conversion.write(
        format_, conversion.Source(path, None), 8, exportable.CLASSES, tmp_path / "optional", examples
    )  # fmt: skip
    required, optional = (hashes.sha256_of_tree(tmp_path / name) for name in ("required", "optional"))
    assert required == optional
    assert len(required) == 1
