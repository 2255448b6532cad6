"""graft accept, drift and changes on small real data."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from commands import accept, changes, drift
from stages import validate
from stages.core.errors import ConfigError, DataRejected, EnvironmentFault
from stages.core.schemas import FACTS, SPLIT
from stages.store import documents, params, tables
from stages.store.features import FeatureWriter
from tests.stages.test_validate import Row, encode, pack, picture


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(params, "STAGES", ("validate",))
    return tmp_path


def rows(count: int) -> list[Row]:
    labels = ("cats", "dogs")
    return [(f"{labels[at % 2]}/{at:03}.png", labels[at % 2], None, encode(picture())) for at in range(count)]


def repack(found: list[Row]) -> None:
    for shard in validate.SHARDS.glob("*.parquet"):
        shard.unlink()
    validate.SHARDS.rmdir()
    pack(found)


def extract(shift: float, weights: str = "a" * 64) -> None:
    """What feature_extract would have stored: random features, moved by `shift` for images whose name ends in _n."""
    folder = Path("data/feature_extract")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    facts = tables.read(validate.OUT / "facts.parquet", FACTS).to_pylist()
    settings = {"backbone": "MobileNetV2", "image_size": 96, "rows_per_shard": 64}
    trunk = {"classes": ["cats", "dogs"], "images": {"train": len(facts), "val": 0, "test": 0}, "settings": settings,
             "weights_digest": weights}  # fmt: skip
    documents.write(folder / "trunk.json", trunk)
    kept = [{key: row[key] for key in ("name", "label", "image_id", "group")} | {"split": "train"} for row in facts]
    with FeatureWriter(folder, tables.from_rows(kept, SPLIT), 1, None, 40, None, 64) as writer:
        for image, row in enumerate(kept):
            seed = int(row["image_id"][:12], 16)
            features = np.random.default_rng(seed).normal(size=(1, 40)) + shift * row["name"].endswith("_n.png")
            writer.put(np.array([image]), np.array([0]), features, None)
        writer.close()


def test_features_drift_though_the_pictures_do_not(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = rows(60)
    pack(first)
    validate.main()
    extract(0.0)
    accept.accept(dry_run=False)
    accepted = documents.read(validate.REVIEW / "accepted.json")
    assert len(accepted["features"]["of"]) == 60
    later = [(name.replace(".png", "_n.png"), *rest) for name, *rest in rows(40)]
    repack([*first, *later])  # type: ignore[list-item]
    validate.main()
    extract(0.0)
    capsys.readouterr()
    drift.drift(as_json=True)
    found = {one["quantity"]: one for one in json.loads(capsys.readouterr().out)}
    assert not found["features"]["drifted"]
    assert found["features"]["test"] != "none"
    extract(3.0)
    with pytest.raises(DataRejected, match="features"):
        drift.drift(as_json=True)
    found = {one["quantity"]: one for one in json.loads(capsys.readouterr().out)}
    assert [name for name, one in found.items() if one["drifted"]] == ["features"]


def test_features_of_another_network_are_not_compared(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pack(rows(12))
    validate.main()
    extract(0.0)
    accept.accept(dry_run=False)
    extract(0.0, weights="b" * 64)
    drift.drift(as_json=False)
    assert "features were not compared: accepted with" in " ".join(capsys.readouterr().out.split())


def test_drift_without_acceptance_says_what_to_do(root: Path) -> None:
    pack(rows(12))
    with pytest.raises(ConfigError, match="graft accept"):
        drift.drift(as_json=False)


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def test_changes_shows_the_counts_that_differ_from_a_commit(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record: dict[str, Any] = {
        "images": 10, "accepted": 10, "quarantined": {}, "classes": {"cats": {"images": 10, "accepted": 10}},
        "rules": [{"id": "dark", "failing": 0}],
    }  # fmt: skip
    changes.RESULTS.parent.mkdir(parents=True)
    documents.write(changes.RESULTS, record)
    run("git", "init", "-q")
    run(sys.executable, "-m", "dvc", "init", "-q")
    run(sys.executable, "-m", "dvc", "add", "-q", "reports/validate")
    run("git", "add", "-A")
    run("git", "-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "-qm", "x")
    changes.changes("HEAD")
    assert "no count differs from HEAD" in capsys.readouterr().out
    record |= {"images": 12, "quarantined": {"truncated": 2}, "rules": [{"id": "dark", "failing": 3}]}
    documents.write(changes.RESULTS, record)
    changes.changes("HEAD")
    shown = [line.replace("│", " ").split() for line in capsys.readouterr().out.splitlines()]
    assert ["all", "images", "10", "12", "+2"] in shown
    assert ["quarantined", "truncated", "0", "2", "+2"] in shown
    assert ["rules", "dark", "0", "3", "+3"] in shown
    with pytest.raises(ConfigError, match="no commit"):
        changes.changes("nonsense")
    for part in Path(".dvc/cache").rglob("*"):
        if part.is_file():
            part.chmod(0o644)
            part.unlink()
    with pytest.raises(EnvironmentFault, match="dvc fetch"):
        changes.changes("HEAD")
