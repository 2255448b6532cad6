"""Champion and challenger as git and dvc.lock record them: which bytes, whether the same, committed, how many tried."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from flows import git
from flows.dvc_door import Door
from flows.faults import NotIntact
from flows.md5 import md5_of
from flows.recorded import LOCK, Project, Unknown, Version
from flows.registry import Champion

MODEL = "data/fine_tune/model.keras"
PREDICTED = "reports/evaluate/predictions.parquet"
SPLIT_TABLE = "data/split/split.parquet"
CLASSES = "data/validate/classes.json"
FACTS_TABLE = "data/validate/facts.parquet"
EXPORT = "data/export"
DECIDING = ("validate", "split", "fine_tune", "evaluate", "export")  # stages whose outputs are read, tagged or pushed
COMMITTED = (LOCK, "dvc.yaml", "params.yaml")


def check(root: Path, stages: list[str]) -> None:
    """Raise NotIntact where what would be compared or tagged is not, byte by byte, what dvc.lock records."""
    with Door(root) as door:
        checked = door.inspect([stage for stage in stages if stage in DECIDING], mend=False)
    if checked.left:
        raise NotIntact("\n".join([*checked.lines[:10], "run `graft verify --repair` and `dvc repro`"]))


def files(project: Project, version: Version) -> tuple[Path, Path, Path]:
    """A committed model's PREDICTED, SPLIT_TABLE and CLASSES, from DVC's cache or remote.

    Raises Unknown where its stages do not belong together.
    """
    predicted = project.fetched(version, "evaluate", PREDICTED)
    split = project.fetched(version, "split", SPLIT_TABLE)
    exported_from = _inputs(version, "export")
    for path, found in ((PREDICTED, predicted), (SPLIT_TABLE, split)):
        if exported_from.get(path) not in (None, md5_of(found)):
            raise Unknown(
                f"{LOCK} {version.recorded}: its export was not made from its {path}; the champion's tag must point at "
                "a commit made after a whole `dvc repro`"
            )
    return predicted, split, project.fetched(version, "validate", CLASSES)


def hashes(version: Version) -> dict[str, Any]:
    """MD5 (hex) of a version's export and of the model it was made from. Raises Unknown where it exported nothing."""
    outs = {out["path"]: out.get("md5") for out in version.stages.get("export", {}).get("outs", [])}
    if not outs.get(EXPORT):
        raise Unknown(f"{LOCK} {version.recorded} has no {EXPORT}; run `dvc repro` and commit {LOCK}")
    return {"export_md5": outs[EXPORT], "model_md5": _inputs(version, "export").get(MODEL)}


def named(champion: Champion, version: Version) -> dict[str, Any]:
    """The champion in a decision's record; `version` is what its commit recorded."""
    found = hashes(version)
    then = champion.record.get("challenger", {})
    known = then.get("model_sha256") if then.get("model_md5") == found["model_md5"] else None
    names = {"tag": champion.tag, "version": champion.version, "commit": champion.commit}
    return {**names, **found, "model_sha256": known}


def same(champion: Mapping[str, Any], challenger: Mapping[str, Any]) -> str | None:
    """What is to be said where both are one network."""
    name = champion["version"] or champion["tag"]
    if champion["export_md5"] == challenger["export_md5"]:
        return f"this model is {name}, the champion"
    if champion["model_md5"] and champion["model_md5"] == challenger["model_md5"]:
        return f"this network is that of {name}, the champion; only its export differs, which no test can tell apart"
    return None


def committed(root: Path, stages: list[str]) -> tuple[str, str | None]:
    """HEAD, and why a tag on it would not name this checkout's model."""
    commit = git.commit_of(root, "HEAD")
    with Door(root) as door:
        stale = door.stale_stages()
        tracked = {path for stage in stages for path in door.dependencies(stage)[1]}
    if stale:
        stage, reasons = next(iter(stale.items()))
        return commit, f"{stage} is not up to date ({reasons[0]}): run `dvc repro`, commit, and promote again"
    changed = [path for path in git.changed_files(root, [*COMMITTED, *sorted(tracked)]) if not git.keeps_folder(path)]
    if changed:
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        return commit, f"{', '.join(changed[:3])}{more} differ from HEAD: commit them, and promote again"
    return commit, None


def tried(
    root: Path, project: Project, champion: Champion | None, images: set[str], tested: Callable[[Path], set[str]]
) -> dict[str, Any]:
    """How many models git's history and this checkout tested on all of these images since the champion.

    `tested` reads the images of a split table's test. `models` counts the challenger too; `unknown` those whose
    split is no longer in DVC's cache here.
    """
    since = git.beyond(root, champion.commit) if champion else None
    before: set[tuple[str, bool | None]] = set()
    after: set[tuple[str, bool | None]] = set()
    on_all: dict[str, bool | None] = {}
    for version in project.versions():
        inputs = _inputs(version, "evaluate")
        model, split = inputs.get("data/fine_tune"), inputs.get(SPLIT_TABLE)
        if not model or not split:
            continue
        if split not in on_all:
            table = project.content(version.stages.get("split", {}), SPLIT_TABLE)
            known = table is not None and f"{table.parent.name}{table.name}" == split
            on_all[split] = images <= tested(table) if known and table else None
        new = since is None or version.commit is None or version.commit in since
        (after if new else before).add((model, on_all[split]))
    found = after - before
    return {
        "models": len({model for model, on in found if on}),
        "unknown": len({model for model, on in found if on is None}),
    }


def _inputs(version: Version, stage: str) -> dict[str, str]:
    """MD5 by path of what a stage read."""
    return {dep["path"]: dep.get("md5", "") for dep in version.stages.get(stage, {}).get("deps", [])}
