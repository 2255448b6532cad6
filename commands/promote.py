"""graft promote: is this checkout's model better than the champion? If so it becomes the champion."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from stages.core.errors import Busy, ConfigError, EnvironmentFault, GraftError, IntegrityError

if TYPE_CHECKING:
    from flows.recorded import Project
    from flows.registry import Registry
    from stages.core.promotion import Terms
    from stages.core.shared_test import Contender

PUSHED = ["validate", "split", "evaluate", "export"]  # what fetching the champion and comparing with it need
NOT_BETTER = 3
FAULTS: tuple[type[GraftError], ...] = (ConfigError, IntegrityError, EnvironmentFault, Busy)


class Change(StrEnum):
    """What a person may take upon themselves."""

    CLASSES = "classes"
    SPLIT = "split"


def promote(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Decide; write and tag nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The record of the decision as one JSON object.")] = False,
    accept: Annotated[
        list[Change] | None, typer.Option("--accept", help="Compare although this changed; may be repeated.")
    ] = None,
    margin: Annotated[
        float, typer.Option("--margin", min=0.0, max=1.0, help="How much accuracy a slice may lose; 0.05: 5 points.")
    ] = 0.05,
    calibration_margin: Annotated[
        float, typer.Option("--calibration-margin", min=0.0, max=1.0, help="How much calibration error may be added.")
    ] = 0.02,
    push: Annotated[bool, typer.Option("--push", help="Its data to DVC's remote, its tags to origin, too.")] = False,
    held: Annotated[bool, typer.Option("--held", hidden=True, help="A flow, which holds the checkout, asks.")] = False,
) -> None:
    """Compare this checkout's model with the champion on the same test images; tag it as champion where it is better.

    Exit 0: promoted, or the champion already. 3: not better. 2: a change needs --accept, or it is not committed.
    """
    from flows import git
    from flows.faults import Refused
    from flows.recorded import NotFound, Unknown, opened
    from flows.registry import Registry
    from stages.core.promotion import Terms

    root = Path.cwd()
    terms = Terms(slice_margin=margin, calibration_margin=calibration_margin)
    try:
        with nullcontext() if held else _checkout(root), opened(root) as project:
            if push and not dry_run:
                git.fetch_tags(root)
            registry = Registry(root)
            record = decided(root, project, registry, terms, sorted({one.value for one in accept or ()}))
            if record["verdict"] == "promoted" and not dry_run:
                _tag(root, project, registry, record, push)
            if record["verdict"] == "champion already" and push and not dry_run:
                _send(root, project, record["champion"])
    except Unknown as error:
        raise ConfigError(str(error)) from error
    except NotFound as error:
        raise EnvironmentFault(str(error)) from error
    except Refused as error:
        kind = next((one for one in FAULTS if one.exit_code == error.exit_code), EnvironmentFault)
        raise kind(str(error)) from error
    kept = None if dry_run else _keep(root, record)
    if as_json:
        sys.stdout.write(json.dumps(record, ensure_ascii=False, indent=2) + "\n")
    else:
        _show(record, kept, dry_run)
    if record["verdict"] == "not promoted":
        raise typer.Exit(ConfigError.exit_code if any(map(_needs_word, record["rules"])) else NOT_BETTER)
    if record["verdict"] == "not tagged" and not dry_run:
        raise ConfigError(record["because"])


def decided(root: Path, project: Project, registry: Registry, terms: Terms, accepted: list[str]) -> dict[str, Any]:
    """The record of the decision.

    Its `verdict` is "promoted" (where only the tags in `tags` are left to be made), "not tagged" (it passes but is
    not committed), "not promoted" or "champion already"; `because` says why in one line.
    """
    from flows import contest
    from stages.core import promotion
    from stages.store import contenders, exported_files, hashes

    here, champion = project.here(), registry.champion()
    contest.check(root, list(here.stages))
    challenger = contenders.read(*(root / path for path in (contest.PREDICTED, contest.SPLIT_TABLE, contest.CLASSES)))
    commit, problem = contest.committed(root, list(here.stages))
    record: dict[str, Any] = {
        "challenger": {"commit": commit, "committed": not problem, **contest.hashes(here)},
        "champion": None,
        "rules": [],
        "slices": [],
        "tried": None,
        "warnings": [],
        "terms": asdict(terms),
        "accepted": accepted,
        "tags": [],
    }
    record["challenger"]["model_sha256"] = hashes.sha256_of_file(root / contest.MODEL)
    if champion is None:
        found, images = _first(challenger, terms), sorted(challenger.answers)
    else:
        version = project.at(champion.commit)
        record["champion"] = contest.named(champion, version)
        if said := contest.same(record["champion"], record["challenger"]):
            record["rules"] = [{"name": "same-model", "passed": True, "said": said}]
            return {"verdict": "champion already", "because": said, **record}
        holder = contenders.read(*contest.files(project, version))
        found, images = _compared(root, holder, challenger, terms, accepted)
    record |= {"rules": found["rules"], "slices": found["slices"]}
    record["tried"] = contest.tried(root, project, champion, set(images), contenders.tested_images)
    record["warnings"] = promotion.warnings(record["tried"], found["rules"], champion is not None)
    record["warnings"] += exported_files.missing(root / contest.EXPORT)
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
    from stages.core import promotion

    probabilities, labels = challenger.arrays()
    return promotion.first(probabilities, labels, challenger.classes.index(challenger.commonest), terms)


def _compared(
    root: Path, champion: Contender, challenger: Contender, terms: Terms, accepted: list[str]
) -> tuple[dict[str, Any], list[str]]:
    """The decision between two, and the ids of the images it was made on."""
    from flows import contest
    from stages.core import promotion, shared_test, slices
    from stages.store import contenders

    both = shared_test.shared(champion, challenger, accepted)
    found: dict[str, Any] = {"rules": [], "slices": []}
    if all(rule["passed"] for rule in both.rules):
        facts = contenders.facts(root / contest.SPLIT_TABLE, root / contest.FACTS_TABLE, both.image_ids)
        found = promotion.decide(both.champion, both.challenger, both.labels, slices.kinds(facts), terms)
    return {**found, "rules": [*both.rules, *found["rules"]]}, both.image_ids


def _needs_word(rule: Mapping[str, Any]) -> bool:
    """Whether --accept would let the comparison go on."""
    return bool(rule.get("needs_accept")) or (rule["name"] == "class-set-changed" and not rule["passed"])


def _tag(root: Path, project: Project, registry: Registry, record: dict[str, Any], push: bool) -> None:
    """Make the tags that the record names. Data goes before them: a champion that nobody can fetch is none."""
    from flows import git
    from flows.faults import Refused
    from flows.registry import lost

    if push:
        project.push(PUSHED, record["challenger"]["commit"])
    names = record["tags"]
    made = registry.promote(record["challenger"]["commit"], names, f"Promote {names[0]}: {record['because']}", record)
    if not push:
        return
    try:
        git.push_tags(root, names)
    except git.TagTaken as taken:
        git.delete_tags(root, made)
        git.fetch_tags(root)
        raise lost(type(registry)(root).champion(), taken) from taken
    except Refused:
        git.delete_tags(root, made)
        raise


def _send(root: Path, project: Project, champion: Mapping[str, Any]) -> None:
    """Data and tags of a champion that was made without --push, as a flow makes it; nothing where they are there."""
    from flows import git

    project.push(PUSHED, champion["commit"])
    git.push_tags(root, [name for name in (champion["version"], champion["tag"]) if name])


def _keep(root: Path, record: Mapping[str, Any]) -> Path:
    """The record in the checkout, of a refused model too. git ignores it; a champion's is in its tag as well."""
    from flows.registry import RECORDS
    from stages.store import documents

    path = RECORDS / f"{record['challenger']['export_md5'].removesuffix('.dir')}.json"
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    documents.write(root / path, record)
    return path


def _show(record: Mapping[str, Any], kept: Path | None, dry_run: bool) -> None:
    console = Console(highlight=False, soft_wrap=True)
    for rule in record["rules"]:
        passed = "[green]passed[/]" if rule["passed"] else "[bold red]failed[/]"
        console.print(f"{passed} {rule['name']:<22}{escape(rule['said'])}")
    for warning in record["warnings"]:
        console.print(f"[yellow]warning[/] {escape(warning)}")
    champion = record["champion"]
    against = f" against {champion['version'] or champion['tag']} ({champion['commit'][:12]})" if champion else ""
    verdict = record["verdict"]
    if verdict == "promoted":
        verdict = f"{'would be promoted as' if dry_run else 'promoted:'} {', '.join(record['tags'])}"
    console.print(f"[bold]{escape(verdict)}[/]{escape(against)}")
    if kept:
        console.print(f"[dim]{escape(str(kept))}[/]")


@contextmanager
def _checkout(root: Path) -> Iterator[None]:
    """Hold the checkout against flows, which would exchange the model under our eyes. Raises Busy."""
    from flows import checkout
    from flows.faults import CheckoutBusy

    try:
        with checkout.held(root, 0.0, "graft promote", lambda _: None):
            yield
    except CheckoutBusy as busy:
        raise Busy(str(busy)) from busy
