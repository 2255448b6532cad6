"""The flow without a server to start: states, laziness, failure, targets, side runs, one run at a time, kills."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import State
from prefect.settings import PREFECT_API_URL
from prefect.testing.utilities import prefect_test_harness
from ruamel.yaml import YAML

from flows import artifacts, child
from flows.pipeline import pipeline
from flows.run import exit_code
from tests.flows.toy import STAGES, Toy

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def harness() -> Iterator[None]:
    """A temporary Prefect server for the flows that run in this process."""
    with prefect_test_harness(server_startup_timeout=90):
        yield


@pytest.fixture
def toy(made: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Toy:
    copy = made.copy(tmp_path / "toy")
    monkeypatch.chdir(copy.folder)
    monkeypatch.setenv("TOY_JOURNAL", str(copy.journal))
    return copy


def run(**parameters: Any) -> tuple[State[Any], dict[str, str], dict[str, str]]:
    """Run the flow here; returns its state and, per task, the name and message of its state."""
    state = pipeline(**parameters, return_state=True)
    names, messages = {}, {}
    with get_client(sync_client=True) as client:
        # Task states reach the server a moment after the flow has ended.
        for _ in range(100):
            tasks = client.read_task_runs(
                flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[state.state_details.flow_run_id]))
            )
            names = {task.name: task.state.name for task in tasks if task.state and task.state.is_final()}
            messages = {task.name: task.state.message or "" for task in tasks if task.state}
            if len(names) == 7 or state.name in ("Refused", "Busy"):
                break
            time.sleep(0.1)
    return state, {name: names[name] for name in STAGES if name in names}, messages


def test_a_cold_run_is_dvc_repro(made: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cold = Toy(tmp_path / "cold")
    monkeypatch.chdir(cold.folder)
    state, names, _ = run()
    assert names == dict.fromkeys(STAGES, "Completed")
    assert (state.name, state.message, exit_code(state)) == ("Completed", "7 Completed", 0)
    assert cold.lock() == made.lock()
    assert [cold.out(stage) for stage in STAGES] == [made.out(stage) for stage in STAGES]
    assert cold.repro() == []


def test_nothing_changed_nothing_started(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    def started(*_: object) -> int:
        raise AssertionError("a process was started")

    monkeypatch.setattr(child, "run", started)
    lock = toy.lock()
    state, names, _ = run()
    assert names == dict.fromkeys(STAGES, "Unchanged")
    assert (state.name, state.type.value) == ("Unchanged", "COMPLETED")
    assert (toy.ran(), toy.lock()) == ([], lock)


def test_a_changed_parameter_runs_its_stage_and_what_follows(toy: Toy) -> None:
    toy.set(split={"value": 5})
    _, names, messages = run()
    assert [names[stage] for stage in STAGES] == ["Unchanged", "Unchanged", *["Completed"] * 5]
    assert messages["split"] == "split modified"
    assert messages["feature_extract"] == "data/split modified"
    assert toy.ran() == list(STAGES[2:])


def test_going_back_restores(toy: Toy) -> None:
    toy.set(fine_tune={"value": 5})
    run()
    toy.set(fine_tune={"value": 0})
    toy.forget()
    _, names, _ = run()
    assert [names[stage] for stage in STAGES] == [*["Unchanged"] * 4, *["Restored"] * 3]
    assert toy.ran("start") == []


def test_a_failure_stops_what_follows_and_says_why(toy: Toy) -> None:
    toy.set(validate={"exit": 3})
    lock = toy.lock()
    state, names, messages = run()
    assert [names[stage] for stage in STAGES] == ["Unchanged", "Failed", *["NotRun"] * 5]
    assert messages["validate"].startswith("validate failed (exit 3)")
    assert "the toy was told to fail" in messages["validate"]
    assert messages["evaluate"] == "validate did not succeed"
    assert state.is_failed()
    assert exit_code(state) == 3
    assert toy.ran("start") == ["validate"]
    # dvc.lock still records the last good data.
    assert toy.lock() == lock


def test_targets_and_force(toy: Toy) -> None:
    toy.set(export={"value": 1}, download={"value": 1})
    _, names, _ = run(targets=["split"])
    assert names == {**dict.fromkeys(STAGES[:3], "Completed"), **dict.fromkeys(STAGES[3:], "Skipped")}
    toy.forget()
    _, names, _ = run(targets=["validate"], force=True)
    assert toy.ran() == ["download", "validate"]


def test_an_unknown_target_is_refused_before_anything(toy: Toy) -> None:
    state = pipeline(targets=["fine-tune"], return_state=True)
    assert state.is_failed()
    assert "'fine_tune'" in str(state.message)
    assert toy.ran("start") == []


def test_a_side_run_leaves_the_checkout_alone_and_its_result_on_a_branch(toy: Toy) -> None:
    lock, params = toy.lock(), (toy.folder / "params.yaml").read_text()
    _, names, _ = run(overrides={"fine_tune.value": 7})
    assert [names[stage] for stage in STAGES] == [*["Restored"] * 4, *["Completed"] * 3]
    assert (toy.lock(), (toy.folder / "params.yaml").read_text()) == (lock, params)
    assert toy.git("status", "--porcelain") == ""
    branch = toy.git("branch", "--list", "graft/*").split()[-1]
    toy.git("switch", "-q", branch)
    toy.run("-m", "dvc", "checkout")
    assert "fine_tune 7" in toy.out("export")
    assert toy.repro() == []
    toy.git("switch", "-q", "main")
    # What it made is in the cache: the same parameters in the checkout run nothing.
    toy.forget()
    toy.set(fine_tune={"value": 7})
    _, names, _ = run()
    assert toy.ran("start") == []
    # The same request again is answered at once.
    assert run(overrides={"fine_tune.value": 7})[0].is_completed()
    assert toy.ran("start") == []


def test_a_run_of_another_commit(toy: Toy) -> None:
    first = toy.git("rev-parse", "HEAD").strip()
    toy.set(evaluate={"value": 9})
    toy.repro()
    toy.commit("Second")
    toy.git("tag", "second")
    toy.forget()
    _, names, _ = run(ref=first)
    assert set(names.values()) == {"Restored"}
    _, names, _ = run(ref="second", overrides={"export.value": 2})
    assert [names[stage] for stage in STAGES] == [*["Restored"] * 6, "Completed"]
    assert toy.ran() == ["export"]


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"ref": "no-such-branch"}, "git knows no commit 'no-such-branch'"),
        ({"ref": "--help"}, "git knows no commit '--help'"),
        ({"overrides": {"fine_tuned.value": 1}}, "legal are download, validate"),
        ({"overrides": {"value": 1}}, "legal are download, validate"),
        ({"overrides": {"fine_tune.value.deeper": 1}}, "value is a value, not a block"),
        ({"overrides": {"fine_tune.value.deeper.still": 1}}, "value is a value, not a block"),
    ],
)
def test_a_request_that_cannot_be_met_is_refused(toy: Toy, parameters: dict[str, Any], said: str) -> None:
    state, names, _ = run(**parameters)
    assert (state.name, exit_code(state), names) == ("Refused", 2, {})
    assert said in str(state.message)


def test_a_params_file_that_is_no_yaml_is_refused(toy: Toy) -> None:
    (toy.folder / "params.yaml").write_text("download: [")
    state, _, _ = run()
    assert (state.name, exit_code(state)) == ("Refused", 2)
    assert "params.yaml" in str(state.message)
    assert toy.ran("start") == []


def test_the_command_ends_with_4_where_an_output_lies_behind_a_link(toy: Toy, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    shutil.rmtree(toy.folder / "data")
    (toy.folder / "data").symlink_to("../outside")
    command = ("-m", "flows.pipeline", "validate")
    done = toy.run(*command, check=False, PREFECT_API_URL=str(PREFECT_API_URL.value()), PYTHONPATH=str(ROOT))
    assert done.returncode == 4, done.stdout + done.stderr
    assert "lies behind a link" in done.stdout + done.stderr
    assert toy.ran("start") == []
    assert not list((tmp_path / "outside").iterdir())


def test_a_held_checkout_refuses_or_waits(toy: Toy) -> None:
    (toy.folder / ".graft").mkdir()
    with (toy.folder / ".graft" / "checkout.lock").open("w") as file:
        file.write("flow run quiet-otter (pid 1 on elsewhere)")
        file.flush()
        fcntl.flock(file, fcntl.LOCK_EX)
        state, names, _ = run(wait=0)
        assert (state.name, exit_code(state), names) == ("Busy", 6, {})
        assert "quiet-otter" in str(state.message)
    assert run(wait=0)[0].name == "Unchanged"


def test_waits_for_a_dvc_repro_that_holds_the_stage(toy: Toy) -> None:
    toy.set(fine_tune={"value": 4, "sleep": 4})
    by_hand = subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro"], cwd=toy.folder, env=toy.environment(), stdout=subprocess.DEVNULL
    )
    while "fine_tune" not in toy.ran("start"):
        time.sleep(0.05)
    state, _, _ = run()
    assert by_hand.wait(60) == 0
    assert state.is_completed(), state.message
    assert toy.ran("start").count("fine_tune") == 1
    assert toy.repro() == []


def test_an_artifact_that_cannot_be_made_does_not_fail_the_stage(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    (toy.folder / "reports" / "validate").mkdir(parents=True)
    (toy.folder / "reports" / "validate" / "results.json").write_text('{"rules": 3}')
    toy.set(validate={"value": 1})
    state, names, _ = run()
    assert names["validate"] == "Completed"
    assert state.is_completed()


def test_artifacts_tell_plan_verdict_metrics_curves_progress(toy: Toy) -> None:
    reports = toy.folder / "reports"
    for folder in ("validate", "fine_tune/plots/metrics/train", "fine_tune/plots/metrics/val"):
        (reports / folder).mkdir(parents=True)
    rule = {"id": "size", "severity": "critical", "description": "No <b>small</b> image | at all", "failing": 2}
    rule |= {"failing_names": ["a|b.png", "<script>.png"], "advice": "Look.", "success": False, "observed": 2}
    results = {"verdict": "rejected", "accepted": 8, "images": 10, "quarantined": {"truncated": 2}, "rules": [rule]}
    (reports / "validate" / "results.json").write_text(json.dumps(results))
    for split in ("train", "val"):
        for metric in ("accuracy", "loss"):
            path = reports / "fine_tune" / "plots" / "metrics" / split / f"{metric}.tsv"
            path.write_text(f"step\t{metric}\n0\t0.5\n1\t0.75\n")
    toy.set(fine_tune={"epochs": 4})
    state, _, _ = run()
    with get_client(sync_client=True) as client:
        ours = FlowRunFilter(id=FlowRunFilterId(any_=[state.state_details.flow_run_id]))
        found = {artifact.key: artifact for artifact in client.read_artifacts(flow_run_filter=ours)}
    assert set(found) == {"plan", "validation", "learning-curves", "fine-tune-progress"}
    assert "fine_tune.epochs" in found["plan"].data
    verdict = found["validation"].data
    assert "# Data rejected" in verdict
    assert f"`graft report validate` in {toy.folder}" in verdict
    assert "<script>" not in verdict
    assert "<b>" not in verdict
    assert "a\\|b.png" in verdict
    assert found["learning-curves"].data.startswith("data:image/svg+xml;base64,")
    assert float(found["fine-tune-progress"].data) == 100.0


def test_the_report_is_a_link_where_it_is_served(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAFT_REPORTS_URL", "http://127.0.0.1:4201/")
    assert artifacts._report_link(toy.folder) == "[Open the report](http://127.0.0.1:4201/validate/index.html)"
    # What is served is the checkout's; a tree beside it has its own.
    assert "graft report validate" in artifacts._report_link(toy.folder / ".graft" / "trees" / "x")


def test_data_added_with_dvc_add_is_no_trouble(toy: Toy) -> None:
    (toy.folder / "extra.bin").write_text("more")
    toy.run("-m", "dvc", "add", "-q", "extra.bin")
    toy.set(split={"value": 2})
    state, names, _ = run()
    assert state.is_completed(), state.message
    assert names["split"] == "Completed"


def test_a_branch_that_somebody_built_on_is_never_moved(toy: Toy) -> None:
    run(overrides={"export.value": 3})
    branch = toy.git("branch", "--list", "graft/*").split()[-1]
    toy.git("switch", "-q", branch)
    (toy.folder / "note.txt").write_text("mine")
    toy.commit("Mine")
    mine = toy.git("rev-parse", "HEAD")
    # Checked out or not, the same request ends well, beside it.
    state, _, _ = run(overrides={"export.value": 3}, ref="main")
    assert state.is_completed(), state.message
    toy.git("switch", "-q", "main")
    assert run(overrides={"export.value": 3})[0].is_completed()
    assert toy.git("rev-parse", branch) == mine
    assert {name.strip() for name in toy.git("branch", "--list", "graft/*").splitlines()} == {branch, f"{branch}-2"}


def test_a_commit_is_run_with_its_own_images(made: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy = made.copy(tmp_path / "toy")
    monkeypatch.chdir(toy.folder)
    images = toy.folder / "photos"
    images.mkdir()
    (images / "a.jpg").write_text("old")
    toy.set(download={"source": "photos"})
    toy.commit("Old images, in git")
    (images / "a.jpg").write_text("new")
    toy.commit("New images")
    run(ref="HEAD~1")
    (tree,) = (toy.folder / ".graft" / "trees").iterdir()
    assert not (tree / "photos").is_symlink()
    assert (tree / "photos" / "a.jpg").read_text() == "old"
    # What git does not have is read where it is.
    toy.git("rm", "-rq", "--cached", "photos")
    (toy.folder / ".gitignore").write_text((toy.folder / ".gitignore").read_text() + "/photos/\n")
    toy.commit("Images out of git")
    run(overrides={"export.value": 1})
    links = [tree / "photos" for tree in (toy.folder / ".graft" / "trees").iterdir() if (tree / "photos").is_symlink()]
    assert [(link / "a.jpg").read_text() for link in links] == ["new"]


def test_a_branch_is_run_as_the_remote_has_it(toy: Toy, tmp_path: Path) -> None:
    toy.git("init", "-q", "--bare", "-b", "main", str(tmp_path / "origin.git"))
    toy.git("remote", "add", "origin", str(tmp_path / "origin.git"))
    toy.git("push", "-q", "origin", "main")
    toy.git("clone", "-q", str(tmp_path / "origin.git"), str(tmp_path / "other"))
    other = Toy.__new__(Toy)
    other.folder, other.journal = tmp_path / "other", toy.journal
    other.set(export={"value": 8})
    other.commit("Newer")
    other.git("push", "-q", "origin", "main:main", "main:feature")
    newer = other.git("rev-parse", "HEAD").strip()
    from flows import git

    assert git.commit_of(toy.folder, "main") == newer
    assert git.commit_of(toy.folder, "feature") == newer
    toy.set(export={"value": 9})
    toy.commit("Here only")
    state, _, _ = run(ref="main")
    assert (state.name, exit_code(state)) == ("Refused", 2)
    assert "have diverged" in str(state.message)


def test_a_repository_that_dvc_holds_refuses_when_asked_not_to_wait(toy: Toy) -> None:
    holds = (
        "import sys, time\nfrom dvc.repo import Repo, lock_repo\n"
        "with Repo('.') as repo, lock_repo(repo):\n    print('held', flush=True)\n    time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", holds], cwd=toy.folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        state, _, _ = run(wait=0)
        holder.kill()
    assert (state.name, exit_code(state)) == ("Busy", 6)


def test_a_stage_ended_by_the_kernel_is_no_defect(toy: Toy) -> None:
    toy.set(split={"value": 1, "exit": -9})
    state, names, messages = run()
    assert (names["split"], exit_code(state)) == ("Failed", 137)
    assert "ended by signal 9: out of memory?" in messages["split"]


def test_a_cut_record_of_users_is_mended(toy: Toy) -> None:
    (toy.folder / ".dvc" / "tmp" / "rwlock").write_text('{"read": {"')
    assert toy.run("-m", "dvc", "repro", check=False).returncode != 0
    assert run()[0].name == "Unchanged"
    assert toy.repro() == []


def command(toy: Toy, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    """`python -m flows.pipeline` as its own process, on the harness's server."""
    from prefect.settings import PREFECT_API_URL

    settings = {**toy.environment(), "PYTHONPATH": str(ROOT), "PREFECT_API_URL": str(PREFECT_API_URL.value())}
    return subprocess.Popen(
        [sys.executable, "-m", "flows.pipeline", *arguments],
        cwd=toy.folder, env={**settings, **environment}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def test_the_command_ends_with_the_stages_exit_code(toy: Toy) -> None:
    with command(toy, "-S", "validate.exit=3") as process:
        said, _ = process.communicate(timeout=120)
    assert process.returncode == 3, said
    assert "validate failed (exit 3)" in said
    with command(toy, "--wait", "0", "no_such_stage") as process:
        said, _ = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "feature_extract" in said
    with command(toy, PREFECT_API_URL="http://127.0.0.1:9/api") as process:
        said, _ = process.communicate(timeout=120)
    assert process.returncode == 5
    assert "does not answer" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_killed_run_leaves_no_stage_behind_and_the_next_run_finishes(toy: Toy, how: signal.Signals) -> None:
    toy.set(fine_tune={"value": 1, "sleep": 60, "epochs": 60})
    with command(toy) as process:
        deadline = time.monotonic() + 60
        while "fine_tune" not in toy.ran("epoch") and time.monotonic() < deadline:
            time.sleep(0.05)
        stage = next(entry["pid"] for entry in toy.entries() if entry["stage"] == "fine_tune")
        assert psutil.pid_exists(stage)
        process.send_signal(how)
        end = time.monotonic() + 15
        while psutil.pid_exists(stage) and time.monotonic() < end:
            time.sleep(0.05)
        assert not psutil.pid_exists(stage)
        process.communicate(timeout=60)
        assert process.returncode != 0
    toy.set(fine_tune={"sleep": 0})
    state, names, _ = run(wait=0)
    assert state.is_completed(), state.message
    assert names["fine_tune"] == "Completed"


def test_the_flow_process_never_loads_a_heavy_library(toy: Toy) -> None:
    program = (
        "import sys; from flows.pipeline import pipeline; state = pipeline(return_state=True); "
        "print('STATE', state.name); print('HEAVY', sorted({'tensorflow', 'keras', 'great_expectations', 'pandas', "
        "'sklearn', 'pyarrow', 'stages'} & set(sys.modules)))"
    )
    done = toy.run("-c", program, PYTHONPATH=str(ROOT), PREFECT_API_URL=os.environ.get("PREFECT_API_URL", ""))
    assert "STATE Unchanged" in done.stdout
    assert "HEAVY []" in done.stdout


def test_new_images_are_taken_in_where_dvc_watches_a_listing(toy: Toy) -> None:
    yaml = YAML()
    project, params = yaml.load(toy.folder / "dvc.yaml"), yaml.load(toy.folder / "params.yaml")
    # The toy's stages know nothing of images; adding them records the stage as it stands, whatever it runs.
    packing = "mkdir -p data && cp -r pictures data/download"
    project["stages"]["download"] |= {"cmd": packing, "deps": ["data.listing.json"]}
    params["download"] = {"source": "pictures", "watch": "data.listing.json"}
    yaml.dump(project, toy.folder / "dvc.yaml")
    yaml.dump(params, toy.folder / "params.yaml")
    for name in ("cats/1.jpg", "cats/2.jpg", "dogs/1.jpg"):
        (toy.folder / "pictures" / name).parent.mkdir(parents=True, exist_ok=True)
        (toy.folder / "pictures" / name).write_text(name)

    def ended() -> tuple[str | None, str, str]:
        state, names, messages = run(targets=["download"])
        return state.name, names["download"], messages["download"]

    assert ended()[:2] == ("Completed", "Completed")
    assert ended() == ("Unchanged", "Unchanged", "nothing it depends on changed")
    (toy.folder / "pictures/dogs/2.jpg").write_text("a new dog")
    how, download, said = ended()
    assert (how, download) == ("Completed", "Completed")
    assert said.startswith("add: 4 images of 2 classes")
    assert ended()[0] == "Unchanged"
    (toy.folder / "pictures/dogs/3.jpg").write_text("another dog")
    assert run(targets=["download"], force=True)[2]["download"] == "forced", "packed once more by the stage itself"
    shutil.rmtree(toy.folder / "pictures/dogs")
    state, names, _ = run()
    assert (state.name, names) == ("Refused", {})
    assert "not run (exit 3)" in (state.message or "")
    assert "at least two classes" in (state.message or "")
