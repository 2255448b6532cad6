"""graft promote in real git and DVC with a remote each: who becomes champion, who fetches it, who is refused."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from commands import promote
from flows import git
from flows.registry import Registry
from stages.store import hashes
from tests.promotable import Project


@pytest.mark.slow
def test_champions_come_and_go(tmp_path: Path) -> None:
    project = Project.make(tmp_path)
    project.train("First model")
    first = project.exported()
    assert "passed first-model" in project.promote()
    assert project.tags() == ["classifier#champion#1", "classifier@v1.0.0"]
    record = project.body("classifier#champion#1")
    assert record == project.body("classifier@v1.0.0")
    assert record["challenger"]["commit"] == project.git("rev-parse", "HEAD")
    assert record["challenger"]["model_sha256"] == hashes.sha256_of_file(project.folder / "data/fine_tune/model.keras")
    assert record["challenger"]["export_md5"] in (project.folder / "dvc.lock").read_text()
    assert (record["verdict"], record["champion"], record["tried"]["models"]) == ("promoted", None, 1)
    # Tagged here alone, as a flow does it; --push sends it later, too.
    assert project.git("ls-remote", "--tags", "origin") == ""
    assert "this model is classifier@v1.0.0" in project.promote("--push")
    assert project.fetch(tmp_path / "got-1", "--stage", "champion") == first
    # The same network in another wrapping.
    project.train("Export anew", export={"note": "another"})
    assert project.exported() != first
    assert "only its export differs" in project.promote()
    assert len(project.tags()) == 2

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
    project.train("Luck", fine_tune={"seed": 2}, export={"missing": "onnx"})
    said = project.promote(code=3)
    assert "failed better" in said
    assert "warning onnx was not published: it cannot be written" in said
    assert len(list((project.folder / ".graft/promotions").iterdir())) == 4
    project.train("More luck", fine_tune={"seed": 3}, export={"missing": None})
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
    assert project.tags() == ["classifier#champion#1", "classifier@v1.0.0"]
    record = json.loads(project.promote("--json", "--accept", "split"))
    assert (record["verdict"], record["accepted"]) == ("promoted", ["split"])
    assert next(rule for rule in record["rules"] if rule["name"] == "better")["images"] == 400
    assert project.tags()[-1] == "classifier@v1.1.0"
    assert project.body("classifier#champion#2") == record
    project.train(
        "Owls", split={"test": [0, 600]}, validate={"classes": ["cat", "dog", "owl"]}, fine_tune={"skill": 0.99}
    )
    assert "new: owl" in project.promote(code=2)
    # A third of the cats and dogs are owls now, and so left the comparison: that needs a word of its own.
    assert "--accept split" in project.promote("--accept", "classes", code=2)
    assert len(project.tags()) == 4
    record = json.loads(project.promote("--json", "--accept", "classes", "--accept", "split"))
    assert (record["verdict"], record["tags"]) == ("promoted", ["classifier@v2.0.0", "classifier#champion#3"])
    assert project.git("rev-parse", "classifier@v2.0.0^{commit}") == project.git("rev-parse", "HEAD")
    assert project.body("classifier@v2.0.0")["accepted"] == ["classes", "split"]


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
        def push(self, stages: list[str], commit: str) -> int:
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
