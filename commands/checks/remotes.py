"""DVC's remotes: are they there, is what they send hashed, and have they lost anything?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
from ruamel.yaml import YAML

from commands.checks.dvc_settings import config
from commands.checks.finding import Finding, ok, problem, some, warning
from flows.redact import redact
from stages.core.errors import ConfigError, EnvironmentFault, IntegrityError

PROBE = 10.0  # seconds for an HTTP remote to say anything at all


def settings(root: Path) -> Iterator[Finding]:
    """`verify` of each remote, and the names that prefect.yaml uses."""
    known = config(root)["remote"]
    for name in sorted(named(root) - set(known)):
        yield problem(
            "dvc remote",
            ConfigError,
            f"prefect.yaml: gpu_remote: {name}, which is no DVC remote here",
            f"dvc remote add {name} <address>; dvc remote modify {name} verify true",
        )
    for name, values in known.items():
        if not values.get("verify"):
            yield problem(
                "dvc remote",
                ConfigError,
                f"{name}: verify is off, so that a `dvc pull` typed by hand takes whatever bytes the remote has",
                f"dvc remote modify {name} verify true",
            )
    if not known:
        yield ok("dvc remote", "none is set: data stays on this machine")
    elif not config(root)["core"].get("remote"):
        yield warning(
            "dvc remote",
            f"{', '.join(known)}: none is the default, so `dvc push` needs -r",
            f"dvc remote default {next(iter(known))}",
        )


def contents(root: Path, deep: bool, repair: bool) -> Iterator[Finding]:
    """Whether each remote answers, and has every object that dvc.lock records; with `deep`, with the right bytes."""
    from flows import remote_objects, verified

    with verified.project(root) as repo:
        wanted = remote_objects.once(remote_objects.recorded(repo))
        for name in repo.config["remote"]:
            check = f"dvc remote {name}"
            try:
                objects = remote_objects.odb(repo, name)
                empty = not _answers(objects)
                missing = remote_objects.missing(objects, wanted)
                damaged = remote_objects.damaged(objects, wanted) if deep else []
            except remote_objects.NotComparable as error:
                yield ok(check, f"not looked through: {error}")
                continue
            except Exception as error:  # each kind of remote has its own
                yield unreachable(name, f"{type(error).__name__}: {redact(str(error))}")
                continue
            default = name == repo.config["core"].get("remote")
            if repair and (missing.lost or damaged or (missing.not_pushed and default and not empty)):
                every = [*missing.lost, *damaged, *(missing.not_pushed if default else [])]
                yield from _repaired(check, remote_objects.upload(repo, objects, every))
                missing = remote_objects.missing(objects, wanted)
                damaged = remote_objects.damaged(objects, damaged)
            yield from _judged(check, name, default, empty, len(wanted), missing, [one.path for one in damaged])


def _repaired(check: str, done: Any) -> Iterator[Finding]:
    """What an upload did."""
    if done.uploaded:
        yield ok(check, f"uploaded {len(done.uploaded)} objects: {some([one.path for one in done.uploaded])}")
    if done.not_here:
        yield problem(
            check,
            EnvironmentFault,
            f"not uploaded, for DVC's cache has them neither: {some([one.path for one in done.not_here])}",
            "graft doctor --repair on a machine that has them, or make them again: dvc repro",
        )
    if done.damaged:
        yield problem(
            check,
            IntegrityError,
            f"not uploaded, for DVC's cache has other bytes than their names say: "
            f"{some([one.path for one in done.damaged])}",
            "graft doctor --deep tells which files",
        )


def _judged(
    check: str, name: str, default: bool, empty: bool, count: int, missing: Any, damaged: list[str]
) -> Iterator[Finding]:
    if damaged:
        yield problem(
            check,
            IntegrityError,
            f"other bytes than their names say: {some(damaged)}",
            "graft doctor --deep --repair replaces them from DVC's cache",
        )
    if missing.lost:
        yield problem(
            check,
            EnvironmentFault,
            f"lost {len(missing.lost)} objects, which `dvc push` would not bring: "
            f"{some([one.path for one in missing.lost])}",
            "graft doctor --repair uploads them from DVC's cache",
        )
    if empty:
        yield warning(check, "answers, and holds nothing", f"dvc push -r {name}; a folder: is its disk mounted?")
    elif missing.not_pushed and default:
        yield warning(
            check,
            f"has not got {len(missing.not_pushed)} of {count} recorded objects: "
            f"{some([one.path for one in missing.not_pushed])}",
            f"dvc push -r {name}",
        )
    elif not (damaged or missing.lost):
        others = f"; {len(missing.not_pushed)} others never went there" if missing.not_pushed else ""
        yield ok(check, f"answers, and has {count - len(missing.not_pushed)} recorded objects{others}")


def unreachable(name: str, why: str) -> Finding:
    """A remote that did not answer."""
    return problem(
        f"dvc remote {name}",
        EnvironmentFault,
        f"cannot be reached: {why}",
        "look at `dvc remote list`, credentials and network; local stages run without it",
    )


def named(root: Path) -> set[str]:
    """The remotes that prefect.yaml's deployments send data through."""
    path = root / "prefect.yaml"
    file = YAML(typ="safe").load(path.read_text()) if path.is_file() else {}
    parameters = [one.get("parameters") or {} for one in (file or {}).get("deployments") or []]
    return {str(one["gpu_remote"]) for one in parameters if one.get("gpu_remote")}


def _answers(objects: Any) -> bool:
    """Whether a remote holds anything; raises where it does not answer."""
    if not objects.fs.CAN_TRAVERSE:  # HTTP lists nothing, and DVC takes one that is not there for an empty one
        httpx.head(objects.path, timeout=PROBE)
        return True
    try:
        return any(True for _ in objects.fs.ls(objects.path, detail=False))
    except FileNotFoundError:
        return False
