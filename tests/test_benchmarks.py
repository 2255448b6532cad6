"""benchmarks/: the harness keeps, judges and shows what modules found; the figures' arithmetic. Nothing is timed."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from PIL import Image
from ruamel.yaml import YAML

from benchmarks import __main__ as harness
from benchmarks import no_op, small_files, tail_epoch, tutorial_script, whole_pipeline
from stages.store import hashes

ROOT = Path(__file__).parent.parent
SVG = "{http://www.w3.org/2000/svg}"


def figure(value: float = 0.1, bound: str = "<= 1/6, aim 1/10", **more: Any) -> dict[str, Any]:
    limit = harness.bound_of(bound)
    assert limit is not None
    passed = limit.missed_by(value) <= 1
    return {"figure": "This ÷ that", "bound": bound, "value": value, "passed": passed, "details": {}, **more}


def run(module: str, *figures: dict[str, Any], quick: bool = False, date: str = "2026-01-02 03:04 UTC") -> harness.Run:
    return {
        "module": module, "quick": quick, "date": date, "load before": [0.5, 0.4, 0.3], "seconds": 1.0,
        "machine": {"processor": "A <fast> one", "cores": 2, "memory, GiB": 8.0, "os": "Some OS", "python": "3.11.7"},
        "versions": {"numpy": "2.0"}, "figures": list(figures) or [figure()],
    }  # fmt: skip


SKIPPED = {"figure": "tail_epoch", "skipped": "no photographs here"}
SKIPPED_BY_NAME = {"figure": "A ÷ B", "bound": "at least 2x", "value": None, "passed": None, "skipped": "none here"}
FAILED = {"figure": "tail_epoch", "failed": "exit 1"}


@pytest.mark.parametrize(
    ("text", "limit", "at_most"),
    [
        ("<= 1/6, aim 1/10", 1 / 6, True),
        ("≤ 0.40", 0.4, True),
        ("<= 1.0; TensorFlow never imported", 1.0, True),
        (">= 3", 3.0, False),
        ("at least 2x the rate of what Keras brings", 2.0, False),
        ("at most 2.5 / 10", 0.25, True),
    ],
)
def test_a_bound_is_read_from_its_text(text: str, limit: float, at_most: bool) -> None:
    bound = harness.bound_of(text)
    assert bound is not None
    assert (bound.limit, bound.at_most) == (pytest.approx(limit), at_most)


def test_a_bound_without_a_number_is_none() -> None:
    assert harness.bound_of("as fast as can be, version 3") is None


def test_a_value_is_compared_in_the_bounds_direction() -> None:
    assert harness.Bound(0.5, True).missed_by(1.0) == 2
    assert harness.Bound(3.0, False).missed_by(6.0) == 0.5
    assert harness.Bound(0.5, True).missed_by(0.0) == 0
    assert harness.Bound(3.0, False).missed_by(0.0) == float("inf")


def test_a_module_that_prints_a_list_or_a_dict_is_understood_and_chatter_before_it_ignored() -> None:
    one, two = figure(0.1), figure(0.2)
    assert harness.figures_in("no_op", 0, f"chatter\n{json.dumps(one)}\n") == [one]
    assert harness.figures_in("no_op", 0, json.dumps([one, two])) == [one, two]


def test_a_module_that_is_skipped_or_fails_says_so_under_its_name() -> None:
    assert harness.figures_in("tail_epoch", 0, '{"skipped": "no photographs here"}') == [SKIPPED]
    assert harness.figures_in("tail_epoch", 1, "") == [FAILED]
    for output in ("", "not JSON", '{"value": 1}', "3", "[1]"):
        assert "failed" in harness.figures_in("tail_epoch", 0, output)[0]


def test_a_run_replaces_only_its_own_modules_run_of_the_same_form() -> None:
    kept: list[harness.Run] = []
    for one in (run("no_op"), run("whole_pipeline"), run("no_op", quick=True)):
        kept = harness.merged(kept, one)
    again = harness.merged(kept, run("no_op", figure(0.15), date="2026-02-03 04:05 UTC"))
    assert [(one["module"], one["quick"], one["date"][:7]) for one in again] == [
        ("whole_pipeline", False, "2026-01"),
        ("no_op", False, "2026-02"),
        ("no_op", True, "2026-01"),
    ]


@pytest.mark.parametrize("nothing", [SKIPPED, SKIPPED_BY_NAME, FAILED])
def test_a_run_that_measured_nothing_does_not_take_a_measurements_place(nothing: dict[str, Any]) -> None:
    measured, empty = run("tail_epoch"), run("tail_epoch", nothing)
    assert harness.merged([measured], empty) == [measured]
    assert harness.merged([empty], measured) == [measured]
    assert harness.merged([], empty) == [empty]


def test_the_full_run_is_shown_where_there_is_one_and_a_measured_one_before_all() -> None:
    full, quick, skipped = run("no_op"), run("no_op", quick=True), run("no_op", SKIPPED)
    assert harness.shown([full, quick]) == [full]
    assert harness.shown([full, quick], quick_first=True) == [quick]
    assert harness.shown([skipped, quick]) == [quick]


def test_a_missed_bound_breaks_a_full_run_and_a_quick_one_only_beyond_the_slack() -> None:
    missed = figure(0.5, "<= 0.4")
    assert harness.is_broken(run("tail_epoch", missed), slack=1.5)
    assert not harness.is_broken(run("tail_epoch", missed, quick=True), slack=1.5)
    assert harness.is_broken(run("tail_epoch", figure(0.61, "<= 0.4"), quick=True), slack=1.5)
    assert not harness.is_broken(run("tail_epoch", SKIPPED, SKIPPED_BY_NAME), slack=1.5)
    assert harness.is_broken(run("tail_epoch", figure(value=0.1) | {"value": None}), slack=1.5)
    assert harness.is_broken(run("tail_epoch", FAILED, quick=True), slack=1.5)
    # What is no ratio (accuracy, imports) counts in full only.
    assert harness.is_broken(run("no_op", {**figure(), "passed": False}), slack=1.5)


def test_the_table_has_a_row_a_figure_that_nothing_in_it_can_break() -> None:
    odd = figure(0.05, figure="a | b <script>", details={"rounds": 3, "extrapolated": "from one epoch"})
    text = harness.table([run("whole_pipeline", odd, figure(0.2)), run("tail_epoch", SKIPPED)])
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 5
    assert {line.replace("\\|", "").count("|") for line in rows} == {5}
    assert "<" not in text
    assert "0.05 (1/20) ✓ | full, 3 rounds, extrapolated, load 0.5" in rows[2]
    assert "0.2 (1/5) ✗ missed" in rows[3]
    assert "not measured | skipped: no photographs here" in rows[4]
    assert text.endswith("numpy 2.0. 2026-01-02.\n")


def test_machines_are_told_apart() -> None:
    other = run("no_op")
    other["machine"] = {**other["machine"], "cores": 64}
    lines = harness.table([run("tail_epoch"), other]).splitlines()[-2:]
    assert [line.split(":")[0] for line in lines] == ["tail_epoch", "no_op"]


def test_the_picture_is_xml_with_a_bar_a_measured_figure_better_ones_left_of_the_bound() -> None:
    runs = [run("whole_pipeline", figure(0.05, figure="a <b> & c"), figure(0.6)), run("tail_epoch", SKIPPED, FAILED)]
    tree = ElementTree.fromstring(harness.picture(runs))
    bars = [bar for bar in tree.iter(f"{SVG}rect") if bar.get("class") != "card"]
    assert [bar.get("class") for bar in bars] == ["good", "bad"]
    good, bad = ((float(bar.attrib["x"]), float(bar.attrib["width"])) for bar in bars)
    assert good[0] + good[1] == pytest.approx(bad[0])
    marks = [path for path in tree.iter(f"{SVG}path") if "mark" in path.attrib["class"]]
    assert len({path.get("d") for path in marks}) == 2  # told apart without colours, too
    assert "a <b> & c" in [text.text for text in tree.iter(f"{SVG}text")]
    assert all(float(text.attrib["y"]) < float(tree.attrib["height"]) for text in tree.iter(f"{SVG}text"))


def test_a_picture_of_nothing_and_of_far_values_is_still_xml() -> None:
    ElementTree.fromstring(harness.picture([]))
    ElementTree.fromstring(harness.picture([run("no_op", figure(1e-9), figure(1e9), figure(0.0), SKIPPED_BY_NAME)]))


def test_the_table_goes_between_the_markers_and_again() -> None:
    start, end = harness.MARKERS
    readme = f"before\n{start}\nold\n{end}\nafter\n"
    once = harness.put_into(readme, "new\n")
    assert once.startswith(f"before\n{start}\nnew\n")
    assert once.endswith(f"{end}\nafter\n")
    assert "old" not in once
    assert harness.put_into(once, "new\n") == once
    with pytest.raises(ValueError, match="no lines"):
        harness.put_into("no markers", "new\n")


def test_the_command_runs_modules_keeps_them_and_says_what_is_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = {"tail_epoch": json.dumps(figure(0.9, "<= 0.4")), "no_op": '{"skipped": "not here"}'}
    asked: list[list[str]] = []

    def module(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        asked.append(command[2:])
        return subprocess.CompletedProcess(command, 0, said[command[2].removeprefix("benchmarks.")])

    monkeypatch.setattr(harness, "RESULTS", tmp_path / "results.json")
    monkeypatch.setattr(harness, "PICTURE", tmp_path / "results.svg")
    monkeypatch.setattr(harness, "README", tmp_path / "README.md")
    (tmp_path / "README.md").write_text("\n".join(["# x", *harness.MARKERS, ""]))
    here = harness.machine() | {"versions": harness.versions()}
    monkeypatch.setattr(harness, "machine", lambda: {k: v for k, v in here.items() if k != "versions"})
    monkeypatch.setattr(harness, "versions", lambda: here["versions"])
    monkeypatch.setattr(harness.subprocess, "run", module)

    assert harness.main(["no_op"]) == 0
    assert harness.main(["--quick", "--readme", "tail_epoch", "--", "--images", "3"]) == 1
    assert harness.main(["--quick", "--slack", "3", "tail_epoch"]) == 0
    assert asked[:2] == [["benchmarks.no_op"], ["benchmarks.tail_epoch", "--quick", "--images", "3"]]
    runs = json.loads((tmp_path / "results.json").read_text())["runs"]
    assert [(one["module"], one["quick"]) for one in runs] == [("tail_epoch", True), ("no_op", False)]
    assert set(runs[0]["versions"]) == set(harness.PACKAGES)
    assert len(runs[0]["load before"]) == 3
    ElementTree.fromstring((tmp_path / "results.svg").read_text())
    assert "This ÷ that" in (tmp_path / "README.md").read_text()
    assert "✗ missed" in capsys.readouterr().out
    for wrong in (["nothing"], ["--", "--images", "3"]):
        with pytest.raises(SystemExit):
            harness.main(wrong)


def test_the_seconds_of_a_stage_last_until_the_next_one_begins() -> None:
    assert whole_pipeline.between([("download", 1.0), ("validate", 3.5)], 10.0) == {"download": 2.5, "validate": 6.5}


def test_ten_epochs_are_extrapolated_from_one_without_what_came_once() -> None:
    one = {"total": 30.0, "first fit": 8.0, "first fit, start-up": 3.0, "second fit": 14.0, "second fit, start-up": 4.0}
    scaled = whole_pipeline.in_full(one, 10)
    assert (scaled["first fit"], scaled["second fit"]) == (53.0, 104.0)
    assert scaled["total"] == 30 + 45 + 90


def test_start_up_is_what_the_first_batch_took_beyond_a_typical_one() -> None:
    assert tutorial_script.start_up([0.0, 5.0, 6.0, 7.0, 8.5]) == pytest.approx(4.0)
    assert tutorial_script.start_up([0.0, 5.0]) == 0.0
    assert tutorial_script.start_up([0.0, 1.0, 3.0]) == 0.0


@pytest.mark.parametrize(("accuracy", "passed"), [(0.96, True), (0.94, False)])
def test_the_whole_pipeline_passes_only_if_it_is_no_less_accurate(accuracy: float, passed: bool) -> None:
    stages = {"total": 50.0, "feature_extract": 9.0, "fine_tune": 11.0}
    script = {"total": 500.0, "first fit": 100.0, "second fit": 300.0}
    rounds = [
        {
            "seed": seed,
            "pipeline": {"seconds": stages, "val": 0.97, "test": accuracy},
            "tutorial": {"seconds": script, "val": 0.96, "test": 0.95},
        }
        for seed in (1, 2, 3)
    ]
    whole, training = whole_pipeline.figures(rounds, extrapolate=False)
    assert (whole["value"], whole["passed"]) == (pytest.approx(0.1), passed)
    assert (training["value"], training["passed"]) == (pytest.approx(0.05), True)
    assert whole_pipeline.figures(rounds, extrapolate=True)[0]["passed"]
    assert "extrapolated" in whole_pipeline.figures(rounds, extrapolate=True)[1]["details"]


def test_the_whole_pipeline_is_skipped_without_the_photographs(tmp_path: Path) -> None:
    assert "is not here" in dict(whole_pipeline.measure(quick=True, archive=tmp_path / "none.zip"))["skipped"]


def test_toy_stages_write_every_output_and_all_that_is_read_in_one() -> None:
    document = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())
    files = no_op.toy_files(document)
    assert set(files) == set(document["stages"])
    written = {path for paths in files.values() for path in paths}
    for stage in document["stages"].values():
        for path in [*stage["outs"], *(one for one in stage["deps"] if str(one).startswith(("data/", "reports/")))]:
            if path != "data/review":
                assert any(one == path or one.startswith(f"{path}/") for one in written), path


def test_an_epochs_seconds_leave_the_first_out() -> None:
    assert tail_epoch._durations([5.0, 7.0, 8.0]) == [2.0, 1.0]


def test_small_files_are_pictures_the_same_each_time_and_a_flip_changes_one(tmp_path: Path) -> None:
    small_files.make(tmp_path / "one", 30)
    small_files.make(tmp_path / "other", 30)
    one, other = hashes.sha256_of_tree(tmp_path / "one"), hashes.sha256_of_tree(tmp_path / "other")
    assert one == other
    assert len(set(one.values())) == 30
    path = small_files.changed_file(tmp_path / "one", 30)
    with Image.open(path) as picture:
        picture.load()
        assert picture.size == (small_files.SIDE, small_files.SIDE)
    small_files.flip(path)
    changed = hashes.sha256_of_tree(tmp_path / "one")
    assert [name for name in one if changed[name] != one[name]] == [path.relative_to(tmp_path / "one").as_posix()]
