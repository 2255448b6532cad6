"""A stage's folders are absent, old or new, never partial."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from stages.core.errors import EnvironmentFault
from stages.store import outputs


def tree(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def with_old(folder: Path) -> list[Path]:
    """Two targets that an earlier run made."""
    targets = [folder / "data", folder / "report"]
    for target in targets:
        target.mkdir()
        (target / "old").write_text(target.name)
    return targets


def write_new(targets: list[Path]) -> None:
    with outputs.replacing(*targets) as folders:
        for folder in folders:
            (folder / "new").write_text("new")


def test_success_replaces_every_target_and_leaves_nothing_else(tmp_path: Path) -> None:
    data, report = tmp_path / "data" / "stage", tmp_path / "reports" / "stage"
    data.mkdir(parents=True)
    (data / "old.txt").write_text("old")
    (data.parent / ".stage.partial").mkdir()
    (data.parent / ".stage.partial" / "left_by_a_killed_run").write_text("x")
    with outputs.replacing(data, report) as (first, second):
        (first / "new.txt").write_text("new")
        (second / "index.html").write_text("page")
        assert tree(data) == {"old.txt": "old"}
    assert tree(tmp_path) == {"data/stage/new.txt": "new", "reports/stage/index.html": "page"}


def test_an_error_leaves_the_old_and_nothing_partial(tmp_path: Path) -> None:
    data = tmp_path / "stage"
    data.mkdir()
    (data / "old.txt").write_text("old")

    def stage() -> None:
        with outputs.replacing(data, tmp_path / "other") as (first, _):
            (first / "new.txt").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        stage()
    assert tree(tmp_path) == {"stage/old.txt": "old"}
    assert [path.name for path in tmp_path.iterdir()] == ["stage"]


def test_remove_does_not_follow_links(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").write_text("x")
    link = tmp_path / "link"
    link.symlink_to(kept)
    outputs.remove(link)
    outputs.remove(tmp_path / "never there")
    assert not link.exists()
    assert (kept / "file").exists()


def test_a_failing_publication_puts_every_target_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data and its report belong together: new data beside an old report would be a lie."""
    targets = with_old(tmp_path)
    rename = Path.rename

    def full_disk(self: Path, other: Path) -> Path:
        if self.name == ".report.partial":
            raise OSError(28, "No space left on device")
        return rename(self, other)

    monkeypatch.setattr(Path, "rename", full_disk)

    with pytest.raises(EnvironmentFault, match="No space left on device: it needs 6 bytes"):
        write_new(targets)
    assert tree(tmp_path) == {"data/old": "data", "report/old": "report"}


def test_names_that_cannot_be_synced_put_every_target_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    targets = with_old(tmp_path)
    fsync = os.fsync

    def failing(number: int) -> None:
        if os.path.samestat(os.fstat(number), tmp_path.stat()):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        fsync(number)

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(EnvironmentFault, match="Input/output error"):
        write_new(targets)
    assert tree(tmp_path) == {"data/old": "data", "report/old": "report"}


@pytest.mark.parametrize("at", [1, 2, 3, 4])
def test_a_kill_between_the_renames_leaves_no_new_output_beside_an_old_one(at: int, tmp_path: Path) -> None:
    """Data and its report belong together; the next run clears what was out of the way."""
    targets = with_old(tmp_path)
    code = f"""
import os, signal
from pathlib import Path
from stages.store import outputs

rename, count = Path.rename, [0]

def killed(self, other):
    count[0] += 1
    if count[0] == {at}:
        os.kill(os.getpid(), signal.SIGKILL)
    return rename(self, other)

Path.rename = killed
with outputs.replacing(Path("data"), Path("report")) as folders:
    for folder in folders:
        (folder / "new").write_text("new")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path)
    assert done.returncode == -signal.SIGKILL
    there = {name for target in targets if target.exists() for name in tree(target)}
    assert there == {1: {"old"}, 2: {"old"}, 3: set(), 4: {"new"}}[at]
    write_new(targets)
    assert tree(tmp_path) == {"data/new": "new", "report/new": "new"}
