"""Names, labels and parameters that mean something to a shell, a browser, a spreadsheet or a file system."""

from __future__ import annotations

import ast
import csv
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from ruamel.yaml import YAML

from commands import predict
from stages import download, split, validate
from stages.core import labels
from stages.core.errors import ConfigError
from stages.core.page_script import SCRIPT
from stages.core.schemas import FACTS, SPLIT
from stages.store import documents, params, tables
from tests.hostile_labels import LABELS
from tests.stages.test_validate import ATTRIBUTES, TAGS, Parsed

ROOT = Path(__file__).parents[2]
NAMES = ["$(touch pwned).png", "-rf.png", "=cmd().png", "<img src=x onerror=alert(1)>.png", "a\nb.png", "🐈.png",
         "\u202egnp.exe.png", "'\"&;|`touch pwned`.png", "\x1b[2J\x07.png", "x" * 251 + ".png"]  # fmt: skip
FORMULAS = ("=", "+", "-", "@", "\t", "\r")
BLOCKS = "".join(f"{stage}: {{}}\n" for stage in params.STAGES if stage not in ("download", "validate"))


def picture(number: int) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Download, validate and split of images whose every name and label is hostile; the folder they ran in."""
    root = tmp_path_factory.mktemp("outer") / "project"
    images = root / "data/images"
    images.mkdir(parents=True)
    with (images / "labels.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "label", "split"])
        for number, label in enumerate(LABELS):
            for copy in range(3):
                name = f"{number}-{copy}/{NAMES[(3 * number + copy) % len(NAMES)]}"
                (images / name).parent.mkdir()
                # One in each class is no picture, so that every label and name reaches the lists of failing rows.
                (images / name).write_bytes(b"<script>" if copy == 2 else picture(3 * number + copy))
                writer.writerow([name, label, ("train", "val", "train")[copy]])
    source = {"source": "data/images/labels.csv", "watch": "data/images"}
    settings = {"min_images_per_class": 1, "max_bad_fraction": 0.5}
    (root / "params.yaml").write_text(f"download: {json.dumps(source)}\nvalidate: {json.dumps(settings)}\n{BLOCKS}")
    before = os.getcwd()
    os.chdir(root)
    try:
        download.main()
        validate.main()
        split.main()
    finally:
        os.chdir(before)
    return root


def test_names_and_labels_are_text_to_every_stage(project: Path) -> None:
    facts = tables.read(project / validate.OUT / "facts.parquet", FACTS).to_pylist()
    assert {row["label"] for row in facts} == set(LABELS)
    assert {row["name"].split("/", 1)[1] for row in facts} == set(NAMES)
    assert documents.read_classes(project / validate.OUT / "classes.json") == sorted(LABELS)
    chosen = tables.read(project / split.OUT / "split.parquet", SPLIT).to_pylist()
    assert {row["label"] for row in chosen} == set(LABELS)
    assert set(documents.read(project / split.OUT / "split.json")["classes"]["train"]) == set(LABELS)


def test_nothing_was_run_and_nothing_lies_outside(project: Path) -> None:
    assert [path.name for path in project.parent.iterdir()] == ["project"]
    assert sorted(path.name for path in project.iterdir()) == [".graft", "data", "params.yaml", "reports"]
    assert sorted(path.name for path in (project / "data").iterdir()) == ["download", "images", "split", "validate"]
    assert not [path for path in project.rglob("*") if "pwned" in path.name and "images" not in path.parts]


def test_no_tag_survives_in_any_page(project: Path) -> None:
    pages = list((project / "reports").rglob("*.html"))
    assert len(pages) == 6
    for page in pages:
        parsed = Parsed(page.read_text())
        assert parsed.tags <= TAGS, page
        assert parsed.attributes <= ATTRIBUTES, page
        assert parsed.scripts in ([], ["\n" + SCRIPT.strip() + "\n"]), page
    text = (project / "reports/validate/results.md").read_text()
    assert "<script" not in text
    assert "<img" not in text
    shown = Parsed((project / "reports/validate/index.html").read_text()).text
    assert "<script>alert(1)</script>" in shown
    assert "<img src=x onerror=alert(1)>.png" in shown


def test_no_cell_is_a_formula(project: Path) -> None:
    files = list((project / "reports").rglob("*.csv"))
    assert files
    for path in files:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        assert rows
        assert not [cell for row in rows for cell in row.values() if (cell or "").startswith(FORMULAS)]
        assert any(cell.startswith("'=") for row in rows for cell in row.values() if cell)


def test_labels_txt_has_a_line_a_class() -> None:
    lines = labels.text(LABELS).split("\n")
    assert len(lines) == len(LABELS) + 1
    assert len(set(lines)) == len(lines)


def test_predicts_csv_and_table(capsys: pytest.CaptureFixture[str]) -> None:
    rows: list[dict[str, Any]] = [{"file": name, "label": label, "probability": 0.5, "probabilities": {}}
                                  for name, label in zip(NAMES * 2, LABELS, strict=False)]  # fmt: skip
    rows.append({"file": "=x", "error": "-1\x1b[31m [red]"})
    predict._write_csv(rows)
    read = list(csv.DictReader(io.StringIO(capsys.readouterr().out, newline="")))
    assert len(read) == len(rows)
    assert not [cell for row in read for cell in row.values() if cell.startswith(FORMULAS)]
    shown = io.StringIO()
    Console(file=shown, force_terminal=True, width=400, soft_wrap=True, color_system=None).print(predict._table(rows))
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", re.sub(r"\x1b\[\d*m", "", shown.getvalue()))
    assert "⟨U+001B⟩[2J" in shown.getvalue()
    assert "[red]" in shown.getvalue()


PAYLOADS = ["x; touch pwned", "$(touch pwned)", "`touch pwned`", "| touch pwned", "&& touch pwned", "'; touch pwned; '"]


def texts() -> list[tuple[str, str]]:
    """Every parameter that takes any text, by block and name."""
    found = []
    for stage in params.STAGES:
        for name, field in params.params_type_of(stage).model_json_schema()["properties"].items():
            kinds = [field, *field.get("anyOf", [])]
            if any(kind.get("type") == "string" and "enum" not in kind for kind in kinds):
                found.append((stage, name))
    return found


def test_texts_are_where_they_are_thought_to_be() -> None:
    assert ("download", "source") in texts()
    assert ("feature_extract", "weights") in texts()


@pytest.mark.parametrize(("stage", "name"), texts())
def test_shell_text_as_a_parameter_is_refused_or_a_text(
    stage: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    blocks: dict[str, dict[str, Any]] = {other: {} for other in params.STAGES}
    blocks["download"] = {"watch": "data/images"}
    for payload in PAYLOADS:
        blocks[stage] = {**blocks[stage], name: payload}
        Path("params.yaml").write_text(json.dumps(blocks))
        try:
            said = f"{stage}.{name}" if getattr(params.read_all()[stage], name) == payload else ""
        except ConfigError as error:
            said = str(error)
        assert f"{stage}.{name}" in said
        if (stage, name) == ("download", "source"):
            with pytest.raises(ConfigError, match=r"download\.source"):
                download.main()
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]


def test_a_source_with_shell_text_ends_with_exit_2(tmp_path: Path) -> None:
    text = f'download: {{source: "x; touch pwned", watch: "$(touch pwned)"}}\nvalidate: {{}}\n{BLOCKS}'
    (tmp_path / "params.yaml").write_text(text)
    command = [sys.executable, "-m", "stages.download"]
    done = subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 2
    assert "'x; touch pwned'" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]


def test_no_parameter_is_in_a_command_that_dvc_gives_to_a_shell() -> None:
    stages = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
    for name, stage in stages.items():
        assert stage["cmd"] == f"python -m stages.{name}"
        assert not [out for out in stage["outs"] if "$" in str(out)]


@pytest.mark.parametrize("where", ["../../home", "/tmp/elsewhere", "data/../../x"])
@pytest.mark.parametrize("stage", params.STAGES)
def test_no_parameter_says_where_a_stage_writes(stage: str, where: str, tmp_path: Path) -> None:
    blocks: dict[str, dict[str, Any]] = {other: {} for other in params.STAGES}
    blocks["download"] = {"watch": "data/images"}
    blocks[stage] = {**blocks[stage], "out": where}
    (tmp_path / "params.yaml").write_text(json.dumps(blocks))
    with pytest.raises(ConfigError, match=rf"line 1: {stage}\.out: unknown key"):
        params.read_all(tmp_path / "params.yaml")


@pytest.mark.parametrize("where", ["../x.listing.json", "link/x.listing.json", "/tmp/x.listing.json"])
def test_the_one_file_whose_place_is_a_parameter_must_lie_in_the_project(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`graft add` writes the listing that download.watch names."""
    (tmp_path / "outside").mkdir()
    root = tmp_path / "project"
    for name in ("cats/1.jpg", "dogs/2.jpg"):
        (root / "data/images" / name).parent.mkdir(parents=True)
        (root / "data/images" / name).write_bytes(b"x")
    (root / "link").symlink_to(tmp_path / "outside")
    monkeypatch.chdir(root)
    blocks = f"download: {{source: data/images, watch: {where}}}\nvalidate: {{}}\n{BLOCKS}"
    Path("params.yaml").write_text(blocks)
    with pytest.raises(ConfigError, match="must lie in the project"):
        download.main()
    assert list((tmp_path / "outside").iterdir()) == []
    assert not (root / "data/download").exists()


# What would run a text as code, and the modules where it may stand, each for a reason.
RUNS = {"eval", "exec", "compile", "__import__"}
SHELLS = {("os", "system"), ("os", "popen"), ("subprocess", "getoutput"), ("subprocess", "getstatusoutput")}
UNPICKLES = {"stages/store/isolation.py": "what its own worker processes say"}


@pytest.mark.parametrize("folder", ["stages", "flows", "commands", "pretraining"])
def test_no_code_gives_text_to_a_shell_or_an_interpreter(folder: str) -> None:
    for path in sorted((ROOT / folder).rglob("*.py")):
        where = path.relative_to(ROOT).as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            assert not [word for word in node.keywords if word.arg == "shell"], where
            assert not [
                word for word in node.keywords
                if word.arg == "allow_pickle" and not (isinstance(word.value, ast.Constant) and not word.value.value)
            ], where  # fmt: skip
            if isinstance(node.func, ast.Name):
                assert node.func.id not in RUNS, f"{where}: {node.func.id}"
            elif isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name):
                called = (node.func.value.id, node.func.attr)
                assert called not in SHELLS, where
                assert called[0] not in ("pickle", "marshal", "dill") or where in UNPICKLES, f"{where}: {called}"
