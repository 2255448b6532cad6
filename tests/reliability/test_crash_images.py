"""benchmarks/crash_images.py on the first stages: a kill at every write, and that an image is what a kill leaves."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.crash_images import Image, Images, Sweep, cleared, digest, outputs_of
from benchmarks.kill_points import Bench, Forks, Goal
from benchmarks.shim import Ask, Call, read
from benchmarks.tiny_pipeline import Tiny
from benchmarks.warm import Warm
from stages.store.hashes import sha256_of_tree


@pytest.fixture
def images(tmp_path: Path) -> Images:
    return Images(tmp_path / "kept")


@dataclass
class Stopped:
    """split over an older version of its output, stopped at every write."""

    bench: Bench
    images: Images
    sweep: Sweep
    taken: list[Image]
    calls: list[Call]  # as many


@pytest.fixture(scope="module")
def stopped(tiny: Tiny, warm_stages: dict[str, Warm], tmp_path_factory: pytest.TempPathFactory) -> Stopped:
    folder, warm = tmp_path_factory.mktemp("stopped"), warm_stages["split"]
    goal = tiny.goal("split", with_lock=False).over_old(folder / "before")
    bench, images = Bench(goal, Forks(warm), folder / "run"), Images(folder / "kept")
    sweep = Sweep("split", bench, warm, images)
    return Stopped(bench, images, sweep, sweep.taken(), read(bench.folder / "writes.log"))


@pytest.mark.slow
def test_a_stage_killed_at_every_write(stopped: Stopped) -> None:
    wrong, states = stopped.sweep.swept(stopped.taken)
    assert wrong == {}
    assert sum(call.name != "half" for call in stopped.calls) == stopped.bench.writes() >= 10
    assert sorted(number for state in states for number in state.images) == list(range(1, len(stopped.taken) + 1))
    assert all(state.runs for state in states)
    there = [outputs_of(image, ["data/split"]).get("data/split") for image in stopped.taken]
    old, new = stopped.bench.goal.old["data/split"], stopped.bench.goal.made["data/split"]
    changes = [files for number, files in enumerate(there) if number == 0 or files != there[number - 1]]
    assert changes == [old, None, new]


@pytest.mark.slow
def test_an_image_is_what_a_kill_leaves(stopped: Stopped) -> None:
    # A kill is at the half of a write.
    at = [number for number, call in enumerate(stopped.calls)
          if call.name == "half" or [*stopped.calls, call][number + 1].name != "half"]  # fmt: skip
    count = len(at)
    assert count == stopped.bench.writes()
    for number in (1, count // 3, count // 2, count - 1, count):
        left: list[Image] = []
        stopped.bench.broken(Ask(at=number), lambda checkout, left=left: left.append(stopped.images.take(checkout)))  # type: ignore[misc]
        image = stopped.taken[at[number - 1]]
        # A lock names the process that holds it, which is another one.
        held = {name for name in image if name.endswith(".lock.partial")}
        assert left[0].keys() == image.keys(), number
        assert {name for name in image if left[0][name] != image[name]} <= held, number


@pytest.mark.slow
def test_images_from_which_a_run_does_not_come_to_the_same_fail(stopped: Stopped) -> None:
    """What the sweep looks for can be found: something left behind, and an output that is torn."""
    file = next(iter(_files(stopped.taken[0]).values()))
    stray = {"data/.stray.partial": (stat.S_IFDIR | 0o755, ""), "data/.stray.partial/x": (stat.S_IFREG | 0o644, file)}
    wrong, _ = stopped.sweep.swept([stopped.taken[0], *({**image, **stray} for image in stopped.taken[1:3])])
    assert wrong == {2: ["data/.stray.partial is left"] * 2, 3: ["data/.stray.partial is left"] * 2}
    published = stopped.taken[-1]
    gone = next(name for name in _files(published) if name.startswith("data/split/"))
    half = {name: what for name, what in published.items() if name != gone}
    wrong, _ = stopped.sweep.swept([stopped.taken[0], half])
    assert list(wrong) == [2]
    assert wrong[2][0] == "after the fault data/split is neither absent nor whole"


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


def test_a_torn_output_is_told_from_an_absent_a_whole_and_an_old_one(images: Images, tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "data" / "out" / "below").mkdir(parents=True)
    (root / "data" / "out" / "file").write_bytes(b"one")
    (root / "data" / "out" / "below" / "file").write_bytes(b"two")
    made = sha256_of_tree(root / "data" / "out")
    goal = Goal(root, {"data/out": made, "data/other": made}, None, {}, {"data/out": {}, "data/other": {"old": "0"}})

    def wrong() -> list[str]:
        return goal.wrong(outputs_of(images.take(root), goal.made))

    assert wrong() == []
    (root / "data" / "out" / "file").write_bytes(b"on")
    assert wrong() == ["after the fault data/out is neither absent nor whole"]
    (root / "data" / "out" / "file").unlink()
    assert wrong() == ["after the fault data/out is neither absent nor whole"]
    (root / "data" / "out" / "below" / "file").unlink()
    assert wrong() == [], "that is the old one"
    mixed = {"data/out": made, "data/other": {"old": "0"}}
    assert goal.wrong(mixed) == ["after the fault a new output is beside an old one"]
    assert goal.wrong({"data/out": {}, "data/other": {"old": "0"}}) == []


def test_clearing_takes_working_folders_and_leaves_outputs(tmp_path: Path) -> None:
    for name in ("out/file", ".out.partial/file", "other/file"):
        (tmp_path / "data" / name).parent.mkdir(parents=True)
        (tmp_path / "data" / name).write_bytes(b"what it holds")
    cleared(["data/out"], tmp_path)
    left = {path.relative_to(tmp_path / "data").as_posix() for path in (tmp_path / "data").rglob("*.*")}
    assert not any("partial" in name for name in left), left
    assert (tmp_path / "data" / "out" / "file").read_bytes() == b"what it holds"
    assert (tmp_path / "data" / "other" / "file").exists()
