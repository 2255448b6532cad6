"""graft promote in real git and DVC with a remote each: who becomes champion, who fetches it, who is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from commands import promote
from flows import git
from flows.registry import Registry
from stages.store import hashes

ROOT = Path(__file__).parents[2]
# Five of the seven stages, each writing what promotion reads. A model is right on an image whose difficulty is below
# its skill, and by its own luck on one of fifty.
STAGE = """
import json, sys
from pathlib import Path
import numpy as np
from ruamel.yaml import YAML
from stages.core import schemas
from stages.store import tables

name = sys.argv[1]
settings = YAML(typ="safe").load(Path("params.yaml").read_text())
classes, count = settings["validate"]["classes"], settings["validate"]["images"]
folder = Path("reports/evaluate" if name == "evaluate" else f"data/{name}")
folder.mkdir(parents=True, exist_ok=True)
kinds = {"string": "x", "int32": 32, "int64": 32, "double": 0.5, "bool": True}
images = [{"name": f"{classes[n % len(classes)]}/{n:04}.png", "label": classes[n % len(classes)],
           "image_id": f"{n:064x}", "group": f"{n:064x}"} for n in range(count)]
start, end = settings["split"]["test"]
for n, image in enumerate(images):
    image["split"] = "test" if start <= n < end else "train"
if name == "validate":
    (folder / "classes.json").write_text(json.dumps({"classes": classes}))
    rows = [{**{field.name: kinds[str(field.type)] for field in schemas.FACTS}, "given_split": None,
             "brightness": n % 7 / 7, **{key: image[key] for key in ("name", "label", "image_id", "group")}}
            for n, image in enumerate(images)]
    tables.write(folder / "facts.parquet", tables.from_rows(rows, schemas.FACTS))
if name == "split":
    tables.write(folder / "split.parquet", tables.from_rows(images, schemas.SPLIT))
if name == "fine_tune":
    (folder / "model.keras").write_text(json.dumps(settings["fine_tune"]))
if name == "evaluate":
    model = json.loads(Path("data/fine_tune/model.keras").read_text())
    right = np.random.default_rng(0).random(count) < model["skill"]
    right ^= np.random.default_rng(model["seed"]).random(count) < 0.02
    rows = []
    for n, image in enumerate(images):
        if image["split"] == "test":
            named = (n + (not right[n])) % len(classes)
            sure = [(1 - model["skill"]) / (len(classes) - 1)] * len(classes)
            sure[named] = model["skill"]
            rows.append({**{key: image[key] for key in ("name", "image_id", "split", "label")},
                         "predicted": classes[named], "probabilities": sure})
    tables.write(folder / "predictions.parquet", tables.from_rows(rows, schemas.PREDICTIONS))
if name == "export":
    (folder / "model.bin").write_text("exported " + Path("data/fine_tune/model.keras").read_text())
    (folder / "labels.txt").write_text("\\n".join(classes))
"""
NEEDS = {
    "validate": [],
    "split": ["data/validate"],
    "fine_tune": ["data/split"],
    "evaluate": ["data/fine_tune", "data/split/split.parquet"],
    "export": ["data/fine_tune/model.keras", "data/split/split.parquet", "reports/evaluate/predictions.parquet"],
}
OUT = {name: "reports/evaluate" if name == "evaluate" else f"data/{name}" for name in NEEDS}


class Project:
    """A checkout with a git origin and a DVC remote beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def make(cls, world: Path) -> Project:
        self = cls(world / "here")
        self.folder.mkdir(parents=True)
        (self.folder / "stage.py").write_text(STAGE)
        stages = {
            name: {
                "cmd": f"python stage.py {name}",
                "deps": ["stage.py", *needs],
                "params": [name],
                "outs": [OUT[name]],
            }
            for name, needs in NEEDS.items()
        }
        artifacts = YAML(typ="safe").load(ROOT / "dvc.yaml")["artifacts"]
        YAML().dump({"stages": stages, "artifacts": artifacts}, self.folder / "dvc.yaml")
        blocks: dict[str, Any] = {name: {} for name in NEEDS}
        blocks["validate"] = {"classes": ["cat", "dog"], "images": 1000}
        blocks["split"] = {"test": [0, 600]}
        blocks["fine_tune"] = {"skill": 0.85, "seed": 1}
        YAML().dump(blocks, self.folder / "params.yaml")
        (self.folder / ".gitignore").write_text("/data/\n/reports/\n/.graft/\n")
        subprocess.run(["git", "init", "-q", "--bare", "-b", "main", str(world / "origin")], check=True)
        self.git("init", "-q", "-b", "main")
        self.git("remote", "add", "origin", str(world / "origin"))
        self.python("-m", "dvc", "init", "-q")
        self.python("-m", "dvc", "remote", "add", "-q", "-d", "store", str(world / "store"))
        self.python("-m", "dvc", "config", "core.analytics", "false")
        return self

    def git(self, *arguments: str) -> str:
        who = ["-c", "user.name=Test", "-c", "user.email=test@example.com"]
        return subprocess.run(
            ["git", *who, *arguments], cwd=self.folder, check=True, capture_output=True, text=True
        ).stdout.strip()

    def python(self, *arguments: str, code: int = 0) -> str:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            [sys.executable, "-W", "ignore", *arguments], cwd=self.folder, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, timeout=300,
            env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "DVC_NO_ANALYTICS": "1"},
        )  # fmt: skip
        assert done.returncode == code, done.stdout
        return done.stdout

    def train(self, commit: str | None, **blocks: dict[str, Any]) -> None:
        values = YAML().load(self.folder / "params.yaml")
        for block, changes in blocks.items():
            values[block].update(changes)
        YAML().dump(values, self.folder / "params.yaml")
        self.python("-m", "dvc", "repro", "-q")
        if commit:
            self.commit(commit)

    def commit(self, message: str) -> None:
        self.git("add", "-A")
        self.git("commit", "-q", "-m", message)
        self.git("push", "-q", "origin", "HEAD:main")

    def promote(self, *options: str, code: int = 0) -> str:
        return self.python("-m", "commands", "promote", *options, code=code)

    def gto(self, *arguments: str) -> str:
        return self.python(str(Path(sys.executable).parent / "gto"), *arguments)

    def tags(self) -> list[str]:
        return self.git("tag", "--list").split()

    def body(self, tag: str) -> Any:
        return json.loads(self.git("for-each-ref", "--format=%(contents:body)", f"refs/tags/{tag}"))

    def fetch(self, out: Path, *which: str) -> dict[str, str]:
        """`dvc artifacts get` from the origin, with an empty cache; SHA-256 by name."""
        address = self.git("remote", "get-url", "origin")
        self.python("-m", "dvc", "artifacts", "get", address, "classifier", *which, "-o", str(out))
        return hashes.sha256_of_tree(out)

    def exported(self) -> dict[str, str]:
        return hashes.sha256_of_tree(self.folder / "data/export")


@pytest.mark.slow
def test_champions_come_and_go(tmp_path: Path) -> None:
    project = Project.make(tmp_path)
    project.train("First model")
    first = project.exported()
    said = project.promote("--push")
    assert "passed first-model" in said
    assert project.tags() == ["classifier#champion#1", "classifier@v1.0.0"]
    record = project.body("classifier#champion#1")
    assert record == project.body("classifier@v1.0.0")
    assert record["challenger"]["commit"] == project.git("rev-parse", "HEAD")
    assert record["challenger"]["model_sha256"] == hashes.sha256_of_file(project.folder / "data/fine_tune/model.keras")
    assert record["challenger"]["export_md5"] in (project.folder / "dvc.lock").read_text()
    assert (record["verdict"], record["champion"], record["tried"]["models"]) == ("promoted", None, 1)
    assert project.fetch(tmp_path / "got-1", "--stage", "champion") == first
    assert "champion already" in project.promote()

    # A better one: nothing is tagged before it is committed.
    project.train(None, fine_tune={"skill": 0.93})
    assert "differ from HEAD: commit them" in project.promote(code=2)
    assert len(project.tags()) == 2
    assert json.loads(project.promote("--dry-run", "--json"))["verdict"] == "not tagged"
    project.commit("Better")
    better, at_better = project.exported(), project.git("rev-parse", "HEAD")
    assert "would be promoted as classifier@v1.1.0" in project.promote("--dry-run")
    assert len(project.tags()) == 2
    project.promote("--push")
    assert project.tags()[-1] == "classifier@v1.1.0"
    record = project.body("classifier#champion#2")
    assert [rule["name"] for rule in record["rules"]] == [
        "class-set-changed", "test-split-changed", "better", "no-slice-worse", "calibration-not-worse",
    ]  # fmt: skip
    assert record["champion"]["version"] == "classifier@v1.0.0"
    assert record["champion"]["model_sha256"]
    assert record["slices"]
    assert project.fetch(tmp_path / "got-2", "--stage", "champion") == better
    assert project.fetch(tmp_path / "got-3", "--rev", "v1.0.0") == first

    # No better, twice: exit 3, a record all the same, and the second is warned of.
    project.train("Luck", fine_tune={"seed": 2})
    assert "failed better" in project.promote(code=3)
    assert len(list((project.folder / ".graft/promotions").iterdir())) == 3
    project.train("More luck", fine_tune={"seed": 3})
    record = json.loads(project.promote("--json", code=3))
    assert (record["tried"], len(record["warnings"])) == ({"models": 2, "unknown": 0}, 1)
    assert len(project.tags()) == 4

    # Another machine has neither model in its cache: the champion's predictions come from the remote.
    project.git("push", "-q", "origin", "main", "--tags")
    project.python("-m", "dvc", "push", "-q")
    project.git("clone", "-q", str(tmp_path / "origin"), str(tmp_path / "there"))
    there = Project(tmp_path / "there")
    there.python("-m", "dvc", "pull", "-q")
    assert "failed better" in there.promote("--dry-run", code=3)

    # Back to the first by re-assigning; then the second wins again, under the version it has.
    project.gto("assign", "classifier", "--version", "v1.0.0", "--stage", "champion", "--force")
    project.git("push", "-q", "origin", "--tags")
    assert project.fetch(tmp_path / "got-4", "--stage", "champion") == first
    project.git("checkout", "-q", at_better)
    project.python("-m", "dvc", "checkout", "-q")
    project.promote("--push")
    assert "classifier@v1.2.0" not in project.tags()
    assert project.body("classifier#champion#4")["champion"]["version"] == "classifier@v1.0.0"


@pytest.mark.slow
def test_another_test_and_other_classes_need_a_word(tmp_path: Path) -> None:
    project = Project.make(tmp_path)
    project.train("First model")
    project.promote()
    # 200 of 600 test images left the test: whoever took them out has to say so.
    project.train("Better, tested on other images", fine_tune={"skill": 0.95}, split={"test": [200, 800]})
    said = project.promote(code=2)
    assert "400 images of both tests" in said
    assert "--accept split" in said
    record = json.loads(project.promote("--dry-run", "--json", "--accept", "split"))
    assert (record["verdict"], record["accepted"]) == ("promoted", ["split"])
    assert next(rule for rule in record["rules"] if rule["name"] == "better")["images"] == 400
    project.train("Owls", split={"test": [0, 600]}, validate={"classes": ["cat", "dog", "owl"]})
    assert "new: owl" in project.promote(code=2)
    # A third of the cats and dogs are owls now, and so left the comparison: that needs a word of its own.
    assert "--accept split" in project.promote("--accept", "classes", code=2)
    record = json.loads(project.promote("--dry-run", "--json", "--accept", "classes", "--accept", "split"))
    assert (record["verdict"], record["tags"][0]) == ("promoted", "classifier@v2.0.0")


def test_of_two_at_once_one_is_told_that_it_came_too_late(tmp_path: Path) -> None:
    project = Project.make(tmp_path)
    project.commit("Start")
    head = project.git("rev-parse", "HEAD")
    early, late = Registry(project.folder), Registry(project.folder)
    early.promote(head, early.next_names(head, False), "First", {"verdict": "promoted"})
    with pytest.raises(git.TagTaken, match=r"another promotion came first; the champion is now classifier@v1\.0\.0"):
        late.promote(head, late.next_names(head, False), "Second", {})
    # All or none: a number that is taken takes the version with it.
    with pytest.raises(git.TagTaken):
        late.promote(head, ["classifier@v9.0.0", "classifier#champion#1"], "Second", {})
    assert project.tags() == ["classifier#champion#1", "classifier@v1.0.0"]

    # On two machines the push decides, and the loser keeps no tag of its own.
    project.git("clone", "-q", "--no-tags", str(tmp_path / "origin"), str(tmp_path / "there"))
    project.git("push", "-q", "origin", "--tags")

    class Pushed:
        def push(self, stages: list[str]) -> int:
            return 0

    there = Registry(tmp_path / "there")
    record = {"tags": there.next_names(head, False), "challenger": {"commit": head}, "because": "", "verdict": ""}
    assert record["tags"] == ["classifier@v1.0.0", "classifier#champion#1"]
    with pytest.raises(git.TagTaken, match="another promotion came first"):
        promote._tag(tmp_path / "there", Pushed(), there, record, push=True)  # type: ignore[arg-type]
    champion = Registry(tmp_path / "there").champion()
    assert champion is not None
    assert champion.record == {"verdict": "promoted"}


def test_the_last_assignment_counts_also_within_a_second(tmp_path: Path) -> None:
    project = Project.make(tmp_path)
    shas = []
    for number in range(12):
        project.git("commit", "-q", "--allow-empty", "-m", str(number))
        shas.append(project.git("rev-parse", "HEAD"))
        registry = Registry(project.folder)
        registry.promote(shas[-1], registry.next_names(shas[-1], number == 5), "", {})
    champion = Registry(project.folder).champion()
    assert champion is not None
    assert (champion.commit, champion.tag, champion.version) == (
        shas[-1],
        "classifier#champion#12",
        "classifier@v2.6.0",
    )
    project.git("tag", "-a", "classifier#staging#13", "-m", "another stage", shas[0])
    project.git("tag", "classifier#champion#14", shas[0])  # not annotated: neither GTO nor we take it for one
    now = Registry(project.folder).champion()
    assert now is not None
    assert now.commit == shas[-1]
    shown = project.gto("show", "classifier#champion", "--json")
    assert shas[-1] in shown


def test_a_withdrawn_stage_leaves_no_champion(tmp_path: Path) -> None:
    project = Project.make(tmp_path)
    project.commit("Start")
    head = project.git("rev-parse", "HEAD")
    registry = Registry(project.folder)
    registry.promote(head, registry.next_names(head, False), "", {})
    time.sleep(1.1)  # tags know whole seconds
    project.gto("deprecate", "classifier", "v1.0.0", "champion")
    assert Registry(project.folder).champion() is None
