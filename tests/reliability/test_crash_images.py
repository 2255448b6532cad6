"""benchmarks/crash_images.py on the first stages: a kill at every write, and that an image is what a kill leaves."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.crash_images import Image, Images, Sweep, cleared, digest, torn
from benchmarks.kill_points import Bench, Forks
from benchmarks.shim import Ask
from benchmarks.tiny_pipeline import Tiny
from benchmarks.warm import Warm
from stages.store.hashes import sha256_of_tree


@pytest.fixture
def images(tmp_path: Path) -> Images:
    return Images(tmp_path / "kept")


@dataclass
class Stopped:
    """split, stopped at every write."""

    bench: Bench
    images: Images
    sweep: Sweep
    taken: list[Image]


@pytest.fixture(scope="module")
def stopped(tiny: Tiny, warm_stages: dict[str, Warm], tmp_path_factory: pytest.TempPathFactory) -> Stopped:
    folder, warm = tmp_path_factory.mktemp("stopped"), warm_stages["split"]
    bench, images = Bench(tiny.goal("split", with_lock=False), Forks(warm), folder), Images(folder / "kept")
    sweep = Sweep("split", bench, warm, images)
    return Stopped(bench, images, sweep, sweep.taken())


@pytest.mark.slow
def test_a_stage_killed_at_every_write(stopped: Stopped) -> None:
    wrong, states = stopped.sweep.swept(stopped.taken)
    assert wrong == {}
    assert len(stopped.taken) == stopped.bench.writes() >= 10
    assert sorted(number for state in states for number in state.writes) == list(range(1, len(stopped.taken) + 1))
    assert all(state.runs for state in states)


@pytest.mark.slow
def test_an_image_is_what_a_kill_leaves(stopped: Stopped) -> None:
    count = len(stopped.taken)
    for number in (1, count // 3, count // 2, count - 1, count):
        left: list[Image] = []
        stopped.bench.broken(Ask(at=number), lambda checkout, left=left: left.append(stopped.images.take(checkout)))  # type: ignore[misc]
        # A lock names the process that holds it, which is another one.
        (killed, image) = ({name: what for name, what in one.items() if not name.endswith(".lock.partial")}
                           for one in (left[0], stopped.taken[number - 1]))  # fmt: skip
        assert killed == image, number
        assert left[0].keys() == stopped.taken[number - 1].keys(), number


@pytest.mark.slow
def test_images_from_which_a_run_does_not_come_to_the_same_fail(stopped: Stopped) -> None:
    """What the sweep looks for can be found: something left behind, and an output that is torn."""
    stray = {"data/.stray.partial": (stat.S_IFREG | 0o644, next(iter(_files(stopped.taken[0]).values())))}
    wrong, _ = stopped.sweep.swept([stopped.taken[0], *({**image, **stray} for image in stopped.taken[1:3])])
    assert wrong == {2: ["data/.stray.partial is left"] * 2, 3: ["data/.stray.partial is left"] * 2}
    published = stopped.taken[-1]
    gone = next(name for name in published if name.startswith("data/split/"))
    half = {name: what for name, what in published.items() if name != gone}
    wrong, _ = stopped.sweep.swept([stopped.taken[0], half])
    assert list(wrong) == [2]
    assert wrong[2][0] == "data/split is neither absent nor whole"


def _files(image: Image) -> dict[str, str]:
    return {name: what for name, (mode, what) in image.items() if stat.S_ISREG(mode)}


def test_a_folder_comes_back_as_it_was(images: Images, tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "a" / "deep").mkdir(parents=True)
    (root / "a" / "deep" / "file").write_bytes(b"one")
    (root / "a" / "run").write_bytes(b"#!")
    (root / "a" / "run").chmod(0o755)
    (root / "link").symlink_to("a/run")
    before = images.take(root)
    files = sha256_of_tree(root)
    (root / "a" / "deep" / "file").unlink()
    (root / "a" / "deep" / "file").mkdir()  # another kind of thing under the same name
    (root / "a" / "run").chmod(0o600)
    (root / "a" / "run").write_bytes(b"!#")  # as long as before
    (root / "link").unlink()
    (root / "link").write_bytes(b"no link")
    (root / "new" / "more").mkdir(parents=True)
    (root / "new" / "more" / "file").write_bytes(b"two")
    after = images.take(root)
    assert digest(after) != digest(before)
    images.put(before, root)
    assert images.take(root) == before
    assert Images(tmp_path / "again").take(root) == before  # read anew
    assert sha256_of_tree(root) == files
    images.put(after, root)
    assert images.take(root) == after


def test_a_torn_output_is_told_from_an_absent_and_a_whole_one(images: Images, tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "data" / "out" / "below").mkdir(parents=True)
    (root / "data" / "out" / "file").write_bytes(b"one")
    (root / "data" / "out" / "below" / "file").write_bytes(b"two")
    made = {"data/out": sha256_of_tree(root / "data" / "out"), "data/absent": {"file": "0" * 64}}
    assert torn(images.take(root), made) == []
    (root / "data" / "out" / "file").write_bytes(b"on")
    assert torn(images.take(root), made) == ["data/out"]
    (root / "data" / "out" / "file").unlink()
    assert torn(images.take(root), made) == ["data/out"]


def test_clearing_takes_working_folders_and_leaves_outputs(tmp_path: Path) -> None:
    for name in ("out/file", ".out.partial/file", "other/file"):
        (tmp_path / "data" / name).parent.mkdir(parents=True)
        (tmp_path / "data" / name).write_bytes(b"what it holds")
    cleared(["data/out"], tmp_path)
    left = {path.relative_to(tmp_path / "data").as_posix() for path in (tmp_path / "data").rglob("*.*")}
    assert not any("partial" in name for name in left), left
    assert (tmp_path / "data" / "out" / "file").read_bytes() == b"what it holds"
    assert (tmp_path / "data" / "other" / "file").exists()
