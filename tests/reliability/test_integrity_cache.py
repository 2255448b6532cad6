"""A flipped byte in DVC's cache or remote: found before it is used, named, fetched again or made again, never pushed.

DVC itself believes an object whose mode is 0444: the first test shows what the others keep from happening.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from flows.dvc_door import Door
from flows.faults import NotIntact, WrongRequest
from flows.intact import Damage, Inspection
from flows.md5 import md5_of
from flows.recorded import opened
from tests.flows.conftest import made  # noqa: F401
from tests.flows.toy import Toy

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


@pytest.fixture
def toy(made: Toy, tmp_path: Path) -> Toy:  # noqa: F811
    toy = made.copy(tmp_path / "toy")
    toy.run("-m", "dvc", "remote", "add", "-d", "store", str(tmp_path / "store"))
    return toy


def md5s(toy: Toy, stage: str) -> tuple[str, str]:
    """Of a stage's folder, and of the one file in it."""
    with Door(toy.folder) as door:
        (out,) = door.lock_entry(stage)["outs"]
    return out["md5"], md5_of(toy.folder / "data" / stage / "out.txt")


def place(toy: Toy, md5: str) -> Path:
    return toy.folder / ".dvc/cache/files/md5" / md5[:2] / md5[2:]


def flip(path: Path, at: int = 0) -> None:
    """Flip a bit and keep size, mtime and mode, as a failing disk does."""
    was = path.stat()
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    path.chmod(was.st_mode)
    os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))


def stored(tmp_path: Path, md5: str) -> Path:
    return tmp_path / "store/files/md5" / md5[:2] / md5[2:]


def test_dvc_alone_restores_and_pushes_a_flipped_object(toy: Toy, tmp_path: Path) -> None:
    """Finding X1. Where this fails DVC has learnt it, and flows/intact.py has less to do."""
    _, md5 = md5s(toy, "export")
    flip(place(toy, md5))
    shutil.rmtree(toy.folder / "data/export")
    assert toy.repro() == []
    assert md5_of(toy.folder / "data/export/out.txt") != md5
    assert "up to date" in toy.run("-m", "dvc", "status").stdout
    toy.run("-m", "dvc", "push", "export")
    assert md5_of(stored(tmp_path, md5)) != md5


@pytest.mark.parametrize("which", ["file", "listing"])
def test_a_flipped_object_is_not_restored_but_fetched_again(toy: Toy, which: str) -> None:
    with Door(toy.folder) as door:
        door.push(["export"], "store")
    listing, md5 = md5s(toy, "export")
    text = toy.out("export")
    flip(place(toy, md5 if which == "file" else listing), at=4)
    shutil.rmtree(toy.folder / "data/export")
    said: list[str] = []
    toy.forget()
    with Door(toy.folder) as door:
        assert door.reproduce("export", force=False, on_line=said.append) == "Restored"
    assert any("other bytes than recorded in DVC's cache (.dvc/cache/" in line for line in said), said
    assert any("data/export" in line and "replaced by the copy in the remote 'store'" in line for line in said), said
    assert toy.out("export") == text
    assert md5_of(place(toy, md5)) == md5
    assert toy.ran() == []


@pytest.mark.parametrize("which", ["file", "listing"])
def test_without_a_good_copy_the_stage_runs_again(toy: Toy, which: str) -> None:
    listing, md5 = md5s(toy, "export")
    text = toy.out("export")
    flip(place(toy, md5 if which == "file" else listing), at=4)
    shutil.rmtree(toy.folder / "data/export")
    said: list[str] = []
    toy.forget()
    with Door(toy.folder) as door:
        assert not door.restorable("export")
        assert door.reproduce("export", force=False, on_line=said.append) == "Completed"
    assert any("no good copy was found; removed" in line for line in said), said
    assert (toy.out("export"), toy.ran()) == (text, ["export"])
    assert (md5_of(place(toy, md5)), md5_of(place(toy, listing))) == (md5, listing.removesuffix(".dir"))


def test_a_flipped_object_of_earlier_inputs_is_not_restored(toy: Toy) -> None:
    """By the run cache: parameters as they once were."""
    _, md5 = md5s(toy, "split")
    toy.set(split={"value": 5})
    toy.repro()
    flip(place(toy, md5))
    toy.set(split={"value": 0})
    toy.forget()
    with Door(toy.folder) as door:
        assert door.reproduce("split", force=False, on_line=lambda _: None) == "Completed"
    assert toy.ran() == ["split"]
    assert md5_of(toy.folder / "data/split/out.txt") == md5


@pytest.mark.parametrize("which", ["file", "listing"])
def test_a_flipped_object_is_replaced_from_the_workspace_before_a_push(toy: Toy, tmp_path: Path, which: str) -> None:
    listing, md5 = md5s(toy, "export")
    flip(place(toy, md5 if which == "file" else listing), at=4)
    with Door(toy.folder) as door:
        assert door.push(["export"], "store") == 2
        assert [one.mended_from for one in door.damage] == ["the workspace"]
    assert md5_of(stored(tmp_path, md5)) == md5
    assert md5_of(stored(tmp_path, listing)) == listing.removesuffix(".dir")
    assert place(toy, md5).stat().st_mode & 0o777 == 0o444


def test_a_flipped_object_without_a_good_copy_is_never_pushed(toy: Toy, tmp_path: Path) -> None:
    _, md5 = md5s(toy, "export")
    flip(place(toy, md5))
    shutil.rmtree(toy.folder / "data/export")
    toy.run("-m", "dvc", "checkout", "export")  # DVC's own: the workspace has the damage, too
    with Door(toy.folder) as door:
        with pytest.raises(NotIntact) as caught:
            door.push(["split", "export"], "store")
        assert caught.value.exit_code == 4
        assert "nothing was pushed to 'store'" in str(caught.value)
        assert "data/export/out.txt: other bytes than recorded" in str(caught.value)
        assert not (tmp_path / "store").exists()
        # Neither is believed any longer: the same command as always makes both again.
        assert door.stale("export") != []
    assert toy.repro() == ["export"]
    assert md5_of(place(toy, md5)) == md5
    # As `graft promote --push` and `graft add --push` do it.
    flip(place(toy, md5))
    (toy.folder / "data/export/out.txt").unlink()
    with opened(toy.folder) as project, pytest.raises(NotIntact, match="nothing was pushed"):
        project.push(["export"], toy.git("rev-parse", "HEAD").strip())
    assert not (tmp_path / "store").exists()


def test_a_pull_does_not_keep_a_flipped_object(toy: Toy) -> None:
    _, md5 = md5s(toy, "export")
    with Door(toy.folder) as door:
        door.push(["export"], "store")
        flip(place(toy, md5))
        shutil.rmtree(toy.folder / "data/export")
        door.pull(["export"], "store")
        assert md5_of(toy.folder / "data/export/out.txt") == md5
        # A part of an output is asked for as well.
        flip(place(toy, md5))
        (toy.folder / "data/export/out.txt").unlink()
        door.pull(["data/export/out.txt"], "store")
    assert md5_of(toy.folder / "data/export/out.txt") == md5


def test_a_flipped_object_of_the_remote_is_refused(toy: Toy, tmp_path: Path) -> None:
    """Finding X2, by `remote.verify`, which every remote has here whatever .dvc/config says."""
    _, md5 = md5s(toy, "export")
    with Door(toy.folder) as door:
        door.push(["export"], "store")
        flip(stored(tmp_path, md5))
        place(toy, md5).unlink()
        (toy.folder / "data/export/out.txt").unlink()
        with pytest.raises(Exception, match="cannot fetch from the DVC remote 'store'"):
            door.pull(["export"], "store")
        assert not place(toy, md5).exists()
        assert not (toy.folder / "data/export/out.txt").exists()
        # Nor does it mend anything.
        toy.forget()
        assert door.reproduce("export", force=False, on_line=lambda _: None) == "Completed"
    assert toy.ran() == ["export"]


def test_a_committed_models_file_is_fetched_again(toy: Toy) -> None:
    """What `graft promote` compares the champion by."""
    _, md5 = md5s(toy, "evaluate")
    toy.commit("Lock")
    head = toy.git("rev-parse", "HEAD").strip()
    with Door(toy.folder) as door:
        door.push(["evaluate"], "store")
    flip(place(toy, md5))
    (toy.folder / "data/evaluate/out.txt").unlink()
    with opened(toy.folder) as project:
        found = project.fetched(project.at(head), "evaluate", "data/evaluate/out.txt")
    assert md5_of(found) == md5


def test_fast_looks_at_what_changed_and_thorough_at_everything(toy: Toy) -> None:
    """Row 49: same size and mtime. The object's ctime gives it away to the fast mode, too, but a checkout does not."""
    _, md5 = md5s(toy, "export")
    with Door(toy.folder) as door:
        outs = door.lock_entry("export")["outs"]
        first = Inspection(door._repo)
        assert first.look(outs) == []
        assert (first.objects, first.hashed > 0) == (2, True)
        second = Inspection(door._repo)
        assert second.look(outs) == []
        assert (second.objects, second.hashed) == (2, 0)
        assert door.stale("export") == []
        flip(toy.folder / "data/export/out.txt")
        assert door.stale("export") == []  # as DVC sees it
        assert Inspection(door._repo).look(outs) == []  # by design: 28 ms for a run in which nothing changed
        looked = Inspection(door._repo, thorough=True, mend=False)
        (damage,) = looked.look(outs)
        assert (damage.path, damage.place, damage.mended_from) == ("data/export/out.txt", "the workspace", None)
        mended = door.inspect(["export"])
        assert (mended.left, len(mended.lines)) == (0, 1)
        assert "data/export/out.txt: other bytes than recorded in the workspace; replaced by" in mended.lines[0]
        assert md5_of(toy.folder / "data/export/out.txt") == md5
        assert door.inspect(["export"]).lines == []
        flip(place(toy, md5))
        (damage,) = Inspection(door._repo).look(outs)
        assert damage == Damage("data/export/out.txt", damage.place, "the workspace", True)
    assert toy.repro() == []


def test_a_merge_in_dvc_lock_is_the_users(toy: Toy) -> None:
    path = toy.folder / "dvc.lock"
    text = f"<<<<<<< HEAD\n{path.read_text()}=======\n>>>>>>> other\n"
    path.write_text(text)
    with Door(toy.folder) as door, pytest.raises(WrongRequest, match="conflict marks of a merge: git checkout --ours"):
        door.stale("export")
    assert path.read_text() == text


def test_whichever_byte_is_flipped_it_is_found_and_mended(toy: Toy) -> None:
    """Of a file and of a folder's listing, one after the other. benchmarks/reliability.json has the count."""
    tried = 0
    with Door(toy.folder) as door:
        outs = door.lock_entry("export")["outs"]
        assert door.stale("export") == []
        for md5 in md5s(toy, "export"):
            whole = place(toy, md5).read_bytes()
            for at in range(len(whole)):
                flip(place(toy, md5), at)
                (damage,) = Inspection(door._repo).look(outs)
                assert damage.mended_from == "the workspace", at
                assert place(toy, md5).read_bytes() == whole, at
                tried += 1
    assert tried > 100


def test_what_people_changed_themselves_is_dvcs_matter(toy: Toy) -> None:
    """An edited output is stale by DVC's own rules; looking for damage does not touch it."""
    (toy.folder / "data/export/out.txt").write_text("mine")
    with Door(toy.folder) as door:
        assert door.inspect(["export"]).lines == []
        assert door.stale("export") != []
    assert toy.out("export") == "mine"


def test_files_that_share_their_bytes_are_mended_once(toy: Toy) -> None:
    text = toy.out("export")
    with Door(toy.folder) as door:
        entry = door.lock_entry("export")
    for name in ("a.txt", "b.txt"):
        (toy.folder / "data/export" / name).write_text(text)
    toy.run("-m", "dvc", "commit", "-f", "export")
    _, md5 = md5s(toy, "export")
    flip(place(toy, md5))
    with Door(toy.folder) as door:
        assert door.lock_entry("export") != entry
        mended = door.inspect(["export"])
        assert (mended.left, len(mended.lines)) == (0, 1)
        assert "replaced by the copy in the workspace" in mended.lines[0]
        assert door.inspect(["export"]).lines == []


def graft(toy: Toy, *arguments: str) -> tuple[int, str]:
    done = toy.run("-m", "commands", *arguments, check=False, PYTHONPATH=str(ROOT), COLUMNS="200")
    return done.returncode, done.stdout + done.stderr


def test_the_command_finds_names_and_mends(toy: Toy) -> None:
    _, md5 = md5s(toy, "export")
    code, said = graft(toy, "verify")
    assert (code, "all as recorded" in said) == (0, True), said
    # Said, and left alone, until a repair is asked for.
    flip(place(toy, md5))
    code, said = graft(toy, "verify")
    assert (code, "data/export/out.txt: other bytes than recorded" in said) == (4, True), said
    assert "run `graft verify --repair`" in said
    code, said = graft(toy, "verify", "--repair")
    assert (code, "replaced by the copy in the workspace" in said) == (0, True), said
    assert graft(toy, "verify", "bogus")[0] == 2
