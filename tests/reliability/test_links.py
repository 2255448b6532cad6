"""Links above outputs (DVC#11101): what DVC or a stage would write through them is refused before."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.dvc_door import Door
from flows.faults import NotIntact
from stages.core.errors import ConfigError
from stages.store import outputs
from tests.flows.toy import Toy


@pytest.fixture(scope="module")
def pushed(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    """A checkout with an output in its remote, and none in its cache or working tree."""
    import shutil

    folder = tmp_path_factory.mktemp("links")
    toy = Toy(folder / "project")
    toy.run("-m", "dvc", "remote", "add", "-d", "store", str(folder / "remote"))
    assert toy.repro("download") == ["download"]
    toy.run("-m", "dvc", "push", "-q")
    toy.commit("Run")
    shutil.rmtree(toy.folder / "data")
    shutil.rmtree(toy.folder / ".dvc/cache")
    return toy


@pytest.mark.parametrize("where", ["../outside", ".git/hooks"])
@pytest.mark.parametrize("how", ["pull", "reproduce"])
def test_an_output_behind_a_link_is_refused_before_checkout(
    how: str, where: str, pushed: Toy, tmp_path: Path
) -> None:
    toy = pushed.copy(tmp_path / "project")
    (tmp_path / "outside").mkdir()
    leads = toy.folder / where
    leads.mkdir(exist_ok=True)
    before = sorted(leads.iterdir())
    (toy.folder / "data").symlink_to(where)
    with Door(toy.folder) as door:
        action = (lambda: door.pull(["download"], "store")) if how == "pull" else (
            lambda: door.reproduce("download", False, lambda _: None)
        )  # fmt: skip
        with pytest.raises(NotIntact, match=r"data/download lies behind a link, .*nothing was fetched") as caught:
            action()
    assert caught.value.exit_code == 4
    assert sorted(leads.iterdir()) == before
    assert "data/download" not in toy.run("-m", "dvc", "status", "-q", check=False).stdout


def test_dvc_itself_would_write_there(pushed: Toy, tmp_path: Path) -> None:
    """Should this fail, DVC has been mended and the check may go."""
    toy = pushed.copy(tmp_path / "project")
    (tmp_path / "outside").mkdir()
    (toy.folder / "data").symlink_to("../outside")
    toy.run("-m", "dvc", "pull", "-q", "download", check=False)
    assert (tmp_path / "outside/download/out.txt").exists()


def test_without_a_link_it_comes(pushed: Toy, tmp_path: Path) -> None:
    toy = pushed.copy(tmp_path / "project")
    with Door(toy.folder) as door:
        door.pull(["download"], "store")
    assert toy.out("download") == "download 0\n"


def test_a_stage_does_not_write_through_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "outside/download").mkdir(parents=True)
    (tmp_path / "outside/download/precious").touch()
    (tmp_path / "project").mkdir()
    (tmp_path / "project/data").symlink_to("../outside")
    monkeypatch.chdir(tmp_path / "project")
    with pytest.raises(ConfigError, match="lies behind a link"), outputs.replacing(Path("data/download")):
        pytest.fail("it was let in")
    assert [path.name for path in (tmp_path / "outside").rglob("*")] == ["download", "precious"]
