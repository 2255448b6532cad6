"""The real stages both ways: `dvc repro` alone, and the flow with fine_tune on a worker's own clone. Same bytes."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from stages.store.hashes import sha256_of_tree
from tests.flows.local_prefect import LocalPrefect
from tests.flows.test_gpu import ROOT, deploy_worker, worker_runs
from tests.test_pipeline import STAGES, Checkout, draw_pictures

pytestmark = pytest.mark.slow


def small(folder: Path) -> Checkout:
    """The project with 60 drawn pictures and a training of seconds."""
    checkout = Checkout(folder)
    draw_pictures(folder / "data" / "images", 20)
    (folder / "params.yaml").write_bytes((ROOT / "recipes" / "digits.yaml").read_bytes())
    checkout.set_params(
        download={"source": "data/images", "watch": "data/images"},
        split={"val_fraction": 0.2, "test_fraction": 0.2},
        feature_extract={"views": 1, "pixels": False},
        fine_tune={
            "from_scratch": False,
            "head": {"epochs": 2, "learning_rate": 0.01, "batch_size": 16},
            "tail": {"epochs": 1, "learning_rate": 0.001, "batch_size": 16},
        },
        evaluate={"resamples": 20},
        export={"formats": ["keras", "litert"]},
    )
    return checkout


def git(folder: Path, *arguments: str) -> None:
    who = ["-c", "user.name=Test", "-c", "user.email=test@example.com"]
    subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True)


def test_the_flow_and_a_gpu_worker_make_what_dvc_repro_makes(tmp_path: Path, prefect_server: LocalPrefect) -> None:
    alone, here, there = small(tmp_path / "alone"), small(tmp_path / "here"), tmp_path / "there"
    assert alone.repro() == STAGES
    assert here.dvc("remote", "add", "-d", "store", str(tmp_path / "store")).returncode == 0
    git(here.folder, "add", "-A")
    git(here.folder, "commit", "-q", "-m", "Add the remote")
    git(tmp_path, "clone", "-q", str(here.folder), str(there))
    deploy_worker(prefect_server, there)
    worker = prefect_server.worker("gpu", "gpu-real", cwd=there)
    command = ["python", "-m", "flows.pipeline", "--gpu-pool", "gpu", "--gpu-remote", "store"]
    done = subprocess.run(
        command, cwd=here.folder, env={**prefect_server.environment, "PYTHONPATH": str(ROOT)}, capture_output=True,
        text=True, timeout=900,
    )  # fmt: skip
    prefect_server.kill_machine(worker)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (here.folder / "dvc.lock").read_text() == (alone.folder / "dvc.lock").read_text()
    for folder in ("data/export", "data/fine_tune", "reports"):
        assert sha256_of_tree(here.folder / folder) == sha256_of_tree(alone.folder / folder)
    # It was trained there: that clone has the checkpoint's folder and no other stage's output.
    assert (there / ".graft" / "checkpoints").is_dir()
    assert not (here.folder / ".graft" / "checkpoints").exists()
    folders = {path.name for path in (there / "data").iterdir() if path.is_dir()}
    assert folders <= {"images", "review", "feature_extract", "fine_tune"}
    run = worker_runs(prefect_server)[0]
    line = prefect_server.wait_for_log(run.id, "tail 1 epochs", 30)
    assert line.endswith("on CPU")
    assert re.search(r"fine_tune: \d+ % head epoch 2 of 2", "\n".join(prefect_server.logs(run.id)))
    assert "Trained on: CPU." in (here.folder / "data/export/MODEL_CARD.md").read_text()
