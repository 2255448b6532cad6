"""A remote that refuses, fails, is silent, slow, gone, or has half of a push: a deadline, exit 5, nothing claimed."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import pytest

from flows import transfer
from flows.dvc_door import Door
from flows.faults import Refused
from flows.md5 import md5_of
from flows.verified import settings
from tests.flows.conftest import made  # noqa: F401
from tests.flows.toy import Toy
from tests.reliability.faulty_server import MODES, serving

pytestmark = pytest.mark.slow
LIMIT = 8.0  # seconds for what would go on for ever
SAID = {
    "503": "(503)",
    "403": "(403)",
    "stall": "not done in 8 s",
    "slow": "not done in 8 s",
    "refused": "Could not connect to the endpoint",
    "dns": "Could not connect to the endpoint",
}


@pytest.fixture
def toy(made: Toy, tmp_path: Path) -> Toy:  # noqa: F811
    return made.copy(tmp_path / "toy")


def with_s3(toy: Toy, address: str) -> None:
    config = (toy.folder / ".dvc/config").read_text()
    (toy.folder / ".dvc/config").write_text(
        f"{config}['remote \"store\"']\n    url = s3://data/x\n    endpointurl = {address}\n    access_key_id = test\n"
        "    secret_access_key = test\n    read_timeout = 1\n    connect_timeout = 1\n"
    )


@pytest.fixture(scope="module")
def pushed(made: Toy, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Refused, float, int]]:  # noqa: F811
    """For each fault the error of a push, after how many seconds, and how many requests the server got.

    All at once, each from a checkout of its own: most of it is waiting.
    """
    limits = threading.local()
    nobody = {"refused": "http://127.0.0.1:9", "dns": "http://no-such-host.invalid:9"}

    def push(mode: str) -> tuple[Refused, float, int]:
        toy = made.copy(tmp_path_factory.mktemp(mode) / "toy")
        limits.seconds = LIMIT if mode in ("slow", "stall") else 500.0
        with serving(mode) if mode in MODES else nullcontext() as server:
            with_s3(toy, server.address if server else nobody[mode])
            with Door(toy.folder) as door:
                began = time.monotonic()
                with pytest.raises(Refused) as caught:
                    door.push(["export"], "store")
            return caught.value, time.monotonic() - began, server.requests if server else 0

    with pytest.MonkeyPatch.context() as patched, ThreadPoolExecutor(len(SAID)) as pool:
        patched.setattr(transfer, "deadline", lambda: limits.seconds)
        return dict(zip(SAID, pool.map(push, SAID), strict=True))


@pytest.mark.parametrize("mode", SAID)
def test_a_push_ends_in_time_with_exit_5(mode: str, pushed: dict[str, tuple[Refused, float, int]]) -> None:
    error, seconds, requests = pushed[mode]
    assert (error.exit_code, error.name) == (5, "Refused")
    assert "cannot push to the DVC remote 'store': " in str(error)
    assert SAID[mode].lower() in str(error).lower()
    # Bounded, however busy the machine is; without a limit "slow" takes a day.
    assert seconds < 500
    if mode == "503":
        assert requests > 2  # tried again, with growing pauses, and then given up


def test_stages_run_without_their_remote_and_damage_is_made_again(toy: Toy) -> None:
    with_s3(toy, "http://127.0.0.1:9")
    toy.run("-m", "dvc", "remote", "default", "store")
    toy.set(export={"value": 1})
    with Door(toy.folder) as door:
        assert door.reproduce("export", force=False, on_line=lambda _: None) == "Completed"
        md5 = md5_of(toy.folder / "data/export/out.txt")
        place = toy.folder / ".dvc/cache/files/md5" / md5[:2] / md5[2:]
        place.chmod(0o644)
        place.write_bytes(b"damaged")
        place.chmod(0o444)
        (toy.folder / "data/export/out.txt").unlink()
        assert door.reproduce("export", force=False, on_line=lambda _: None) == "Completed"
    assert md5_of(toy.folder / "data/export/out.txt") == md5 == md5_of(place)


def test_every_remote_is_hashed_and_has_its_patience_whatever_the_project_says(toy: Toy) -> None:
    remotes = {"a": "s3://b/c", "b": "https://h/x", "c": "/srv/x", "d": "ssh://h/x", "e": "webdavs://h/x"}
    text = "".join(f"['remote \"{name}\"']\n    url = {url}\n    verify = false\n" for name, url in remotes.items())
    (toy.folder / ".dvc/config").write_text(text + "['remote \"own\"']\n    url = s3://b\n    read_timeout = 7\n")
    found = settings(toy.folder)["remote"]
    assert {one["verify"] for one in found.values()} == {True}
    assert (found["a"]["read_timeout"], found["own"]["read_timeout"]) == (20, 7)
    assert "read_timeout" not in found["d"]
    with Door(toy.folder) as door:  # DVC takes them all
        assert door.remote_address("e") == "webdavs://h/x"


def test_half_a_push_leaves_others_the_old_version_whole(toy: Toy, tmp_path: Path) -> None:
    store = tmp_path / "store"
    toy.run("-m", "dvc", "remote", "add", "-d", "store", str(store))
    old = toy.out("export")
    with Door(toy.folder) as door:
        door.push(["export"], "store")
        other = toy.copy(tmp_path / "other")
        toy.set(export={"value": 9})
        toy.repro()
        new = md5_of(toy.folder / "data/export/out.txt")
        listing = door.lock_entry("export")["outs"][0]["md5"]
        # One object cannot be written: where its folder would be lies a file.
        block = store / "files/md5" / new[:2]
        blocked = not block.exists()
        assert blocked
        block.touch()
        with pytest.raises(Refused, match="cannot push to the DVC remote 'store'"):
            door.push(["export"], "store")
        # What names the version goes last.
        assert not (store / "files/md5" / listing[:2] / listing[2:]).exists()
        entry = door.lock_entry("export")
        with Door(other.folder) as there:
            (other.folder / "data/export/out.txt").unlink()
            there.pull(["export"], "store")
            assert other.out("export") == old
            # Nor does one that has heard of the new version get a half of it.
            there.put_lock_entry("export", entry)
            with pytest.raises(Refused, match="cannot fetch from the DVC remote 'store'"):
                there.pull(["export"], "store")
            assert other.out("export") == old
            block.unlink()
            assert door.push(["export"], "store") == 2
            there.pull(["export"], "store")
            assert md5_of(other.folder / "data/export/out.txt") == new


def test_the_deadline_is_what_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    assert transfer.deadline() == transfer.DEADLINE
    for given in ("12.5", "", "-1", "x"):
        monkeypatch.setenv(transfer.SECONDS, given)
        assert transfer.deadline() == (12.5 if given == "12.5" else transfer.DEADLINE)
