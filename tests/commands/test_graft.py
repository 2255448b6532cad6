"""The `graft` console script: answers, errors and exit codes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from commands import report
from commands.predict import found
from stages.core.errors import ConfigError

ROOT = Path(__file__).parents[2]


def graft(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "commands", *arguments]
    environment = {"PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=240)


def test_help_names_every_command() -> None:
    done = graft("--help")
    assert done.returncode == 0
    modules = {path.stem for path in (ROOT / "commands").glob("*.py")} - {"__init__", "__main__"}
    assert modules == {
        "accept", "add", "backbones", "changes", "check", "doctor", "drift", "licences", "lineage", "memo", "plan",
        "predict", "promote", "publish", "report", "verify", "versions",
    }  # fmt: skip
    for name in modules:
        assert f" {name} " in done.stdout


def test_check_accepts_the_recipes_and_names_problems_with_exit_2(tmp_path: Path) -> None:
    assert graft("check").returncode == 0
    (tmp_path / "bad.yaml").write_text((ROOT / "recipes" / "digits.yaml").read_text().replace("views: 4", "veiws: 4"))
    done = graft("check", str(tmp_path / "bad.yaml"))
    assert done.returncode == 2
    assert "feature_extract.veiws: unknown key; did you mean 'views'?" in done.stderr


def test_a_report_that_is_not_there_says_what_writes_it(tmp_path: Path) -> None:
    done = graft("report", "evaluate", cwd=tmp_path)
    assert done.returncode == 2
    assert "reports/evaluate/index.html: not found; `dvc repro evaluate` writes it" in done.stderr
    assert graft("report", "bogus", cwd=tmp_path).returncode == 2


def test_a_report_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "reports" / "validate" / "index.html"
    page.parent.mkdir(parents=True)
    page.write_text("<html>")
    monkeypatch.chdir(tmp_path)
    opened: list[str] = []
    monkeypatch.setattr(report.webbrowser, "open", opened.append)
    report.report(report.Report.validate)
    assert opened == [page.as_uri()]
    assert capsys.readouterr().out.strip() == page.as_uri()


def test_predict_refuses_what_is_not_there(tmp_path: Path) -> None:
    done = graft("predict", "nothing.jpg", cwd=tmp_path)
    assert (done.returncode, "no such file or folder: nothing.jpg" in done.stderr) == (2, True)
    done = graft("predict", str(tmp_path), cwd=tmp_path)
    assert (done.returncode, "no exported model there; run dvc repro" in done.stderr) == (2, True)


def test_folders_are_searched_for_image_files_in_name_order(tmp_path: Path) -> None:
    for name in ("b/2.JPG", "b/1.png", "a.webp", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    named = tmp_path / "notes.txt"
    listed = [path.relative_to(tmp_path).as_posix() for path in found([tmp_path, named])]
    assert listed == ["a.webp", "b/1.png", "b/2.JPG", "notes.txt"]


def test_errors_know_their_exit_codes() -> None:
    from stages.core import errors

    codes = {kind.__name__: kind.exit_code for kind in errors.GraftError.__subclasses__()}
    assert codes == {"ConfigError": 2, "DataRejected": 3, "IntegrityError": 4, "EnvironmentFault": 5, "Busy": 6}
    assert issubclass(ConfigError, errors.GraftError)


def test_backbones_lists_the_catalogue_and_where_a_base_may_be_cut() -> None:
    listed = graft("backbones").stdout
    for name in ("MobileNetV2", "ResNet101V2", "EfficientNetB7", "ConvNeXtTiny", "NASNetMobile", "DenseNet121"):
        assert f" {name} " in listed
    of_one = graft("backbones", "MobileNetV2", "--image-size", "160")
    assert of_one.stderr == ""  # TensorFlow's chatter is nobody's answer
    lines = [line.split() for line in of_one.stdout.splitlines()]
    (line,) = (line for line in lines if line[2:3] == ["block_10_project_BN"])
    assert line[:2] == ["98", "block_11_expand"]
    assert " ".join(line[3:8]) == "10 x 10 x 96"
    wrong = graft("backbones", "ResNet")
    assert wrong.returncode == 2
    assert "received 'ResNet'; must be one of MobileNet, " in wrong.stderr


def test_licences_are_listed_of_every_pinned_package_and_copyleft_is_said() -> None:
    made = graft("licences").stdout
    rows = [line.split(" | ") for line in made.partition("## All")[2].splitlines() if line.startswith("| ")][1:]
    pins = [line.split(" ;")[0].split("==") for line in (ROOT / "constraints.txt").read_text().splitlines()
            if line and not line.startswith("#")]  # fmt: skip
    assert [[name.removeprefix("| "), version] for name, version, _ in rows] == pins
    assert "| certifi | " in made.partition("## All")[0]  # under the MPL
    # Another platform has other packages; names and versions are the same everywhere.
    written = (ROOT / "docs/licences.md").read_text().partition("## All")[2].splitlines()
    kept = [line.split(" | ")[:2] for line in written if line.startswith("| ")][1:]
    assert kept == [row[:2] for row in rows], "graft licences > docs/licences.md"
