"""A remote that refuses, fails, is silent, slow, gone, or has half of a push: a deadline, exit 5, nothing claimed."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

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


PULLED = ("403", "stall", "slow", "refused")  # the quick ones
OURS = "what somebody wrote there"


class Ended(NamedTuple):
    error: Refused
    seconds: float
    requests: int  # that the server got
    toy: Toy


@pytest.fixture(scope="module")
def ended(made: Toy, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Ended]:  # noqa: F811
    """How a push and a pull ended, for each fault. All at once, each in its own checkout: most of it is waiting."""
    limits = threading.local()
    nobody = {"refused": "http://127.0.0.1:9", "dns": "http://no-such-host.invalid:9"}

    def end(job: tuple[str, str]) -> Ended:
        what, mode = job
        toy = made.copy(tmp_path_factory.mktemp(f"{what}-{mode}") / "toy")
        if what == "pull":
            out = toy.folder / "data/export/out.txt"
            place = cached(toy, md5_of(out))
            place.unlink()
            if mode == "slow":  # a damaged one is asked for before the rest is fetched
                place.write_bytes(b"damaged")
                place.chmod(0o444)
            out.unlink()
            out.write_text(OURS)
        limits.seconds = LIMIT if mode in ("slow", "stall") else 500.0
        with serving(mode) if mode in MODES else nullcontext() as server:
            with_s3(toy, server.address if server else nobody[mode])
            with Door(toy.folder) as door:
                began = time.monotonic()
                with pytest.raises(Refused) as caught:
                    (door.push if what == "push" else door.pull)(["export"], "store")
            return Ended(caught.value, time.monotonic() - began, server.requests if server else 0, toy)

    jobs = [*(("push", mode) for mode in SAID), *(("pull", mode) for mode in PULLED)]
    with pytest.MonkeyPatch.context() as patched, ThreadPoolExecutor(len(jobs)) as pool:
        patched.setattr(transfer, "deadline", lambda: limits.seconds)
        return dict(zip(jobs, pool.map(end, jobs), strict=True))


def cached(toy: Toy, md5: str) -> Path:
    return toy.folder / ".dvc/cache/files/md5" / md5[:2] / md5[2:]


@pytest.mark.parametrize("mode", SAID)
def test_a_push_ends_in_time_with_exit_5(mode: str, ended: dict[tuple[str, str], Ended]) -> None:
    error, seconds, requests, _ = ended["push", mode]
    assert (error.exit_code, error.name) == (5, "Refused")
    assert "cannot push to the DVC remote 'store': " in str(error)
    assert SAID[mode].lower() in str(error).lower()
    # Bounded, however busy the machine is; without a limit "slow" takes a day.
    assert seconds < 500
    if mode == "503":
        assert requests > 2  # tried again, with growing pauses, and then given up


@pytest.mark.parametrize("mode", PULLED)
def test_a_pull_ends_in_time_with_exit_5_and_changes_nothing(
    mode: str,
    ended: dict[tuple[str, str], Ended],
    made: Toy,  # noqa: F811
) -> None:
    error, seconds, _, toy = ended["pull", mode]
    assert (error.exit_code, error.name) == (5, "Refused")
    assert "cannot fetch from the DVC remote 'store': " in str(error)
    assert {**SAID, "403": "Forbidden"}[mode].lower() in str(error).lower()
    assert seconds < 500
    # What was there stays, and nothing passes for what was asked for.
    assert toy.out("export") == OURS
    assert toy.lock() == made.lock()
    assert not cached(toy, md5_of(made.folder / "data/export/out.txt")).exists()
    assert not list((toy.folder / ".dvc/cache").rglob("*.partial"))


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
