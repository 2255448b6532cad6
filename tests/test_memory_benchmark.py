"""benchmarks/memory.py: its pictures, how it reads a process's memory, and the figures' arithmetic. No stage runs."""

from __future__ import annotations

import io
import math
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from benchmarks import __main__ as harness
from benchmarks import memory
from benchmarks.memory import STAGES, Taken
from stages.store import params
from stages.validate import ValidateParams

MB = 1_000_000
SIZES = (100, 300, 1000)
STATUS = """Name:\tpython
VmHWM:\t  273000 kB
VmRSS:\t  260000 kB
RssAnon:\t  190000 kB
RssFile:\t   69000 kB
RssShmem:\t    1000 kB
Threads:\t2
"""


def table(**worst: tuple[Taken, Taken, Taken]) -> dict[str, dict[int, Taken]]:
    """Every stage flat and straight but those given."""
    usual = (Taken(11.0, 50 * MB, 90 * MB), Taken(13.0, 51 * MB, 99 * MB), Taken(20.0, 55 * MB, 120 * MB))
    return {stage: dict(zip(SIZES, worst.get(stage, usual), strict=True)) for stage in STAGES}


def test_the_same_number_gives_the_same_picture_and_another_one_another() -> None:
    assert memory.picture(7) == memory.picture(7)
    assert len({memory.picture(number) for number in range(50)}) == 50


def test_a_class_is_told_by_its_colour() -> None:
    for number in range(8):
        with Image.open(io.BytesIO(memory.picture(number))) as image:
            assert image.size == (memory.SIDE, memory.SIDE)
            red, green, blue = image.convert("RGB").resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))
        strongest = max((red, "red"), (green, "green"), (blue, "blue"))[1]
        assert memory.label(number) in ({"red", "yellow"} if strongest == "red" else {strongest, "yellow"})


def test_pictures_are_drawn_into_class_folders_and_a_larger_set_holds_the_smaller(tmp_path: Path) -> None:
    memory.draw(tmp_path, range(4))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.png")}
    memory.draw(tmp_path, range(4, 9))
    after = {path: path.read_bytes() for path in tmp_path.rglob("*.png")}
    assert (len(before), len(after)) == (4, 9)
    assert before.items() <= after.items()
    assert {path.name for path in tmp_path.iterdir()} == set(memory.COLOURS)


def test_the_settings_are_legal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ruamel.yaml import YAML

    monkeypatch.chdir(tmp_path)
    with Path("params.yaml").open("w") as file:
        YAML().dump(memory.settings(), file)
    assert params.read(ValidateParams).near_duplicate_min_side <= memory.SIDE, "near duplicates are looked for"


def test_pages_of_files_do_not_count() -> None:
    assert memory.anonymous(STATUS) == 191_000 * 1024
    assert memory.field(STATUS, "VmHWM") == 273_000 * 1024
    assert memory.anonymous("") == 0, "a process that has just ended"


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_a_childs_memory_counts() -> None:
    held = 60 * MB
    child = f"held = bytearray({held}); input()"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    process = subprocess.Popen([sys.executable, "-c", parent], stdin=subprocess.PIPE)
    watch = memory.Watch(process.pid)
    watch.start()
    for _ in range(600):
        if watch.anonymous >= held:
            break
        watch.join(0.05)
    process.communicate(b"\n")
    watch.stop()
    assert watch.anonymous >= held
    assert watch.resident < held, "VmHWM is of the parent alone"
    assert process.returncode == 0


def test_a_stage_that_fails_says_its_last_lines(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"(?s)stages\.no_such_stage ended with 1:.*No module named"):
        memory.run("no_such_stage", tmp_path)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ((11.0, 13.0, 20.0), 1.0),
        ((11.0, 13.0, 27.0), 2.0),
        ((10.0, 10.5, 15.9), None),
        ((10.0, 10.0, 30.0), math.inf),
    ],
)
def test_a_straight_line_has_a_bend_of_one(seconds: tuple[float, float, float], expected: float | None) -> None:
    found = memory.bend(dict(zip(SIZES, seconds, strict=True)))
    assert found == (expected if expected is None else pytest.approx(expected))


def test_the_worst_stage_decides_each_figure() -> None:
    grown = (Taken(11.0, 50 * MB, 0), Taken(13.0, 60 * MB, 0), Taken(20.0, 100 * MB, 0))
    bent = (Taken(11.0, 50 * MB, 0), Taken(13.0, 50 * MB, 0), Taken(23.5, 50 * MB, 0))
    started = (Taken(5.0, 50 * MB, 0), Taken(5.0, 50 * MB, 0), Taken(6.0, 50 * MB, 0))
    of_memory, of_time = memory.figures(table(validate=grown, evaluate=bent, export=started), SIZES, 0.5)
    assert (of_memory["value"], of_memory["passed"], of_memory["details"]["worst"]) == (2.0, False, "validate")
    assert (of_time["value"], of_time["passed"], of_time["details"]["worst"]) == (1.5, False, "evaluate")
    assert of_time["details"]["left out, start-up decides"] == ["export"]
    assert of_memory["details"]["peak memory, MB"]["validate"] == [50.0, 60.0, 100.0]
    assert of_memory["details"]["seconds"]["evaluate"] == [11.0, 13.0, 23.5]


def test_flat_and_straight_passes_and_the_harness_reads_the_bounds() -> None:
    found = memory.figures(table(), SIZES, 0.5)
    assert [figure["passed"] for figure in found] == [True, True]
    bounds = [harness.bound_of(figure["bound"]) for figure in found]
    assert bounds == [(1.2, True), (1.15, True)]
    assert all({"figure", "bound", "value", "passed", "details"} <= {*figure} for figure in found)


def test_nothing_is_judged_where_every_stage_is_start_up() -> None:
    still = (Taken(5.0, MB, 0), Taken(5.0, MB, 0), Taken(5.0, MB, 0))
    _, of_time = memory.figures(table(**dict.fromkeys(STAGES, still)), SIZES, 0.5)
    assert (of_time["value"], of_time["passed"], of_time["details"]["worst"]) == (1.0, True, None)
