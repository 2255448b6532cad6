"""This checkout's model against the champion: what `graft promote` decides from, and the record of the decision."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flows import git
from flows.dvc_door import Door
from flows.md5 import md5_of
from flows.recorded import LOCK, Project, Unknown, Version
from flows.registry import Champion, Registry
from stages.core import promotion, shared_test, slices
from stages.core.errors import IntegrityError
from stages.core.promotion import Terms
from stages.core.schemas import FACTS, PREDICTIONS, SPLIT
from stages.core.shared_test import Contender
from stages.store import documents, hashes, tables

MODEL = "data/fine_tune/model.keras"
PREDICTED = "reports/evaluate/predictions.parquet"
SPLIT_TABLE = "data/split/split.parquet"
CLASSES = "data/validate/classes.json"
FACTS_TABLE = "data/validate/facts.parquet"
EXPORT = "data/export"
SLICED_BY = ("name", "label", "given_split", "format", "width", "height", "brightness")
DECIDING = ("validate", "split", "fine_tune", "evaluate", "export")  # stages whose outputs are read, tagged or pushed
COMMITTED = (LOCK, "dvc.yaml", "params.yaml")


def decided(root: Path, project: Project, registry: Registry, terms: Terms, accepted: list[str]) -> dict[str, Any]:
    """The record of the decision.

    Its `verdict` is "promoted" (where only the tags in `tags` are left to be made), "not tagged" (it passes but is
    not committed), "not promoted" or "champion already"; `because` says why in one line.
    """
    here, champion = project.here(), registry.champion()
    _check(root, list(here.stages))
    challenger = _contender(*(root / path for path in (PREDICTED, SPLIT_TABLE, CLASSES)))
    commit, problem = _committed(root, list(here.stages))
    record: dict[str, Any] = {
        "challenger": {"commit": commit, "committed": not problem, **_hashes(here)},
        "champion": None,
        "rules": [],
        "slices": [],
        "tried": None,
        "warnings": [],
        "terms": asdict(terms),
        "accepted": accepted,
        "tags": [],
    }
    record["challenger"]["model_sha256"] = hashes.sha256_of_file(root / MODEL)
    if champion is None:
        found, images = _first(challenger, terms), sorted(challenger.answers)
    else:
        version = project.at(champion.commit)
        record["champion"] = _named(champion, version)
        if said := _same(record["champion"], record["challenger"]):
            record["rules"] = [{"name": "same-model", "passed": True, "said": said}]
            return {"verdict": "champion already", "because": said, **record}
        found, images = _compared(root, _contender_at(project, version), challenger, terms, accepted)
    record |= {"rules": found["rules"], "slices": found["slices"]}
    record["tried"] = _tried(root, project, champion, set(images))
    record["warnings"] = list(_warnings(record["tried"], found["rules"], champion))
    broken = [rule for rule in found["rules"] if not rule["passed"]]
    if broken:
        because = "; ".join(f"{rule['name']}: {rule['said']}" for rule in broken)
        return {"verdict": "not promoted", "because": because, **record}
    if problem:
        return {"verdict": "not tagged", "because": f"it passes every rule, but {problem}", **record}
    classes_changed = any(rule["name"] == "class-set-changed" and rule["changed"] for rule in found["rules"])
    record["tags"] = registry.next_names(commit, classes_changed)
    first = next(rule for rule in found["rules"] if rule["name"] in ("better", "first-model"))
    return {"verdict": "promoted", "because": first["said"], **record}


def _first(challenger: Contender, terms: Terms) -> dict[str, Any]:
    """The decision without a champion."""
    rows = [challenger.answers[image_id] for image_id in sorted(challenger.answers)]
    place = {label: number for number, label in enumerate(challenger.classes)}
    labels = np.array([place[label] for label, _ in rows], np.int64)
    probabilities = np.array([one for _, one in rows], np.float64).reshape(len(rows), len(place))
    return promotion.first(probabilities, labels, place[challenger.commonest], terms)


def _compared(
    root: Path, champion: Contender, challenger: Contender, terms: Terms, accepted: list[str]
) -> tuple[dict[str, Any], list[str]]:
    """The decision between two, and the ids of the images it was made on."""
    both = shared_test.shared(champion, challenger, accepted)
    found: dict[str, Any] = {"rules": [], "slices": []}
    if all(rule["passed"] for rule in both.rules):
        kinds = slices.kinds(_facts(root, both.image_ids))
        found = promotion.decide(both.champion, both.challenger, both.labels, kinds, terms)
    return {**found, "rules": [*both.rules, *found["rules"]]}, both.image_ids


def _contender(predicted: Path, split: Path, classes: Path) -> Contender:
    columns = ["image_id", "split", "label"]
    return shared_test.contender(
        tables.read(predicted, PREDICTIONS, [*columns, "probabilities"]).to_pylist(),
        tables.read(split, SPLIT, columns).to_pylist(),
        documents.read_classes(classes),
    )


def _contender_at(project: Project, version: Version) -> Contender:
    """A committed model, from DVC's cache or remote. Raises Unknown where its stages do not belong together."""
    predicted = project.fetched(version, "evaluate", PREDICTED)
    split = project.fetched(version, "split", SPLIT_TABLE)
    exported_from = _inputs(version, "export")
    for path, found in ((PREDICTED, predicted), (SPLIT_TABLE, split)):
        if exported_from.get(path) not in (None, md5_of(found)):
            raise Unknown(
                f"{LOCK} {version.recorded}: its export was not made from its {path}; the champion's tag must point at "
                "a commit made after a whole `dvc repro`"
            )
    return _contender(predicted, split, project.fetched(version, "validate", CLASSES))


def _inputs(version: Version, stage: str) -> dict[str, str]:
    """MD5 by path of what a stage read."""
    return {dep["path"]: dep.get("md5", "") for dep in version.stages.get(stage, {}).get("deps", [])}


def _hashes(version: Version) -> dict[str, Any]:
    outs = {out["path"]: out.get("md5") for out in version.stages.get("export", {}).get("outs", [])}
    if not outs.get(EXPORT):
        raise Unknown(f"{LOCK} {version.recorded} has no {EXPORT}; run `dvc repro` and commit {LOCK}")
    return {"export_md5": outs[EXPORT], "model_md5": _inputs(version, "export").get(MODEL)}


def _named(champion: Champion, version: Version) -> dict[str, Any]:
    found = _hashes(version)
    then = champion.record.get("challenger", {})
    known = then.get("model_sha256") if then.get("model_md5") == found["model_md5"] else None
    named = {"tag": champion.tag, "version": champion.version, "commit": champion.commit}
    return {**named, **found, "model_sha256": known}


def _same(champion: Mapping[str, Any], challenger: Mapping[str, Any]) -> str | None:
    """What is to be said where both are one network."""
    name = champion["version"] or champion["tag"]
    if champion["export_md5"] == challenger["export_md5"]:
        return f"this model is {name}, the champion"
    if champion["model_md5"] and champion["model_md5"] == challenger["model_md5"]:
        return f"this network is that of {name}, the champion; only its export differs, which no test can tell apart"
    return None


def _check(root: Path, stages: list[str]) -> None:
    """Raise IntegrityError where what would be compared or tagged is not, byte by byte, what dvc.lock records."""
    with Door(root) as door:
        checked = door.inspect([stage for stage in stages if stage in DECIDING], mend=False)
    if checked.left:
        raise IntegrityError("\n".join([*checked.lines[:10], "run `graft verify --repair` and `dvc repro`"]))


def _committed(root: Path, stages: list[str]) -> tuple[str, str | None]:
    """HEAD, and why a tag on it would not name this model."""
    commit = git.commit_of(root, "HEAD")
    with Door(root) as door:
        stale = door.stale_stages()
        tracked = {path for stage in stages for path in door.dependencies(stage)[1]}
    if stale:
        stage, reasons = next(iter(stale.items()))
        return commit, f"{stage} is not up to date ({reasons[0]}): run `dvc repro`, commit, and promote again"
    changed = git.changed_files(root, [*COMMITTED, *sorted(tracked)])
    if changed:
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        return commit, f"{', '.join(changed[:3])}{more} differ from HEAD: commit them, and promote again"
    return commit, None


def _facts(root: Path, image_ids: list[str]) -> list[dict[str, Any]]:
    """What validate found of these images, in their order, and how many images each one's group has."""
    split = tables.read(root / SPLIT_TABLE, SPLIT, ["name", "image_id", "group"])
    groups = split["group"].value_counts()
    copies = dict(zip(groups.field("values").to_pylist(), groups.field("counts").to_pylist(), strict=True))
    chosen = split.filter(pc.is_in(split["image_id"], pa.array(image_ids, pa.string()))).to_pylist()
    row_of = {row["image_id"]: row for row in reversed(chosen)}
    names = pa.array([row["name"] for row in row_of.values()], pa.string())
    found = pa.concat_tables(
        facts.filter(pc.is_in(facts["name"], names)) for facts in tables.batches(root / FACTS_TABLE, FACTS, SLICED_BY)
    )
    facts_of = {fact["name"]: fact for fact in found.to_pylist()}
    try:
        rows = [row_of[image_id] for image_id in image_ids]
        return [{**facts_of[row["name"]], "copies": copies[row["group"]]} for row in rows]
    except KeyError as error:
        raise IntegrityError(f"{FACTS_TABLE}: {error} was tested but is not in it; run `dvc repro`") from error


def _tried(root: Path, project: Project, champion: Champion | None, images: set[str]) -> dict[str, Any]:
    """How many models git's history and this checkout tested on all of these images since the champion.

    `models` counts the challenger too; `unknown` those whose split is no longer in DVC's cache here.
    """
    since = git.beyond(root, champion.commit) if champion else None
    before: set[tuple[str, bool | None]] = set()
    after: set[tuple[str, bool | None]] = set()
    test_of: dict[str, bool | None] = {}
    for version in project.versions():
        inputs = _inputs(version, "evaluate")
        model, split = inputs.get("data/fine_tune"), inputs.get(SPLIT_TABLE)
        if not model or not split:
            continue
        if split not in test_of:
            test_of[split] = _tested_on(project, version, split, images)
        new = since is None or version.commit is None or version.commit in since
        (after if new else before).add((model, test_of[split]))
    tried = after - before
    return {
        "models": len({model for model, on in tried if on}),
        "unknown": len({model for model, on in tried if on is None}),
    }


def _tested_on(project: Project, version: Version, md5: str, images: set[str]) -> bool | None:
    """Whether a split's test has all the images; None where the split is not in the cache."""
    found = project.content(version.stages.get("split", {}), SPLIT_TABLE)
    if found is None or f"{found.parent.name}{found.name}" != md5:
        return None
    rows = tables.read(found, SPLIT, ["image_id", "split"]).to_pylist()
    return images <= {row["image_id"] for row in rows if row["split"] == "test"}


def _warnings(tried: Mapping[str, Any], rules: list[dict[str, Any]], champion: Champion | None) -> Iterator[str]:
    asked = next((rule for rule in rules if rule["name"] in ("better", "first-model")), None)
    since = "since the champion" if champion else "by git's history"
    if tried["models"] > 1 and asked:
        yield (
            f"{tried['models']} models were tested on these images {since}: the best of so many looks "
            f"better than it is; times {tried['models']}, its p is {min(1.0, asked['p_value'] * tried['models']):.3g}. "
            "New test images would tell"
        )
    if tried["unknown"]:
        yield f"{tried['unknown']} more were tested on a split that is not in DVC's cache here (`dvc fetch -A split`)"
