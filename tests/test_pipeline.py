"""The pipeline for real, in a temporary git + DVC repository: what it writes, and what re-runs when."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from ruamel.yaml import YAML

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent
STAGES = ["download", "validate", "split", "feature_extract", "fine_tune", "evaluate", "export"]
TRACKED = ["stages", "pretraining", "recipes", ".dvc/config", ".dvcignore", ".gitignore", "dvc.yaml"]
TRACKED += ["data/images/.gitkeep", "data/review/decisions.csv"]


class Checkout:
    """A working copy of the project, with helpers that run DVC in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in TRACKED:
            source, target = ROOT / name, folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, target)
        who = ["-c", "user.name=Test", "-c", "user.email=test@example.com"]
        for command in (["init", "-q"], ["add", "-A"], [*who, "commit", "-q", "-m", "Start"]):
            subprocess.run(["git", *command], cwd=folder, check=True)

    def dvc(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run DVC as people do; PATH has this environment's python first."""
        import os

        environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        return subprocess.run(
            [sys.executable, "-m", "dvc", *arguments],
            cwd=self.folder, env=environment, capture_output=True, text=True, timeout=900,
        )  # fmt: skip

    def repro(self, *arguments: str) -> list[str]:
        """`dvc repro`; returns the stages that ran, in order."""
        done = self.dvc("repro", *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return re.findall(r"Running stage '(\w+)'", done.stdout)

    def stale(self) -> set[str]:
        """The stages that `dvc status` calls changed; it does not spread downstream."""
        return set(json.loads(self.dvc("status", "--json").stdout))

    def files(self) -> set[str]:
        """Every file under data/ and reports/, shards of tensors and docs folded."""
        return {
            path.relative_to(self.folder).as_posix()
            for top in ("data", "reports")
            for path in (self.folder / top).rglob("*")
            if path.is_file() and path.name not in (".gitkeep", ".gitignore")
        }

    def json(self, path: str) -> Any:
        return json.loads((self.folder / path).read_text())

    def edit(self, path: str, change: Callable[[str], str]) -> None:
        target = self.folder / path
        text = target.read_text()
        assert change(text) != text
        target.write_text(change(text))

    def set_params(self, **blocks: dict[str, Any]) -> None:
        yaml = YAML()
        values = yaml.load(self.folder / "params.yaml")
        for block, changes in blocks.items():
            values[block].update(changes)
        yaml.dump(values, self.folder / "params.yaml")


def draw_pictures(folder: Path, per_class: int) -> None:
    """Class folders of 64 x 48 pictures that are easy to tell apart: three kinds of stripes."""
    random = np.random.default_rng(0)
    across, down = np.meshgrid(np.arange(64), np.arange(48))
    for label, lines in {"across": down, "along": across, "slanted": across + down}.items():
        (folder / label).mkdir(parents=True)
        for number in range(per_class):
            period, colour = random.integers(5, 12), random.integers(80, 220, 3)
            stripes = ((lines // period % 2)[..., None] * colour + random.integers(0, 30, (48, 64, 3))).astype(np.uint8)
            Image.fromarray(stripes).save(folder / label / f"{number:03}.png")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A small folder of one's own pictures, taken through the whole pipeline once."""
    checkout = Checkout(tmp_path_factory.mktemp("project"))
    draw_pictures(checkout.folder / "data" / "images", 30)
    (checkout.folder / "data" / "images" / "along" / "broken.png").write_bytes(b"<html>not found</html>")
    shutil.copy(checkout.folder / "recipes" / "digits.yaml", checkout.folder / "params.yaml")
    checkout.set_params(
        download={"source": "data/images", "watch": "data/images"},
        validate={"max_bad_fraction": 0.05},
        split={"val_fraction": 0.2, "test_fraction": 0.2},
        feature_extract={"views": 2, "rows_per_shard": 50},
        fine_tune={
            "head": {"epochs": 4, "learning_rate": 0.01, "batch_size": 16},
            "tail": {"epochs": 2, "learning_rate": 0.001, "batch_size": 16},
        },
        evaluate={"resamples": 50},
    )
    assert checkout.repro() == STAGES
    return checkout


def test_the_set_of_files_written(project: Checkout) -> None:
    written = {re.sub(r"images/[^/]+\.(parquet|png)$", r"images/*.\1", path) for path in project.files()}
    written = {
        path for path in written if not path.startswith(("data/images/", "data/review/", "reports/validate/data_docs/"))
    }
    assert written == {
        "data/download/dataset.json",
        "data/download/source.json",
        "data/download/images/*.parquet",
        "data/validate/classes.json",
        "data/validate/facts.parquet",
        "data/validate/profile.json",
        "data/validate/quarantine.parquet",
        "reports/validate/expectations.json",
        "reports/validate/index.html",
        "reports/validate/results.json",
        "reports/validate/results.md",
        "reports/validate/failing.csv",
        "reports/validate/tables/classes.parquet",
        "reports/validate/tables/images.parquet",
        "data/split/split.json",
        "data/split/split.parquet",
        "data/feature_extract/activations-train-00000.npy",
        "data/feature_extract/activations-train-00001.npy",
        "data/feature_extract/activations-train-00002.npy",
        "data/feature_extract/activations-val-00000.npy",
        "data/feature_extract/base.weights.h5",
        "data/feature_extract/index.parquet",
        "data/feature_extract/pixels-train-00000.npy",
        "data/feature_extract/pixels-train-00001.npy",
        "data/feature_extract/pixels-val-00000.npy",
        "data/feature_extract/pooled-test-00000.npy",
        "data/feature_extract/pooled-train-00000.npy",
        "data/feature_extract/pooled-train-00001.npy",
        "data/feature_extract/pooled-train-00002.npy",
        "data/feature_extract/pooled-val-00000.npy",
        "data/feature_extract/trunk.json",
        "data/fine_tune/from_scratch.keras",
        "data/fine_tune/frozen_head.keras",
        "data/fine_tune/model.keras",
        "data/fine_tune/training.json",
        "reports/fine_tune/metrics.json",
        *(
            f"reports/fine_tune/{run}plots/metrics/{curve}.tsv"
            for run in ("", "from_scratch/")
            for curve in ("learning_rate", "train/accuracy", "train/loss", "val/accuracy", "val/loss")
        ),
        "reports/fine_tune/from_scratch/metrics.json",
        "reports/evaluate/augmentations.png",
        "reports/evaluate/confusion.csv",
        "reports/evaluate/details.json",
        "reports/evaluate/index.html",
        "reports/evaluate/metrics.json",
        "reports/evaluate/mistakes.png",
        "reports/evaluate/predictions.parquet",
        "reports/evaluate/reliability.csv",
        "reports/evaluate/roc.csv",
        "reports/evaluate/slices.csv",
        "reports/evaluate/thresholds.csv",
        "data/export/MODEL_CARD.md",
        "data/export/certificate.json",
        "data/export/labels.txt",
        "data/export/model.keras",
        "data/export/model.tflite",
        "data/export/model_int8.tflite",
        "data/export/openvino/model.bin",
        "data/export/openvino/model.xml",
        "data/export/saved_model/saved_model.pb",
        "data/export/saved_model/variables/variables.data-00000-of-00001",
        "data/export/saved_model/variables/variables.index",
    }
    assert (project.folder / "reports/validate/data_docs/index.html").is_file()


def test_it_learnt_and_says_so_everywhere(project: Checkout) -> None:
    metrics = project.json("reports/evaluate/metrics.json")
    assert metrics["test"]["accuracy"] >= 0.8
    assert metrics["val"]["accuracy"] >= 0.8
    assert set(metrics["baselines"]) == {"majority_class", "frozen_features", "from_scratch"}
    assert metrics["baselines"]["majority_class"]["test"]["accuracy"] <= 0.6
    card = (project.folder / "data/export/MODEL_CARD.md").read_text()
    assert f"accuracy is {metrics['test']['accuracy']:.4f}" in card
    assert set(metrics["gain_over"]) == {"frozen_features", "from_scratch"}
    page = (project.folder / "reports/evaluate/index.html").read_text()
    assert f"{metrics['test']['accuracy']:.4f}" in page
    assert 'id="explained"' in page
    assert 'class="gallery abreast-2"' in page
    details = project.json("reports/evaluate/details.json")
    tested = details["test"]["images"]
    assert sum(row["images"] for row in details["calibration"]["before"]["bins"]) == tested
    assert details["thresholds"][0]["answered"] == tested
    kinds = {row["kind"] for row in details["slices"]}
    assert "class" in kinds
    assert {row["slice"] for row in details["slices"] if row["kind"] == "class"} == {"across", "along", "slanted"}
    for name in ("frozen_features", "from_scratch"):
        gain = details["test"]["accuracy"] - details["baselines"][name]["test"]["accuracy"]
        assert details["compared"][name]["gain"] == pytest.approx(gain)
    assert (project.folder / "data/export/labels.txt").read_text() == "across\nalong\nslanted\n"


def test_the_broken_picture_was_quarantined_counted_and_named(project: Checkout) -> None:
    results = project.json("reports/validate/results.json")
    assert results["quarantined"] == {"not_an_image": 1}
    assert (results["images"], results["accepted"]) == (91, 90)
    assert "along/broken.png" in (project.folder / "reports/validate/index.html").read_text()
    assert sum(project.json("data/split/split.json")["images"].values()) == 90


def test_dvc_reads_metrics_and_plots(project: Checkout, tmp_path: Path) -> None:
    shown = json.loads(project.dvc("metrics", "show", "--json").stdout)
    data = shown[""]["data"]["reports/evaluate/metrics.json"]["data"]
    assert data["test"]["accuracy"] == project.json("reports/evaluate/metrics.json")["test"]["accuracy"]
    plots = project.dvc("plots", "show", "--out", str(tmp_path))
    assert plots.returncode == 0, plots.stderr
    page = (tmp_path / "index.html").read_text()
    titles = ("accuracy per epoch", "loss per epoch", "confusion on the test images", "reliability on the test images")
    for title in (*titles, "mistakes.png"):
        assert title in page


def predicted(project: Checkout, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "commands", "predict", *arguments, "--model", str(project.folder / "data" / "export")],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


@pytest.mark.parametrize("format_", ["saved_model", "keras", "litert", "litert_int8", "openvino"])
def test_every_exported_format_classifies_files_by_the_command(project: Checkout, tmp_path: Path, format_: str) -> None:
    draw_pictures(tmp_path / "new", 3)
    (tmp_path / "new" / "torn.png").write_bytes((tmp_path / "new" / "along" / "000.png").read_bytes()[:60])
    done = predicted(project, str(tmp_path / "new"), "--json", "--format", format_)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == 10
    right = [row["label"] == Path(row["file"]).parent.name for row in rows if "label" in row]
    assert sum(right) >= 7
    (torn,) = [row for row in rows if "error" in row]
    assert torn["file"].endswith("torn.png")
    assert torn["error"].startswith("truncated")


def test_predictions_of_a_pattern_as_csv(project: Checkout, tmp_path: Path) -> None:
    draw_pictures(tmp_path / "new", 2)
    done = predicted(project, f"{tmp_path}/new/*/000.png", "--csv", "--format", "openvino")
    header, *lines = done.stdout.splitlines()
    assert header == "file,label,probability,error"
    assert [line.split(",")[0] for line in lines] == [
        str(tmp_path / "new" / label / "000.png") for label in ("across", "along", "slanted")
    ]
    assert predicted(project, f"{tmp_path}/new/*.jpg").returncode == 2


def test_the_certificate_says_how_each_format_agrees(project: Checkout) -> None:
    found = project.json("data/export/certificate.json")
    assert set(found) == {"saved_model", "keras", "litert", "litert_int8", "openvino"}
    tested = project.json("reports/evaluate/details.json")["test"]["images"]
    for name, one in found.items():
        assert (one["published"], one["images"]) == (True, tested), name
        assert one["tolerance"] == (0.2 if name == "litert_int8" else 0.02), name
        assert one["largest_gap"] <= one["tolerance"], name
        assert one["bytes"] > 0
    card = (project.folder / "data/export/MODEL_CARD.md").read_text()
    assert f"| litert_int8 | {found['litert_int8']['agreement']:.2%}, at least 98.0% asked for |" in card


def test_what_an_edit_makes_stale(project: Checkout) -> None:
    """Asked of `dvc status`, which runs nothing; each edit is undone."""
    assert project.stale() == set()
    importers = {
        "stages/split.py": {"split"},
        "stages/core/sampling.py": {"split"},
        "stages/core/augmentation.py": {"feature_extract", "fine_tune", "evaluate"},
        "stages/core/page.py": {"validate", "evaluate"},
        "stages/core/serving.py": {"export"},
        "stages/store/archives.py": {"download"},
        "stages/core/errors.py": set(STAGES),
    }
    for path, expected in importers.items():
        project.edit(path, lambda text: text + "\n# edited\n")
        assert project.stale() == expected, path
        project.edit(path, lambda text: text.removesuffix("\n# edited\n"))
    project.edit("params.yaml", lambda text: "# a comment\n" + text)
    assert project.stale() == set()
    for stage in STAGES:
        changes: dict[str, dict[str, Any]] = {
            "download": {"images_per_shard": 20}, "validate": {"max_bad_fraction": 0.06}, "split": {"seed": 9},
            "feature_extract": {"seed": 9}, "fine_tune": {"dropout": 0.1}, "evaluate": {"resamples": 60},
            "export": {"smoke_images": 3},
        }  # fmt: skip
        before = (project.folder / "params.yaml").read_text()
        project.set_params(**{stage: changes[stage]})
        assert project.stale() == {stage}
        (project.folder / "params.yaml").write_text(before)


def test_nothing_changed_runs_nothing_and_force_changes_no_byte(project: Checkout) -> None:
    assert project.repro() == []
    lock = (project.folder / "dvc.lock").read_bytes()
    files = {path: (project.folder / path).read_bytes() for path in project.files()}
    assert project.repro("--force") == STAGES
    changed = [path for path in files if (project.folder / path).read_bytes() != files[path]]
    assert changed == []
    assert (project.folder / "dvc.lock").read_bytes() == lock


def test_the_thread_count_changes_no_trained_byte(project: Checkout) -> None:
    """So a model is the same on machines with other numbers of cores (the same processor given)."""
    model = project.folder / "data/fine_tune/model.keras"
    before, params = model.read_bytes(), (project.folder / "params.yaml").read_text()
    project.set_params(fine_tune={"threads": 4, "from_scratch": False})
    subprocess.run([sys.executable, "-m", "stages.fine_tune"], cwd=project.folder, check=True, timeout=600)
    assert model.read_bytes() == before
    (project.folder / "params.yaml").write_text(params)
    assert project.dvc("checkout", "--force").returncode == 0


def test_bad_parameters_stop_the_first_stage_with_exit_2_and_lose_nothing(project: Checkout) -> None:
    before = (project.folder / "params.yaml").read_text()
    kept = project.files()
    project.set_params(fine_tune={"dropout": "much"}, split={"seed": 7})
    done = project.dvc("repro")
    (project.folder / "params.yaml").write_text(before)
    assert done.returncode != 0
    assert "fine_tune.dropout: received 'much' (str)" in " ".join((done.stdout + done.stderr).split())
    assert "exited with 2" in done.stdout + done.stderr
    assert "Running stage 'feature_extract'" not in done.stdout
    assert project.repro() == []
    assert project.files() == kept


def test_a_fine_tune_parameter_reruns_only_three_stages(project: Checkout) -> None:
    kind = {"units": [16], "l2": 0.0001, "label_smoothing": 0.1, "focal_gamma": 1.0, "class_weights": "balanced"}
    maker = {"optimizer": "AdamW", "optimizer_arguments": {"weight_decay": 0.004}}
    project.set_params(
        fine_tune={"from_scratch": False, **kind, **maker},
        evaluate={"baselines": ["frozen_features"]},
        export={"temperature": "validation"},
    )
    assert project.repro() == ["fine_tune", "evaluate", "export"]
    assert not (project.folder / "data/fine_tune/from_scratch.keras").exists()
    # evaluate and export build and load the head that these parameters ask for.
    card_of = project.folder / "data/export/MODEL_CARD.md"
    assert project.json("reports/evaluate/metrics.json")["val"]["accuracy"] > 0.4
    assert "| units | &#91;16&#93; |" in card_of.read_text()
    assert set(project.json("reports/evaluate/metrics.json")["baselines"]) == {"frozen_features"}
    assert "| majority class |" not in card_of.read_text()
    fitted = project.json("reports/evaluate/details.json")["calibration"]["temperature"]
    certified = project.json("data/export/certificate.json")
    assert {one["temperature"] for one in certified.values()} == {fitted}
    assert all(one["largest_gap"] <= 0.02 for name, one in certified.items() if name != "litert_int8")
    assert f"Their logits are divided by {fitted:g}, " in card_of.read_text()


def test_more_pictures_are_noticed_and_too_many_broken_ones_stop_it_with_the_report(project: Checkout) -> None:
    images = project.folder / "data" / "images" / "across"
    for number in range(9):
        (images / f"torn{number}.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    assert project.stale() == {"download"}
    done = project.dvc("repro")
    assert done.returncode != 0
    assert "exited with 3" in done.stdout + done.stderr
    assert "Running stage 'split'" not in done.stdout
    results = project.json("reports/validate/results.json")
    assert results["verdict"] == "rejected"
    assert sum(results["quarantined"].values()) == 10
    assert "torn8.png" in (project.folder / "reports/validate/index.html").read_text()


def test_the_default_job_reaches_its_figures(tmp_path: Path) -> None:
    """Digits on the base pretrained on letters: frozen >= 0.95, fine-tuned >= 0.98, from scratch worse."""
    checkout = Checkout(tmp_path)
    shutil.copy(checkout.folder / "recipes" / "digits.yaml", checkout.folder / "params.yaml")
    assert checkout.repro() == STAGES
    metrics = checkout.json("reports/evaluate/metrics.json")
    fine_tuned = metrics["test"]["accuracy"]
    assert fine_tuned >= 0.98
    assert metrics["baselines"]["frozen_features"]["test"]["accuracy"] >= 0.95
    assert metrics["baselines"]["from_scratch"]["test"]["accuracy"] < fine_tuned
