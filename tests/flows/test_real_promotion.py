"""The flow promotes: a real server, git, DVC and `graft promote`; models that are made in a second."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.sorting import ArtifactSort

from tests.flows.local_prefect import LocalPrefect
from tests.promotable import ROOT, Project

pytestmark = pytest.mark.slow
FIRST = ["classifier#champion#1", "classifier@v1.0.0"]


def flow(server: LocalPrefect, project: Project, *arguments: str) -> tuple[str, str]:
    """Run the flow to its good end; its log and the artifact `promotion` that it made."""
    wanted = ArtifactFilter(key=ArtifactFilterKey(any_=["promotion"]))
    with server.client() as client:
        before = client.read_artifacts(artifact_filter=wanted)
        done = subprocess.run(
            [sys.executable, "-m", "flows.pipeline", "--promote", "promote", *arguments], cwd=project.folder,
            env={**server.environment, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, timeout=240,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
        made = client.read_artifacts(artifact_filter=wanted, sort=ArtifactSort.CREATED_DESC)
    assert len(made) == len(before) + 1, done.stdout
    return done.stdout, str(made[0].data)


def test_the_flow_promotes_what_is_better_and_committed_and_nothing_else(
    tmp_path: Path, prefect_server: LocalPrefect
) -> None:
    project = Project.make(tmp_path)
    project.train("First model")
    head = project.git("rev-parse", "HEAD")
    said, shown = flow(prefect_server, project)
    assert "no stage had to run" in said
    assert "promotion: promoted: " in said
    assert "# promoted" in shown
    assert "| first-model | passed |" in shown
    assert project.tags() == FIRST
    record = project.body("classifier#champion#1")
    assert (record["verdict"], record["tags"], record["challenger"]["commit"]) == ("promoted", FIRST[::-1], head)
    assert project.git("rev-parse", "classifier#champion#1^{commit}") == head

    # Nothing changed.
    said, shown = flow(prefect_server, project)
    assert "no stage had to run" in said
    assert "# champion already against classifier\\@v1.0.0" in shown
    assert project.tags() == FIRST

    # A worse one.
    project.set(fine_tune={"skill": 0.7})
    said, shown = flow(prefect_server, project)
    assert "3 Completed" in said
    assert "# not promoted against classifier\\@v1.0.0" in shown
    assert "| better | failed |" in shown
    assert project.tags() == FIRST

    # A better one, of other parameters: trained, committed on a branch of its own and promoted in one run, which
    # touches neither the checkout's files nor its branch.
    def checkout() -> list[object]:
        return [project.exported(), *((project.folder / name).read_text() for name in ("params.yaml", "dvc.lock"))]

    before = checkout()
    _, shown = flow(prefect_server, project, "--ref", "main", "-S", "fine_tune.skill=0.95")
    assert "# promoted against classifier\\@v1.0.0" in shown
    assert project.tags() == [FIRST[0], "classifier#champion#2", FIRST[1], "classifier@v1.1.0"]
    assert checkout() == before
    assert project.git("rev-parse", "HEAD") == head
    (branch,) = project.git("for-each-ref", "--format=%(refname)", "refs/heads/graft/").split()
    record = project.body("classifier#champion#2")
    assert record["challenger"]["commit"] == project.git("rev-parse", branch)
    assert record["challenger"]["commit"] == project.git("rev-parse", "classifier@v1.1.0^{commit}")
    assert record["champion"]["commit"] == head
    kept = project.folder / ".graft/promotions" / f"{record['challenger']['export_md5'].removesuffix('.dir')}.json"
    assert json.loads(kept.read_text()) == record
    assert list((project.folder / ".graft/trees").glob("*/data")) == []
    # How it gets to others.
    project.git("switch", "-q", "-f", branch.removeprefix("refs/heads/"))
    project.python("-m", "dvc", "checkout", "-q")
    assert "this model is classifier@v1.1.0" in project.promote("--push")
    assert project.fetch(tmp_path / "got", "--stage", "champion") == project.exported()
    assert '"skill": 0.95' in (tmp_path / "got/model.bin").read_text()
