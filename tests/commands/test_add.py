"""graft add: what it reads, writes and records, beside the stage it stands for."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from commands import add
from flows import checkout
from stages.core.errors import ConfigError
from stages.store import hashes

ROOT = Path(__file__).parents[2]
LISTING = Path("data/images.listing.json")
SHARDS = Path("data/download/images")
PARAMS = """
download: {source: data/images, watch: data/images.listing.json, images_per_shard: 8}
"""
# `dvc repro` of the whole would check every stage's parameters: here are only download's.
STAGE = """
import sys
from stages import download
from stages.store import params

settings = params.read_alone("download")
download.params.read = lambda _: settings
from stages.store import process
process.run("download", download.main)
"""
DVC = """
stages:
  download:
    cmd: python stage.py
    params: [download]
    deps: [data/images.listing.json]
    outs: [data/download]
"""


class Project:
    """A project with 60 cats and 60 dogs, and nothing but download in dvc.yaml."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def make(cls, folder: Path) -> Project:
        self = cls(folder)
        for label in ("cats", "dogs"):
            (folder / "data/images" / label).mkdir(parents=True)
            for number in range(60):
                self.put(f"{label}/{number:03d}.jpg", f"{label} {number}")
        (folder / "params.yaml").write_text(PARAMS)
        (folder / "dvc.yaml").write_text(DVC)
        (folder / "stage.py").write_text(STAGE)
        (folder / ".gitignore").write_text("/data/download\n/.graft/\n/remote/\n")
        subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
        self.dvc("init", "-q")
        self.dvc("remote", "add", "-q", "-d", "store", "remote")
        return self

    def put(self, name: str, text: str) -> None:
        (self.folder / "data/images" / name).write_text(text)

    def take(self, name: str) -> str:
        """Remove a picture; returns what was in it."""
        path = self.folder / "data/images" / name
        text = path.read_text()
        path.unlink()
        return text

    def settle(self) -> None:
        """Wait until no file's last write is so recent that it must be read again."""
        time.sleep(0.2)

    def python(self, *arguments: str, code: int = 0) -> str:
        environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
                       "PYTHONPATH": str(ROOT)}  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-W", "ignore", *arguments], cwd=self.folder, env=environment,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        assert done.returncode == code, done.stdout
        return done.stdout

    def dvc(self, *arguments: str, code: int = 0) -> str:
        return self.python("-m", "dvc", *arguments, code=code)

    def add(self, *options: str, code: int = 0) -> str:
        self.settle()
        return self.python("-m", "commands", "add", *options, code=code)

    def shards(self) -> dict[str, int]:
        """File → inode."""
        return {path.name: path.stat().st_ino for path in (self.folder / SHARDS).iterdir()}

    def listing(self) -> dict[str, Any]:
        listing: dict[str, Any] = json.loads((self.folder / LISTING).read_text())
        return listing

    def is_as_the_stage_makes_it(self) -> bool:
        """Whether download from nothing gives the same bytes."""
        ours = hashes.sha256_of_tree(self.folder / "data/download")
        shutil.rmtree(self.folder / "data/download")
        self.python("stage.py")
        return hashes.sha256_of_tree(self.folder / "data/download") == ours


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Project.make(tmp_path_factory.mktemp("made") / "project").folder


@pytest.fixture
def project(made: Path, tmp_path: Path) -> Project:
    shutil.copytree(made, tmp_path / "project")
    return Project(tmp_path / "project")


def test_it_stands_for_the_stage(project: Project) -> None:
    assert "120 images of 2 classes" in project.add()
    assert project.listing()["images"] == 120
    assert project.dvc("status") == "Data and pipelines are up to date.\n"
    assert "didn't change" in project.dvc("repro")
    assert project.is_as_the_stage_makes_it()


@pytest.mark.parametrize(
    "change",
    [
        lambda project: project.put("cats/030.jpg", "another cat"),
        lambda project: project.put("cats/030.jpg", "CATS 30"),  # as many bytes
        lambda project: project.put("cats/030a.jpg", "a new cat"),
        lambda project: project.take("cats/030.jpg"),
        lambda project: project.put("dogs/cat.jpg", project.take("cats/030.jpg")),
        lambda project: None,
    ],
    ids=["changed", "same size", "new", "deleted", "moved", "nothing"],
)  # fmt: skip
def test_only_what_changed_is_written_again(project: Project, change: Callable[[Project], None]) -> None:
    project.add()
    project.add()  # by now every file is old enough to be believed
    before, listed = project.shards(), project.listing()
    change(project)
    project.add()
    after = project.shards()
    rewritten = {name for name in after if before.get(name) != after[name]}
    # A new or missing name may also cut a shard in two; a moved one touches two.
    assert len(rewritten) <= 4
    assert bool(rewritten) is (project.listing() != listed)
    assert "up to date" in project.dvc("status")
    assert project.is_as_the_stage_makes_it()


def test_pushed_it_comes_back_whole_and_a_flipped_byte_is_refused(project: Project) -> None:
    assert "pushed" in project.add("--push")
    there = hashes.sha256_of_tree(project.folder / "data/download")
    for path in (project.folder / "data/download", project.folder / ".dvc/cache"):
        shutil.rmtree(path)
    project.dvc("pull")
    assert hashes.sha256_of_tree(project.folder / "data/download") == there
    for path in (project.folder / "data/download", project.folder / ".dvc/cache"):
        shutil.rmtree(path)
    largest = max(
        (path for path in (project.folder / "remote").rglob("*") if path.is_file()),
        key=lambda path: path.stat().st_size,
    )
    largest.chmod(0o644)
    flipped = bytearray(largest.read_bytes())
    flipped[100] ^= 0xFF
    largest.write_bytes(flipped)
    project.dvc("remote", "modify", "store", "verify", "true")
    project.dvc("pull", code=1)


def test_a_failed_push_is_made_up_for_by_the_next(project: Project) -> None:
    (project.folder / "remote").write_text("a file where the remote's folder should be")
    assert "packed and recorded, but not pushed" in project.add("--push", code=5)
    (project.folder / "remote").unlink()
    assert "pushed 0" not in project.add("--push")
    assert (project.folder / "remote/files").is_dir()


def test_the_stage_by_itself_refuses_a_folder_that_is_not_as_listed(project: Project) -> None:
    project.add()
    project.put("dogs/new.jpg", "a dog nobody added")
    (project.folder / "params.yaml").write_text(PARAMS.replace("8}", "16}"))
    before = project.shards()
    assert "graft add" in project.dvc("repro", code=255)
    (project.folder / "data/images/dogs/new.jpg").unlink()
    # Other shards of the same images: what is listed does not depend on them.
    project.dvc("repro")
    assert project.shards().keys() != before.keys()


def test_what_is_in_use_is_left_alone(project: Project) -> None:
    project.add()
    before = hashes.sha256_of_tree(project.folder / "data/download")
    project.put("dogs/new.jpg", "a new dog")
    # As DVC enters itself: its arguments stand at the end of its command line.
    with subprocess.Popen([sys.executable, "-c", "input()", "repro"], stdin=subprocess.PIPE) as holder:
        one = {"pid": holder.pid, "cmd": "/some/where/dvc repro"}
        held = {"read": {}, "write": {str(project.folder / "data/download"): one}}
        (project.folder / ".dvc/tmp/rwlock").write_text(json.dumps(held))
        said = project.add(code=6)
        holder.kill()
    assert "data/download is in use" in said
    assert "dvc repro" in said
    assert hashes.sha256_of_tree(project.folder / "data/download") == before
    assert project.listing()["images"] == 120
    (project.folder / ".dvc/tmp/rwlock").unlink()
    project.add()
    assert project.listing()["images"] == 121
    assert json.loads((project.folder / ".dvc/tmp/rwlock").read_text()) == {}


def test_a_flow_that_holds_the_checkout_is_not_given_other_images(project: Project) -> None:
    (project.folder / ".graft").mkdir()
    with checkout.held(project.folder, 0.0, "flow run brave-otter", lambda _: None):
        assert "in use by flow run brave-otter" in project.add(code=6)
        assert not (project.folder / "data/download").exists()
        assert "120 images" in project.add("--held")


def test_refused_images_leave_everything_as_it_was(project: Project) -> None:
    project.add()
    before = hashes.sha256_of_tree(project.folder / "data"), (project.folder / "dvc.lock").read_text()
    shutil.rmtree(project.folder / "data/images/dogs")
    assert "at least two classes" in project.add(code=3)
    assert (hashes.sha256_of_tree(project.folder / "data/download"), (project.folder / "dvc.lock").read_text()) == (
        {name[len("download/") :]: found for name, found in before[0].items() if name.startswith("download/")},
        before[1],
    )


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("{source: data/images, watch: data/images}", "a file named *.listing.json"),
        ("{source: digits, watch: data/images.listing.json}", "no folder"),
        ("{source: data/images, watch: data/images/own.listing.json}", "must lie in the project"),
        ("{source: data/images, watch: ../other.listing.json}", "must lie in the project"),
        ("{source: data/images, watch: data/images.listing.json, retries: many}", "download.retries"),
    ],
)
def test_settings_it_cannot_work_with(
    project: Project, settings: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project.folder / "params.yaml").write_text(f"download: {settings}\n")
    monkeypatch.chdir(project.folder)
    with pytest.raises(ConfigError, match=re.escape(said)):
        add.add()
    assert not (project.folder / "data/download").exists()
