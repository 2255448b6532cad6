"""What would run and why: each reason, how it spreads, a clone without data, and whether DVC then does so."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from flows.plan import PlanError, Planned, as_markdown, plan, shown

ROOT = Path(__file__).parents[2]

# prepare ── tidy ── train ── report      prepare's output is a folder, of which tidy and train read parts;
#    └─────────────────┴───────┘          "loose" changes its command's text but never its output.
DVC_YAML = """
stages:
  report:
    cmd: cat out/train/model out/prepare/a.txt > out/report.txt
    deps: [out/train, out/prepare, code/report.py]
    outs: [out/report.txt]
  prepare:
    cmd: >-
      mkdir -p out/prepare/sub && cat ${raw}/* rules.txt > out/prepare/a.txt &&
      head -c ${size} rules.txt > out/prepare/sub/b.txt
    deps: ["${raw}", rules.txt]
    params: [size, loose]
    outs: [out/prepare]
  tidy:
    cmd: cat out/prepare/sub/* > out/tidy.txt
    deps: [out/prepare/sub, code/tidy.py]
    outs: [out/tidy.txt]
  train:
    cmd: >-
      mkdir out/train && cat out/tidy.txt code/train.py > out/train/model &&
      grep depth params.yaml >> out/train/model
    deps: [out/tidy.txt, out/prepare/a.txt, code/train.py, code/shapes]
    params: [train, "settings.json": [seed]]
    outs: [out/train]
"""
PARAMS = """
raw: raw
size: 4
loose: [1, 2]
train:
  depth: 3
  tail: {epochs: 10, rate: 0.001}
  name: first
"""
FILES = {
    "dvc.yaml": DVC_YAML,
    "params.yaml": PARAMS,
    "settings.json": '{"seed": 1, "other": 2}',
    "rules.txt": "rules\n",
    "code/report.py": "report\n",
    "code/tidy.py": "tidy\n",
    "code/train.py": "train\n",
    "code/shapes/round.txt": "round\n",
    "raw/.gitkeep": "",
    "raw/one.txt": "one\n",
    ".gitignore": "/out/\n/raw/*\n!/raw/.gitkeep\n",
    ".dvcignore": "raw/.gitkeep\n",
}
STAGES = ["prepare", "tidy", "train", "report"]


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=Test", "-c", "user.email=test@example.com", *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


def project(folder: Path, files: dict[str, str]) -> Path:
    """A git and DVC repository with these files, committed."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (folder / ".dvc").mkdir()
    (folder / ".dvc" / "config").write_text("[core]\n    analytics = false\n    check_update = false\n")
    (folder / ".dvc" / ".gitignore").write_text("/config.local\n/tmp\n/cache\n")
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "Start")
    return folder


def repro(folder: Path, *arguments: str) -> set[str]:
    """`dvc repro`; returns the stages that ran or were restored from the run cache."""
    command = [sys.executable, "-m", "dvc", "repro", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    marks = ("Running stage '", "is cached - skipping run")
    return {line.split("'")[1] for line in done.stdout.splitlines() if any(mark in line for mark in marks)}


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def verdicts(planned: list[Planned]) -> dict[str, str]:
    return {one.stage: one.verdict for one in planned}


def why(folder: Path, stage: str) -> tuple[str, ...]:
    """The reasons for a stage that runs of its own accord."""
    (one,) = [one for one in plan(folder) if one.stage == stage]
    assert one.verdict == "run"
    return one.reasons


def everything(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file but DVC's scratch and git's index: when it was changed, and what is in it."""
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_mtime_ns, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file() and "/.dvc/tmp/" not in path.as_posix() and path.name != "index"
    }


@pytest.fixture(scope="module", autouse=True)
def _own_state(tmp_path_factory: pytest.TempPathFactory) -> object:
    """DVC's records of hashed files, otherwise left in /var/tmp for each temporary folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path_factory.mktemp("site")))
        patch.setenv("DVC_NO_ANALYTICS", "1")
        yield


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy pipeline, run once and committed."""
    folder = project(tmp_path_factory.mktemp("toy"), FILES)
    assert repro(folder) == set(STAGES)
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "Run")
    return folder


@pytest.fixture
def toy(done: Path, tmp_path: Path) -> Path:
    """A copy of it with data and cache."""
    return Path(shutil.copytree(done, tmp_path / "toy"))


@pytest.fixture
def clone(done: Path, tmp_path: Path) -> Path:
    """A clone of it: no data, no cache."""
    git(tmp_path, "clone", "-q", str(done), "clone")
    assert not (tmp_path / "clone" / "out").exists()
    return tmp_path / "clone"


def test_a_run_pipeline_is_unchanged_in_pipeline_order(toy: Path) -> None:
    assert plan(toy) == [Planned(stage, "unchanged", ()) for stage in STAGES]


def test_a_clone_without_data_or_cache_says_the_same(clone: Path) -> None:
    assert plan(clone) == [Planned(stage, "unchanged", ()) for stage in STAGES]
    edit(clone / "params.yaml", "epochs: 10", "epochs: 12")
    assert plan(clone) == [
        Planned("prepare", "unchanged", ()),
        Planned("tidy", "unchanged", ()),
        Planned("train", "run", ("train.tail.epochs: 10 → 12",)),
        Planned("report", "maybe", ("depends on train",)),
    ]
    edit(clone / "params.yaml", "size: 4", "size: 5")
    assert list(verdicts(plan(clone)).values()) == ["run", "maybe", "run", "maybe"]


def test_it_leaves_no_trace(clone: Path, toy: Path) -> None:
    for folder in (clone, toy):
        edit(folder / "params.yaml", "size: 4", "size: 5")
        (folder / "raw" / "two.txt").write_text("two\n")
        files = everything(folder)
        status = git(folder, "status", "--porcelain", "--ignored").replace("!! .dvc/tmp/\n", "")
        assert "run" in verdicts(plan(folder)).values()
        assert everything(folder) == files
        assert git(folder, "status", "--porcelain", "--ignored").replace("!! .dvc/tmp/\n", "") == status
    assert not (clone / ".dvc" / "cache").exists()


def test_never_ran(tmp_path: Path) -> None:
    planned = plan(project(tmp_path, FILES))
    assert planned == [Planned(stage, "run", ("never ran here",)) for stage in STAGES]


@pytest.mark.parametrize(
    ("old", "new", "stage", "reason"),
    [
        ("rate: 0.001", "rate: 0.01", "train", "train.tail.rate: 0.001 → 0.01"),
        ("  depth: 3\n", "", "train", "train.depth: removed (was 3)"),
        ("  depth: 3\n", "  depth: 3\n  extra: {a: 1}\n", "train", 'train.extra: added ({"a": 1})'),
        ("name: first", "name: '3'", "train", 'train.name: "first" → "3"'),
        ("name: first", "name: 3", "train", 'train.name: "first" → 3'),
        ("tail: {epochs: 10, rate: 0.001}", "tail: 7", "train", 'train.tail: {"epochs": 10, "rate": 0.001} → 7'),
        ("name: first", 'name: "a\\nb | \\u202e"', "train", 'train.name: "first" → "a\\nb | \\u202e"'),
        ("[1, 2]", "[1, 3]", "prepare", "loose[1]: 2 → 3"),
        ("[1, 2]", "[1]", "prepare", "loose: [1, 2] → [1]"),
    ],
)
def test_parameters(clone: Path, old: str, new: str, stage: str, reason: str) -> None:
    edit(clone / "params.yaml", old, new)
    assert why(clone, stage) == (reason,)


def test_what_python_calls_equal_is_no_change(clone: Path) -> None:
    edit(clone / "params.yaml", "epochs: 10", "epochs: 10.0")
    assert set(verdicts(plan(clone)).values()) == {"unchanged"}


def test_long_values_are_shortened_where_they_still_differ(clone: Path) -> None:
    edit(clone / "params.yaml", "name: first", f"name: {'x' * 500}")
    assert why(clone, "train") == ('train.name: "first" → "' + "x" * 59 + "…",)
    edit(clone / "dvc.lock", "name: first", f"name: {'x' * 400}y{'x' * 99}")
    (reason,) = why(clone, "train")
    assert reason == f"train.name: …{'x' * 10}y{'x' * 49}… → …{'x' * 60}…"


def test_parameters_of_another_file_and_files_without_keys(clone: Path) -> None:
    (clone / "settings.json").write_text('{"seed": 2, "other": 3}')
    assert why(clone, "train") == ("settings.json: seed: 1 → 2",)
    edit(clone / "dvc.yaml", '"settings.json": [seed]', '"settings.json": null')
    assert why(clone, "train") == ("settings.json: seed: 1 → 2", "settings.json: other: added (3)")
    (clone / "settings.json").write_text("[1]")
    with pytest.raises(PlanError, match=r"settings.json: list where parameters by name are expected"):
        plan(clone)


def test_a_parameter_listed_only_now(clone: Path) -> None:
    edit(clone / "dvc.yaml", "deps: [out/prepare/sub, code/tidy.py]", "params: [size]\n    deps: [code/tidy.py]")
    assert why(clone, "tidy") == ("size: added (4)",)


def test_the_command_after_templating(clone: Path) -> None:
    edit(clone / "dvc.yaml", "cat out/prepare/sub/* >", "sort out/prepare/sub/* >")
    assert why(clone, "tidy") == (
        "command changed: cat out/prepare/sub/* > out/tidy.txt → sort out/prepare/sub/* > out/tidy.txt",
    )
    edit(clone / "params.yaml", "size: 4", "size: 5")
    command, parameter = why(clone, "prepare")
    assert command.startswith("command changed: …")
    assert "head -c 4" in command
    assert "head -c 5" in command
    assert parameter == "size: 4 → 5"


def test_code_changes_appears_and_is_missing(clone: Path) -> None:
    edit(clone / "code" / "train.py", "train", "train # edited")
    edit(clone / "code" / "shapes" / "round.txt", "round", "square")
    assert why(clone, "train") == ("module code/train.py changed", "folder code/shapes changed")
    (clone / "rules.txt").write_text("other rules\n")
    assert why(clone, "prepare") == ("file rules.txt changed",)
    (clone / "code" / "new.py").write_text("new\n")
    edit(clone / "dvc.yaml", "deps: [out/prepare/sub,", "deps: [out/prepare/sub, code/new.py,")
    assert why(clone, "tidy") == ("module code/new.py is new",)
    (clone / "code" / "report.py").unlink()
    assert why(clone, "report") == ("module code/report.py is missing",)


def test_code_removed_by_git_is_missing(clone: Path) -> None:
    git(clone, "rm", "-q", "rules.txt")
    git(clone, "commit", "-q", "-m", "Remove")
    assert why(clone, "prepare") == ("file rules.txt is missing",)
    shutil.rmtree(clone / "code" / "shapes")
    assert why(clone, "train") == ("folder code/shapes is missing",)


def test_a_dependency_or_parameter_no_longer_listed_is_nothing_to_dvc(toy: Path) -> None:
    edit(toy / "dvc.yaml", ", code/tidy.py]", "]")
    edit(toy / "dvc.yaml", "[size, loose]", "[size]")
    assert set(verdicts(plan(toy)).values()) == {"unchanged"}
    assert repro(toy) == set()


def test_the_watched_folder(toy: Path) -> None:
    (toy / "raw" / ".gitkeep").write_text("hidden by .dvcignore\n")
    assert set(verdicts(plan(toy)).values()) == {"unchanged"}
    (toy / "raw" / "two.txt").write_text("two\n")
    assert why(toy, "prepare") == ("folder raw changed",)
    # Empty or absent is a clone's, not a change.
    (toy / "raw" / "one.txt").unlink()
    (toy / "raw" / "two.txt").unlink()
    assert set(verdicts(plan(toy)).values()) == {"unchanged"}
    (toy / "raw" / ".gitkeep").unlink()
    git(toy, "commit", "-qam", "No folder")
    (toy / "raw").rmdir()
    assert set(verdicts(plan(toy)).values()) == {"unchanged"}


def test_watching_another_folder(clone: Path) -> None:
    edit(clone / "params.yaml", "raw: raw", "raw: elsewhere")
    reasons = why(clone, "prepare")
    assert len(reasons) == 2
    assert reasons[1] == "file elsewhere is new"


def test_an_upstream_that_ran_alone(toy: Path, tmp_path: Path) -> None:
    edit(toy / "params.yaml", "size: 4", "size: 5")
    (toy / "raw" / "two.txt").write_text("two\n")
    assert repro(toy, "-s", "prepare") == {"prepare"}
    # Parts of the folder are compared by the listing in the cache.
    assert why(toy, "tidy") == ("input out/prepare/sub changed: prepare ran since",)
    assert why(toy, "train") == ("input out/prepare/a.txt changed: prepare ran since",)
    assert why(toy, "report") == ("input out/prepare changed: prepare ran since",)
    git(toy, "commit", "-qam", "Half")
    git(tmp_path, "clone", "-q", str(toy), "half")
    assert list(verdicts(plan(tmp_path / "half")).values()) == ["unchanged", "unchanged", "unchanged", "run"]
    edit(toy / "dvc.yaml", "sub/b.txt", "b.txt")
    assert repro(toy, "-s", "prepare") == {"prepare"}
    assert why(toy, "tidy") == ("input out/prepare/sub is gone: prepare ran since",)


def test_data_in_the_workspace_is_not_looked_at(toy: Path) -> None:
    shutil.rmtree(toy / "out" / "train")
    (toy / "out" / "tidy.txt").unlink()
    (toy / "out" / "tidy.txt").write_text("tampered with\n")
    assert set(verdicts(plan(toy)).values()) == {"unchanged"}


def test_a_new_output(clone: Path) -> None:
    edit(clone / "dvc.yaml", "outs: [out/tidy.txt]", "outs: [out/tidy.txt, out/more.txt]")
    assert why(clone, "tidy") == ("output out/more.txt is new",)


def test_maybe_spreads_and_names_what_is_directly_upstream(clone: Path) -> None:
    (clone / "rules.txt").write_text("other\n")
    (clone / "code" / "report.py").write_text("other\n")
    assert plan(clone) == [
        Planned("prepare", "run", ("file rules.txt changed",)),
        Planned("tidy", "maybe", ("depends on prepare",)),
        Planned("train", "maybe", ("depends on prepare, tidy",)),
        Planned("report", "run", ("module code/report.py changed",)),
    ]


def test_targets_and_what_they_depend_on(clone: Path) -> None:
    (clone / "rules.txt").write_text("other\n")
    assert verdicts(plan(clone, ["tidy"])) == {"prepare": "run", "tidy": "maybe"}
    assert plan(clone, ["report"]) == plan(clone)
    with pytest.raises(PlanError, match=r"no stage 'tdy'; there are: report, prepare, tidy, train"):
        plan(clone, ["tidy", "tdy"])


def test_from_a_subfolder_and_from_elsewhere(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edit(clone / "code" / "train.py", "train", "edited")
    expected = plan(clone)
    monkeypatch.chdir(clone / "code")
    assert plan(Path()) == expected
    monkeypatch.chdir("/")
    assert plan(clone / "code") == expected


ODD = """
stages:
  still:
    cmd: cp source.txt out/still.txt
    frozen: true
    deps: [source.txt, settings.json]
    outs: [out/still.txt]
  after:
    cmd: cp out/still.txt out/after.txt
    deps: [out/still.txt]
    outs: [out/after.txt]
  always:
    cmd: cp source.txt out/always.txt
    always_changed: true
    deps: [source.txt]
    outs: [out/always.txt]
  greet:
    cmd: echo hello
  made:
    foreach: [a, b]
    do:
      cmd: cat data/${item}.csv out/always.txt > out/made-${item}.txt
      deps: ["data/${item}.csv", out/always.txt]
      outs: ["out/made-${item}.txt"]
  both:
    cmd: cat mixed/* > out/both.txt
    deps: [mixed]
    outs: [out/both.txt]
  mix:
    cmd: cp source.txt mixed/output.txt
    deps: [source.txt]
    outs: [mixed/output.txt]
"""


@pytest.fixture(scope="module")
def odd_done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Frozen, always changed, without dependencies, foreach, data under `dvc add`, a folder with an output in it."""
    files = {"dvc.yaml": ODD.replace("frozen: true", "frozen: false"), "source.txt": "source\n", "settings.json": "{}"}
    files |= {".gitignore": "/out/\n/mixed/output.txt\n", "mixed/tracked.txt": "tracked\n", "nested/file.txt": "\n"}
    files |= {"nested/dvc.yaml": "stages:\n  other: {cmd: echo, deps: [file.txt]}\n"}
    folder = project(tmp_path_factory.mktemp("odd"), files)
    (folder / "out").mkdir()
    (folder / "data").mkdir()
    for name in "ab":
        (folder / "data" / f"{name}.csv").write_text(name)
    command = [sys.executable, "-m", "dvc", "add", "-q", "data/a.csv", "data/b.csv"]
    subprocess.run(command, cwd=folder, check=True, timeout=240)
    repro(folder)
    (folder / "dvc.yaml").write_text(ODD)
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "Run")
    return folder


@pytest.fixture
def odd(odd_done: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(odd_done, tmp_path / "odd"))


def test_frozen_always_changed_callback_and_foreach(odd: Path) -> None:
    expected = [
        Planned("still", "unchanged", ("frozen: dvc repro does not run it",)),
        Planned("after", "unchanged", ()),
        Planned("always", "run", ("always runs: always_changed in dvc.yaml",)),
        Planned("greet", "run", ("always runs: it has neither dependencies nor outputs",)),
        Planned("made@a", "maybe", ("depends on always",)),
        Planned("made@b", "maybe", ("depends on always",)),
        Planned("mix", "unchanged", ()),
        Planned("both", "unchanged", ()),
    ]
    assert plan(odd) == expected
    assert set(verdicts(plan(odd, ["made"]))) == {"always", "made@a", "made@b"}
    (odd / "settings.json").write_text("{1: 2}")
    assert plan(odd) == expected
    assert repro(odd) == {"always", "greet"}
    # Upstream of a frozen stage nothing is asked for either.
    assert verdicts(plan(odd, ["after"])) == {"still": "unchanged", "after": "unchanged"}


def test_data_under_dvc_add_is_a_source(odd: Path, tmp_path: Path) -> None:
    git(tmp_path, "clone", "-q", str(odd), "clone")
    clone = tmp_path / "clone"
    assert plan(clone) == plan(odd)
    (odd / "data" / "a.csv").unlink()
    (odd / "data" / "a.csv").write_text("changed\n")
    assert why(odd, "made@a") == ("input data/a.csv changed",)
    assert repro(odd) == {"always", "greet", "made@a"}
    shutil.copy(odd / "data" / "a.csv.dvc", clone / "data" / "a.csv.dvc")
    assert why(clone, "made@a") == ("input data/a.csv changed: data/a.csv.dvc names other data",)


def test_a_folder_that_holds_an_output_is_a_guess_where_the_output_is_here(odd: Path, tmp_path: Path) -> None:
    (odd / "mixed" / "tracked.txt").write_text("edited\n")
    (one,) = [one for one in plan(odd) if one.stage == "both"]
    assert one.verdict == "maybe"
    assert one.reasons == ("folder mixed, with outputs of other stages in it, is not as recorded",)
    git(odd, "commit", "-qam", "Edit")
    git(tmp_path, "clone", "-q", str(odd), "clone")
    assert verdicts(plan(tmp_path / "clone"))["both"] == "unchanged"


def test_no_more_is_asked_upstream_of_a_frozen_stage(clone: Path) -> None:
    edit(clone / "dvc.yaml", "  tidy:\n", "  tidy:\n    frozen: true\n")
    (clone / "rules.txt").write_text("other\n")
    assert verdicts(plan(clone, ["tidy"])) == {"tidy": "unchanged"}
    assert verdicts(plan(clone)) == {"prepare": "run", "tidy": "unchanged", "train": "maybe", "report": "maybe"}
    assert plan(clone)[2].reasons == ("depends on prepare",)


# What a test cannot let DVC run: recorded by hand, as DVC would have.
FAR_YAML = """
stages:
  far:
    cmd: ls
    deps: ["https://example.invalid/a.zip", "/nowhere/at/all.zip"]
    params: ["shapes.py": [SIZES], "out/facts.json": [mean], "whole.yaml": null]
  facts:
    cmd: python facts.py
    outs: [out/facts.json]
"""
FAR_LOCK = """
schema: '2.0'
stages:
  far:
    cmd: ls
    deps:
    - {path: "https://example.invalid/a.zip", hash: md5, checksum: abc}
    - {path: /nowhere/at/all.zip, hash: md5, md5: abc}
    params:
      shapes.py: {SIZES: [1, 2]}
      out/facts.json: {mean: 1}
      whole.yaml: {}
  facts:
    cmd: python facts.py
    outs:
    - {path: out/facts.json, hash: md5, md5: abc}
"""


def test_what_is_on_other_machines_is_taken_as_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *arguments, **_: asked.append(arguments) or [])
    files = {"dvc.yaml": FAR_YAML, "dvc.lock": FAR_LOCK, "shapes.py": "SIZES = (1, 2)\n", "whole.yaml": ""}
    folder = project(tmp_path, files)
    assert set(verdicts(plan(folder)).values()) == {"unchanged"}
    assert asked == []
    edit(folder / "dvc.lock", "      whole.yaml: {}\n", "")
    (folder / "shapes.py").write_text("SIZES = (1, 3)\n")
    assert why(folder, "far") == ("shapes.py: SIZES[1]: 2 → 3", "the parameters of whole.yaml are new")
    # A parameter file that a stage writes is compared where it is.
    (folder / "out").mkdir()
    (folder / "out" / "facts.json").write_text('{"mean": 2}')
    assert "out/facts.json: mean: 1 → 2" in why(folder, "far")


def test_an_upstream_in_another_dvc_yaml_has_its_path_before_its_name(tmp_path: Path) -> None:
    files = {"dvc.yaml": "stages: {own: {cmd: ls, deps: [sub/out.txt]}}", "unasked/dvc.yaml": "stages: {x: {cmd: ls}}"}
    files["sub/dvc.yaml"] = "stages: {made: {cmd: ls, outs: [out.txt]}}"
    planned = plan(project(tmp_path, files), ["own"])
    assert [one.stage for one in planned] == ["sub/dvc.yaml:made", "own"]
    assert plan(tmp_path) == planned


def edits(folder: Path) -> dict[str, Callable[[], None]]:
    """Everything people do to the toy between two runs."""
    return {
        "depth": lambda: edit(folder / "params.yaml", "depth: 3", "depth: 4"),
        "epochs": lambda: edit(folder / "params.yaml", "epochs: 10", "epochs: 11"),
        "size": lambda: edit(folder / "params.yaml", "size: 4", "size: 3"),
        "without effect": lambda: edit(folder / "params.yaml", "[1, 2]", "[2, 1]"),
        "a comment": lambda: edit(folder / "params.yaml", "size:", "# how much\nsize:"),
        "rules": lambda: (folder / "rules.txt").write_text("rulez\n") and None,
        "rules, too late": lambda: (folder / "rules.txt").write_text("rules, and more\n") and None,
        "tidy": lambda: (folder / "code" / "tidy.py").write_text("new\n") and None,
        "report": lambda: (folder / "code" / "report.py").write_text("new\n") and None,
        "raw": lambda: (folder / "raw" / "two.txt").write_text("two\n") and None,
        "seed": lambda: (folder / "settings.json").write_text('{"seed": 5}') and None,
        "command": lambda: edit(folder / "dvc.yaml", "cat out/tidy.txt code", "cat  out/tidy.txt code"),
        "one stage only": lambda: repro(folder, "-s", "prepare") and None,
    }


@pytest.mark.parametrize("number", range(8))
def test_dvc_then_runs_what_was_planned(toy: Path, number: int) -> None:
    """Every "run" runs, nothing runs that was "unchanged", and afterwards nothing is left to do."""
    chance = random.Random(number)
    names = chance.sample(list(edits(toy)), chance.randint(1, 3))
    for name in names:
        edits(toy)[name]()
    planned = verdicts(plan(toy))
    ran = repro(toy)
    assert {stage for stage, verdict in planned.items() if verdict == "run"} <= ran, names
    assert ran <= {stage for stage, verdict in planned.items() if verdict != "unchanged"}, names
    assert set(verdicts(plan(toy)).values()) == {"unchanged"}, names


def broken(name: str, text: str | None) -> Callable[[Path], None]:
    def breaks(folder: Path) -> None:
        (folder / name).unlink() if text is None else (folder / name).write_text(text)

    return breaks


@pytest.mark.parametrize(
    ("breaks", "said"),
    [
        (broken("params.yaml", None), "params.yaml: not found, and dvc.yaml takes values from it"),
        (broken("params.yaml", "size: [4"), "'params.yaml', YAML file structure is corrupted: .* line 1, column 7"),
        (broken("params.yaml", "- size"), "expected a dictionary, got 'list' in file 'params.yaml'"),
        (broken("settings.json", None), "settings.json: not found; stage train reads its parameters there"),
        (broken("settings.json", "{"), "Unable to read parameters from 'settings.json': .*corrupted"),
        (broken("dvc.yaml", None), "no dvc.yaml there"),
        (broken("dvc.yaml", "stages: ["), "'dvc.yaml', YAML file structure is corrupted: .* at line 2, column 1"),
        (broken("dvc.yaml", "stages: {a: {cmd: ls, ous: []}}"), "extra keys not allowed @ .*'ous'"),
        (broken("dvc.lock", "<<<<<<< HEAD\nstages: {}\n"), "'dvc.lock', YAML file structure is corrupted: .* line 2"),
        (broken("dvc.lock", "stages: {train: 1}"), "dvc.lock' validation failed"),
        (broken("dvc.lock", "\0"), "'dvc.lock', YAML file structure is corrupted"),
        (lambda folder: shutil.rmtree(folder / ".dvc"), "not inside of a DVC repository"),
        (lambda folder: shutil.rmtree(folder / ".git"), "not a git repository"),
        (lambda folder: shutil.rmtree(folder), "does not exist"),
    ],
)
def test_errors_are_one_line(
    clone: Path, breaks: Callable[[Path], None], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(clone)
    breaks(clone)
    monkeypatch.chdir(clone if clone.exists() else "/")
    with pytest.raises(PlanError, match=said) as caught:
        plan(clone)
    assert str(caught.value).isprintable()
    assert str(clone) in str(caught.value) or "settings.json" in str(caught.value)


HOSTILE = (
    "a|b <img src=x onerror=alert(1)> [x](http://x) `c` **d** ~e~ _f_ \\| ![g](h) &lt; www.x.org a@b.c $m$ \u202e\n|"
)


def test_nothing_breaks_the_table_or_becomes_markup() -> None:
    text = as_markdown([Planned(HOSTILE, "run", (HOSTILE, "fine_tune.tail.epochs: 10 → 12"))])
    head, rule, row = text.removesuffix("\n").split("\n")
    # What a backslash makes plain is neither a cell's end nor markup.
    row = re.sub(r"\\[^A-Za-z0-9\s]", "", row)
    assert head.count("|") == rule.count("|") == row.count("|") == 4
    assert row.endswith("<br>fine_tune.tail.epochs: 10 → 12 |")
    cell = row.replace("<br>", "")
    assert not set("<>[]`*~\\!$@\u202e") & set(cell)
    assert "://" not in cell
    assert "www." not in cell
    assert "&amp;lt;" in cell


def test_many_reasons_are_counted_and_not_all_shown() -> None:
    planned = Planned("a", "run", tuple(str(number) for number in range(30)))
    assert shown(planned) == [*map(str, range(12)), "and 18 more"]
    assert "and 18 more" in as_markdown([planned])


def test_hostile_names_and_values(clone: Path) -> None:
    name = "code/a|b\n<b>.py"
    (clone / name).write_text("x\n")
    yaml = YAML()
    stages = yaml.load(clone / "dvc.yaml")
    stages["stages"]["tidy"]["deps"].append(name)
    yaml.dump(stages, clone / "dvc.yaml")
    assert why(clone, "tidy") == ("module code/a|b\\n<b>.py is new",)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This project's tracked files as they stand, in a repository of their own: no data, no cache."""
    folder = tmp_path_factory.mktemp("graft")
    names = git(ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
    for name in names:
        wanted = name.startswith(
            (".dvc", ".gitignore", "dvc.", "params.yaml", "stages/", "commands/", "flows/", "data/")
        )
        if wanted and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "Start")
    return folder


def test_the_project_itself(checkout: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(checkout, tmp_path / "graft"))
    before = plan(folder)
    assert [one.stage for one in before] == [
        "download", "validate", "split", "feature_extract", "fine_tune", "evaluate", "export",
    ]  # fmt: skip
    # Whatever is being edited in this tree now is taken as run.
    yaml = YAML()
    lock = yaml.load(folder / "dvc.lock")
    for entry in lock["stages"].values():
        for dependency in entry["deps"]:
            if dependency["path"].endswith(".py"):
                dependency["md5"] = _md5(folder / dependency["path"])
    listed = yaml.load(folder / "dvc.yaml")["stages"]
    for stage, entry in lock["stages"].items():
        known = {dependency["path"] for dependency in entry["deps"]}
        for path in listed[stage]["deps"]:
            if path.endswith(".py") and path not in known:
                entry["deps"].append({"path": path, "hash": "md5", "md5": _md5(folder / path)})
    yaml.dump(lock, folder / "dvc.lock")
    params = yaml.load(folder / "params.yaml")
    seed = params["fine_tune"].get("seed")
    params["fine_tune"]["seed"] = 77
    yaml.dump(params, folder / "params.yaml")
    after = {one.stage: one for one in plan(folder)}
    reason = "fine_tune.seed: added (77)" if seed is None else f"fine_tune.seed: {seed} → 77"
    assert after["fine_tune"] == Planned("fine_tune", "run", (reason,))
    assert after["evaluate"] == Planned("evaluate", "maybe", ("depends on fine_tune",))
    assert after["export"] == Planned("export", "maybe", ("depends on fine_tune, evaluate",))


def _md5(path: Path) -> str:
    import hashlib

    return hashlib.md5(path.read_bytes()).hexdigest()


def graft_plan(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "commands", "plan", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240)


def test_the_command(clone: Path) -> None:
    assert graft_plan(clone).stdout.endswith("unchanged report\nnothing to do\n")
    edit(clone / "params.yaml", "epochs: 10", "epochs: 12")
    done = graft_plan(clone / "code")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "unchanged prepare",
        "unchanged tidy",
        "run       train",
        "            train.tail.epochs: 10 → 12",
        "maybe     report",
        "            depends on train",
        "1 stage would run, 1 may, 2 unchanged",
    ]
    rows = json.loads(graft_plan(clone, "--json", "train").stdout)
    assert rows[2] == {"stage": "train", "verdict": "run", "reasons": ["train.tail.epochs: 10 → 12"]}
    assert len(rows) == 3


def test_the_command_s_errors_end_with_2(clone: Path, tmp_path: Path) -> None:
    done = graft_plan(clone, "trian")
    assert (done.returncode, done.stderr) == (2, "graft: no stage 'trian'; there are: report, prepare, tidy, train\n")
    done = graft_plan(tmp_path)
    assert (done.returncode, "not inside of a DVC repository" in done.stderr) == (2, True)


def test_the_command_loads_nothing_heavy(clone: Path) -> None:
    heavy = ("tensorflow", "keras", "great_expectations", "sklearn", "pandas", "prefect")
    code = (
        f"import sys, commands.plan; commands.plan.plan([]); print([name for name in {heavy!r} if name in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=clone, env=environment, capture_output=True, text=True, timeout=240, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
