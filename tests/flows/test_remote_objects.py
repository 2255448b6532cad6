"""What a DVC remote lost or changed is found and brought back, and what is damaged here is not sent there."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from dvc.repo import Repo

from flows import remote_objects, verified
from flows.faults import NotIntact
from flows.recorded import opened
from tests.flows.toy import STAGES, Toy


@pytest.fixture
def toy(made: Toy, tmp_path: Path) -> Toy:
    """A checkout whose outputs are all in its remote, which is the folder `store` beside it."""
    toy = made.copy(tmp_path / "toy")
    toy.run("-m", "dvc", "remote", "add", "-q", "-d", "store", str(tmp_path / "store"))
    toy.run("-m", "dvc", "push", "-q")
    toy.commit("Remote")
    return toy


@pytest.fixture
def repo(toy: Toy) -> Iterator[Repo]:
    with verified.project(toy.folder) as repo:
        yield repo


def of(wanted: list[remote_objects.Recorded], path: str) -> remote_objects.Recorded:
    (found,) = (one for one in wanted if one.path == path)
    return found


def change(path: Path) -> None:
    """Other bytes of the same number, and as read-only as before."""
    mode = path.stat().st_mode
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-2] + b"!\n")
    path.chmod(mode)


def test_dvc_does_not_see_what_a_remote_lost_and_the_upload_brings_it(toy: Toy, repo: Repo, tmp_path: Path) -> None:
    wanted = remote_objects.recorded(repo)
    assert {one.path for one in wanted} == {f"data/{name}{part}" for name in STAGES for part in ("", "/out.txt")}
    there = remote_objects.odb(repo, None)
    assert list(remote_objects.missing(there, wanted)) == []
    lost, folder = of(wanted, "data/split/out.txt"), of(wanted, "data/export")
    for one in (lost, folder, of(wanted, "data/export/out.txt")):
        Path(there.oid_to_path(one.md5)).unlink()
    # DVC notices the folder whose listing is gone, and believes the other to be whole.
    toy.run("-m", "dvc", "push")
    found = remote_objects.missing(there, wanted)
    assert (found.lost, found.not_pushed) == ([lost], [])
    assert "up to date" in toy.run("-m", "dvc", "push").stdout
    assert remote_objects.upload(repo, there, found) == remote_objects.Repaired([lost], [], [])
    assert list(remote_objects.missing(there, wanted)) == []
    # Another machine can have it now.
    shutil.rmtree(toy.folder / ".dvc/cache")
    shutil.rmtree(toy.folder / "data")
    toy.run("-m", "dvc", "pull", "-q")
    assert toy.run("-m", "dvc", "status", "-q").returncode == 0


def test_what_is_damaged_here_is_not_sent_and_holds_its_listing_back(toy: Toy, repo: Repo) -> None:
    wanted = remote_objects.recorded(repo)
    there = remote_objects.odb(repo, None)
    shutil.rmtree(there.path)
    bad, gone = of(wanted, "data/split/out.txt"), of(wanted, "data/export/out.txt")
    change(remote_objects.cached(repo, bad.md5))
    remote_objects.cached(repo, gone.md5).unlink()
    repaired = remote_objects.upload(repo, there, remote_objects.missing(there, wanted))
    assert (repaired.damaged, repaired.not_here) == ([bad], [gone])
    left = remote_objects.missing(there, wanted)
    # A listing says that all it names is there.
    assert {one.path for one in left} == {"data/split", "data/split/out.txt", "data/export", "data/export/out.txt"}
    assert left.lost == []


def test_changed_bytes_in_a_remote_are_found_not_taken_and_replaced(
    toy: Toy, repo: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = remote_objects.recorded(repo)
    there = remote_objects.odb(repo, None)
    bad = of(wanted, "data/export/out.txt")
    change(Path(there.oid_to_path(bad.md5)))
    assert remote_objects.damaged(there, wanted) == [bad]
    elsewhere = toy.copy(tmp_path / "elsewhere")
    shutil.rmtree(elsewhere.folder / ".dvc/cache")
    monkeypatch.chdir(elsewhere.folder)
    commit = toy.git("rev-parse", "HEAD").strip()
    with opened(elsewhere.folder) as project:
        with pytest.raises(NotIntact, match=r"data/export/out\.txt as recorded .* other bytes, which were not taken"):
            project.fetched(project.at(commit), "export", "data/export/out.txt")
        assert not remote_objects.cached(project._repo, bad.md5).exists()
    assert remote_objects.upload(repo, there, [bad]).uploaded == [bad]
    assert remote_objects.damaged(there, wanted) == []
    with opened(elsewhere.folder) as project:
        assert project.fetched(project.at(commit), "export", "data/export/out.txt").is_file()
