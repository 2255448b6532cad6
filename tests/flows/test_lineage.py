"""What made a file, told by its bytes alone: in real git and DVC, over several commits."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from flows.lineage import Lineage, trace
from flows.recorded import HERE, NotFound, Unknown
from tests.flows.toy import STAGES, Toy

yaml = YAML()


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    """Two committed runs, of fine_tune's values 0 and 5, and after them fine_tune alone with 9, not committed."""
    toy = Toy(tmp_path_factory.mktemp("lineage") / "project")
    toy.repro()
    toy.commit("First model")
    shutil.copytree(toy.folder / "data/export", toy.folder.parent / "first")
    toy.set(fine_tune={"value": 5})
    toy.repro()
    toy.commit("Second model")
    shutil.copytree(toy.folder / "data/export", toy.folder.parent / "second")
    toy.set(fine_tune={"value": 9})
    toy.run("-m", "dvc", "repro", "-s", "fine_tune")
    return toy


def commit(toy: Toy, message: str) -> str:
    return toy.git("log", "--format=%H", f"--grep={message}").strip()


def value(found: Lineage, stage: str) -> int:
    (one,) = (one for one in found.record()["stages"] if one["stage"] == stage)
    return int(one["params"][stage]["value"])


@pytest.mark.parametrize(("model", "message", "tuned"), [("first", "First model", 0), ("second", "Second model", 5)])
def test_a_copy_is_followed_to_the_run_that_made_it(history: Toy, model: str, message: str, tuned: int) -> None:
    """Also where the dvc.lock that is here now says that fine_tune ran since with another value."""
    with trace(history.folder, history.folder.parent / model / "out.txt") as found:
        record = found.record()
    assert (record["stage"], record["path"], record["commit"]) == (
        "export",
        "data/export/out.txt",
        commit(history, message),
    )
    assert {one["stage"] for one in record["stages"]} == set(STAGES)
    assert value(found, "fine_tune") == tuned
    assert record["doubts"] == []
    # The stages before were not run a second time: the first commit recorded them.
    (download,) = (one for one in record["stages"] if one["stage"] == "download")
    assert download["commit"] == commit(history, "First model")
    assert record["code"].startswith("1 module ran, as committed at ")


def test_a_folder_and_a_file_in_the_working_tree_are_found_too(history: Toy) -> None:
    with trace(history.folder, history.folder.parent / "second") as found:
        assert found.record()["commit"] == commit(history, "Second model")
    with trace(history.folder, history.folder / "data/fine_tune/out.txt") as found:
        record = found.record()
    assert (record["stage"], record["recorded"]) == ("fine_tune", HERE)
    assert value(found, "fine_tune") == 9
    assert "commit dvc.lock" in record["code"]
    assert {one["stage"] for one in record["stages"]} == {
        "download",
        "validate",
        "split",
        "feature_extract",
        "fine_tune",
    }


def test_a_merged_branchs_run_is_found_and_shared_bytes_are_doubted(history: Toy, tmp_path: Path) -> None:
    toy = history.copy(tmp_path / "copy")
    toy.git("checkout", "-q", "--force", "-b", "side")
    toy.set(fine_tune={"value": 7})
    toy.repro()
    toy.commit("Tried on a side branch")
    shutil.copytree(toy.folder / "data/export", tmp_path / "side")
    toy.git("checkout", "-q", "main")
    toy.git("merge", "-q", "-s", "ours", "-m", "Keep main's model", "side")
    toy.git("branch", "-q", "-D", "side")
    with trace(toy.folder, tmp_path / "side") as found:
        assert (found.record()["commit"], value(found, "fine_tune")) == (commit(toy, "Tried on a side branch"), 7)
        assert found.record()["path"] == "data/export/out.txt"
    # What fine_tune reads is the same in all runs, what it writes is not.
    with trace(toy.folder, toy.folder / "data/split/out.txt") as found:
        assert found.record()["doubts"] == []


def test_bytes_that_two_different_runs_share_are_doubted_until_a_file_tells_them_apart(
    history: Toy, tmp_path: Path
) -> None:
    """A run of other code writes the second model's file again, and another beside it."""
    toy = history.copy(tmp_path / "copy")
    more = '\nif name == "export":\n    (out / "more.txt").write_text("more")\n'
    (toy.folder / "stage.py").write_text((toy.folder / "stage.py").read_text() + more)
    toy.set(fine_tune={"value": 5})
    toy.repro()
    shared = tmp_path / "shared.txt"
    shutil.copy(toy.folder / "data/export/out.txt", shared)
    assert shared.read_bytes() == (history.folder.parent / "second/out.txt").read_bytes()
    with trace(toy.folder, shared) as found:
        record = found.record()
    (doubt,) = record["doubts"]
    assert record["recorded"] == HERE
    assert doubt.startswith("the same bytes were also written in another run: by export, recorded by commit ")
    assert commit(toy, "Second model")[:12] in doubt
    assert "give a file that tells them apart" in doubt
    shown = toy.run("-m", "commands", "lineage", str(shared)).stdout
    assert "doubt" in shown
    assert "another run" in shown
    with trace(toy.folder, toy.folder / "data/export") as found:
        assert found.record()["doubts"] == []
    with trace(toy.folder, toy.folder / "data/export/more.txt") as found:
        assert (found.record()["recorded"], found.record()["doubts"]) == (HERE, [])


def test_without_git_it_ends_as_a_fault_of_the_machine(history: Toy, tmp_path: Path) -> None:
    model = history.folder.parent / "first" / "out.txt"
    done = history.run("-m", "commands", "lineage", str(model), check=False, PATH=str(tmp_path))
    assert (done.returncode, done.stdout) == (5, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"graft: {history.folder}: git log did not work: ")


def test_code_that_was_not_committed_is_named(history: Toy, tmp_path: Path) -> None:
    toy = history.copy(tmp_path / "copy")
    (toy.folder / "stage.py").write_text((toy.folder / "stage.py").read_text() + "\n# tried out\n")
    toy.repro()
    toy.git("add", "dvc.lock", "params.yaml")
    toy.git("commit", "-q", "-m", "Third model, without its code")
    with trace(toy.folder, toy.folder / "data/export/out.txt") as found:
        assert ": stage.py" in found.record()["code"]
        assert found.record()["code"].startswith("of 1 module that ran 1 are not as committed at ")


def test_versions_of_libraries_that_were_not_committed_are_named(history: Toy, tmp_path: Path) -> None:
    toy = history.copy(tmp_path / "copy")
    path = toy.folder / "stages/versions/export.txt"
    path.parent.mkdir(parents=True)
    path.write_text("numpy==1\n")
    described = yaml.load((toy.folder / "dvc.yaml").read_text())
    described["stages"]["export"]["deps"].append("stages/versions/export.txt")
    with (toy.folder / "dvc.yaml").open("w") as file:
        yaml.dump(described, file)
    toy.repro()
    toy.commit("Fourth model, with its library")
    path.write_text("numpy==2\n")
    toy.repro()
    toy.git("add", "dvc.lock")
    toy.git("commit", "-q", "-m", "Fifth model, without the version of its library")
    with trace(toy.folder, toy.folder / "data/export/out.txt") as found:
        said = found.record()["code"]
    assert said.startswith("of 1 module and the versions of 1 stages' libraries that ran 1 are not as committed at ")
    assert said.endswith(": stages/versions/export.txt")


def test_what_nobody_wrote_is_refused_and_a_cache_that_lacks_it_is_said(history: Toy, tmp_path: Path) -> None:
    stranger = tmp_path / "stranger.txt"
    stranger.write_text("not a model of ours")
    with (
        pytest.raises(Unknown, match=r"no stage wrote these bytes, by 3 versions of dvc\.lock"),
        trace(history.folder, stranger),
    ):
        pass
    with pytest.raises(Unknown, match="holds no file"), trace(history.folder, _empty(tmp_path)):
        pass
    toy = history.copy(tmp_path / "copy")
    shutil.rmtree(toy.folder / ".dvc/cache")
    with pytest.raises(NotFound, match="dvc fetch -A"), trace(toy.folder, toy.folder.parent / "stranger.txt"):
        pass
    with pytest.raises(Unknown, match="start in the project's folder"), trace(tmp_path, stranger):
        pass


def _empty(folder: Path) -> Path:
    (folder / "empty").mkdir()
    return folder / "empty"


def test_the_command_prints_it_and_names_what_is_missing(history: Toy, tmp_path: Path) -> None:
    model = history.folder.parent / "first" / "out.txt"
    shown = history.run("-m", "commands", "lineage", str(model)).stdout
    assert "data/export/out.txt, written by export" in shown
    assert 'fine_tune: {"value": 0}' in shown
    record = json.loads(history.run("-m", "commands", "lineage", "--json", str(model)).stdout)
    assert record["stage"] == "export"
    absent = history.run("-m", "commands", "lineage", "nothing.keras", check=False)
    assert (absent.returncode, "nothing.keras: not found" in absent.stderr) == (2, True)
    before = history.run(
        "-m", "commands", "lineage", "--images", str(history.folder / "data/download/out.txt"), check=False
    )
    assert (before.returncode, "comes before images are chosen" in before.stderr) == (2, True)
