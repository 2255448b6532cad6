"""What `dvc repro` would run and why, from git and dvc.lock alone: nothing is run, nothing written.

DVC's own `status` and `repro --dry` look at each stage by itself and need the data. Here a change spreads
to what depends on it, and a clone without data or cache gets the same answer as the machine that ran it:
an output is what dvc.lock records of it, whether or not it lies in the workspace.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from flows.markdown import inert, printable
from flows.redact import redact

ABSENT = object()  # where a parameter is not recorded, or no longer there
LONGEST = 60  # characters shown of a value
SHOWN = 12  # reasons shown of a stage
PARAMS_FILE = "params.yaml"


class PlanError(Exception):
    """There is nothing to plan with: no DVC project, or a file of it cannot be read. One line."""


@dataclass(frozen=True)
class Planned:
    """What becomes of one stage: it runs, may run (if what it depends on comes out different), or does not."""

    stage: str
    verdict: Literal["run", "maybe", "unchanged"]
    reasons: tuple[str, ...]


def plan(root: Path, targets: Sequence[str] = ()) -> list[Planned]:
    """Every stage that `dvc repro` would look at in the project that holds `root`, upstream first.

    `targets` restricts it to those stages and what they depend on. "run" includes that DVC's run cache
    may give the result back without running the command. Data under `dvc add` has no row: it is a source.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(str(root)) as repo:
            return _plan(repo, targets)
    except DvcException as error:
        raise PlanError(_one_line(root, error)) from error


def shown(planned: Planned) -> list[str]:
    """A stage's reasons as people read them: the first dozen, and how many more there are."""
    more = len(planned.reasons) - SHOWN
    return [*planned.reasons[:SHOWN], *([f"and {more} more"] if more > 0 else [])]


def as_markdown(planned: Sequence[Planned]) -> str:
    """A Markdown table, one row a stage. No name or value in it can break the table or become markup."""
    lines = ["| stage | verdict | why |", "| --- | --- | --- |"]
    for one in planned:
        why = "<br>".join(inert(reason) for reason in shown(one))
        lines.append(f"| {inert(one.stage)} | {one.verdict} | {why} |")
    return "\n".join(lines) + "\n"


def _plan(repo: Any, targets: Sequence[str]) -> list[Planned]:
    import networkx
    from dvc.parsing import ResolveError
    from dvc.repo.reproduce import get_active_graph
    from dvc.stage import PipelineStage

    params_file = os.path.join(repo.root_dir, PARAMS_FILE)
    try:
        stages = [stage for stage in repo.index.stages if isinstance(stage, PipelineStage)]
    except ResolveError as error:
        if os.path.exists(params_file):
            raise
        raise PlanError(f"{params_file}: not found, and dvc.yaml takes values from it") from error
    named = {stage: _name(stage) for stage in stages}
    graph = get_active_graph(repo.index.graph)  # from a stage to what it depends on; frozen ones cut off
    own = [stage for stage in stages if stage.path == os.path.join(repo.root_dir, "dvc.yaml")]
    if not own and not os.path.exists(os.path.join(repo.root_dir, "dvc.yaml")):
        raise PlanError(f"{repo.root_dir}: no dvc.yaml there")
    legal = _with_upstream(graph, own)
    if targets:
        wanted = _with_upstream(graph, _targeted(targets, {named[one]: one for one in stages if one in legal}))
    else:
        wanted = legal
    looked_at = graph.subgraph(stage for stage in stages if stage in wanted)
    place = {stage: number for number, stage in enumerate(stages)}
    ordered = networkx.lexicographical_topological_sort(looked_at.reverse(), key=place.__getitem__)
    # Each stage would read its dvc.lock by itself, and a lock takes longer to parse than all else here.
    files = {one.path: one.dvcfile for one in stages}
    locks = {path: file.lockfile_contents.get("stages", {}) for path, file in files.items()}

    planned: dict[Any, Planned] = {}
    present: dict[tuple[str, str], Any] = {}  # what files are now: most modules are read by several stages
    for stage in ordered:
        upstream = [one for one in planned if graph.has_edge(stage, one) and planned[one].verdict != "unchanged"]
        if stage.frozen:
            planned[stage] = Planned(named[stage], "unchanged", ("frozen: dvc repro does not run it",))
        elif reasons := tuple(_reasons(stage, locks[stage.path].get(stage.name, {}), present)):
            planned[stage] = Planned(named[stage], "run", reasons)
        elif upstream or (folders := _doubtful_folders(stage)):
            depends = [f"depends on {', '.join(named[one] for one in upstream)}"] if upstream else folders
            planned[stage] = Planned(named[stage], "maybe", tuple(depends))
        else:
            planned[stage] = Planned(named[stage], "unchanged", ())
    return list(planned.values())


def _name(stage: Any) -> str:
    """As `dvc repro` names it at the project's root, wherever this process stands."""
    path = stage.path_in_repo.replace(os.sep, "/")
    return printable(stage.name if path == "dvc.yaml" else f"{path}:{stage.name}")


def _with_upstream(graph: Any, stages: Sequence[Any]) -> set[Any]:
    import networkx

    return set(stages).union(*(networkx.descendants(graph, stage) for stage in stages))


def _targeted(targets: Sequence[str], legal: dict[str, Any]) -> list[Any]:
    """The stages named; the name of a `foreach` or `matrix` stands for all that it makes."""
    found = []
    for target in targets:
        stages = [stage for name, stage in legal.items() if name == target or name.startswith(f"{target}@")]
        if not stages:
            raise PlanError(f"no stage {printable(target)!r}; there are: {', '.join(legal)}")
        found += stages
    return found


def _reasons(stage: Any, recorded: dict[str, Any], present: dict[tuple[str, str], Any]) -> Iterator[str]:
    """Why the stage would run whatever its upstream does."""
    from dvc.dependency import ParamsDependency

    if not recorded:
        yield "never ran here"
        return
    if stage.always_changed:
        yield "always runs: always_changed in dvc.yaml"
    elif stage.is_callback:
        yield "always runs: it has neither dependencies nor outputs"
    if stage.cmd_changed:
        yield f"command changed: {_change(_command(recorded['cmd']), _command(stage.cmd))}"
    for dependency in stage.deps:
        if isinstance(dependency, ParamsDependency):
            yield from _parameters(dependency)
        elif reason := _dependency(dependency, present):
            yield reason
    for output in stage.outs:
        if not output.hash_info:
            yield f"output {_path(output)} is new"


def _parameters(dependency: Any) -> Iterator[str]:
    """`fine_tune.tail.epochs: 10 → 12` for each that differs, in DVC's sense: by Python's equality."""
    file = _path(dependency)
    if not dependency.exists:
        if _producer(dependency):  # its maker's rerun makes this stage a maybe
            return
        raise PlanError(f"{file}: not found; stage {_name(dependency.stage)} reads its parameters there")
    actual = dependency.read_params()
    if not isinstance(actual, dict):
        raise PlanError(f"{file}: {type(actual).__name__} where parameters by name are expected")
    recorded = dependency.hash_info.value
    said = False
    for key in dependency.params or dict.fromkeys([*actual, *(recorded or {})]):
        old, new = (recorded or {}).get(key, ABSENT), actual.get(key, ABSENT)
        if isinstance(new, tuple):  # from a .py parameter file; YAML has recorded a list
            new = list(new)
        for name, before, after in _differences(str(key), old, new):
            said = True
            name = printable(name if file == PARAMS_FILE else f"{file}: {name}")
            if before is ABSENT:
                yield f"{name}: added ({_change(_value(after))})"
            elif after is ABSENT:
                yield f"{name}: removed (was {_change(_value(before))})"
            else:
                yield f"{name}: {_change(_value(before), _value(after))}"
    if recorded is None and not said:
        yield f"the parameters of {file} are new"


def _differences(name: str, old: Any, new: Any) -> Iterator[tuple[str, Any, Any]]:
    """(name, old, new) at the deepest keys where two values differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys([*old, *new]):
            yield from _differences(f"{name}.{key}", old.get(key, ABSENT), new.get(key, ABSENT))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for number, (before, after) in enumerate(zip(old, new, strict=True)):
            yield from _differences(f"{name}[{number}]", before, after)
    elif old != new:
        yield name, old, new


def _dependency(dependency: Any, present: dict[tuple[str, str], Any]) -> str | None:
    """Why a file or folder makes the stage run, or None."""
    from dvc.dependency import Dependency

    if type(dependency) is not Dependency:
        return None  # `ds://`: kept by DVC's own records
    if not dependency.hash_info:
        return f"{_kind(dependency)} {_path(dependency)} is new"
    if dependency.protocol != "local":
        return None  # on another machine; a plan asks nobody
    output = _producer(dependency)
    if output and (output.stage.cmd or not _is_here(dependency)):
        return _input(dependency, output)
    if _outputs_in(dependency):
        return None  # see _doubtful_folders
    if not dependency.exists:
        return f"{_kind(dependency)} {_path(dependency)} is missing" if _git_should_hold(dependency) else None
    # An empty folder is a clone's: git keeps folders of data only by their .gitkeep.
    if _is_here(dependency):
        key = dependency.fs_path, dependency.hash_name
        if key not in present:
            present[key] = dependency.get_hash()
        if present[key] != dependency.hash_info:
            return f"{_kind(dependency)} {_path(dependency)} changed"
    return None


def _input(dependency: Any, output: Any) -> str | None:
    """Whether another stage's output, or a part of it, is the one this stage was last run on."""
    source = output.stage
    since = f"{_name(source)} ran since" if source.cmd else f"{printable(source.path_in_repo)} names other data"
    now = output.hash_info
    if dependency.fs_path != output.fs_path:
        # Only the folder's hash is in dvc.lock; which file had which is in a listing in DVC's cache.
        if not (now and now.isdir and output.is_in_repo and output.get_obj()):
            return None
        part = output.get_obj(filter_info=dependency.fs_path)
        if part is None:
            return f"input {_path(dependency)} is gone: {since}"
        now = part.hash_info
    if now and now.name == dependency.hash_info.name and now.value != dependency.hash_info.value:
        return f"input {_path(dependency)} changed: {since}"
    return None


def _doubtful_folders(stage: Any) -> list[str]:
    """Folders a stage depends on that hold outputs among other files, and are not as recorded.

    What dvc.lock records of such a folder can be compared only by hashing the outputs in it, so the
    outcome is a guess, and none at all where they are not here.
    """
    return [
        f"folder {_path(dependency)}, with outputs of other stages in it, is not as recorded"
        for dependency in stage.deps
        if (outputs := _outputs_in(dependency))
        and all(output.exists for output in outputs)
        and dependency.get_hash() != dependency.hash_info
    ]


def _producer(dependency: Any) -> Any:
    """The output of another stage that a path is, or lies in; or None."""
    return dependency.repo.index.outs_trie.shortest_prefix(_key(dependency)).get(None)


def _outputs_in(dependency: Any) -> list[Any]:
    """The outputs that lie inside a path."""
    trie = dependency.repo.index.outs_trie
    return trie.values(prefix=_key(dependency)) if trie.has_subtrie(_key(dependency)) else []


def _key(dependency: Any) -> Any:
    return dependency.fs.parts(dependency.fs_path)


def _is_here(dependency: Any) -> bool:
    """Whether there is a file, or a folder with a file in it that .dvcignore does not hide."""
    if not dependency.isdir():
        return bool(dependency.exists)
    return any(True for _ in dependency.repo.dvcignore.find(dependency.fs, dependency.fs_path))


def _git_should_hold(dependency: Any) -> bool:
    """Whether a path that is not here is missing, and not merely data that a clone does not get."""
    scm = dependency.repo.scm
    if not dependency.is_in_repo:
        return False
    # git has no folders: one whose files it all ignores is absent from a clone without being ignored.
    return bool(
        scm.is_tracked(dependency.fs_path) or not (_is_folder(dependency) or scm.is_ignored(dependency.fs_path))
    )


def _is_folder(dependency: Any) -> bool:
    return bool(dependency.isdir() if dependency.exists else dependency.hash_info and dependency.hash_info.isdir)


def _kind(dependency: Any) -> str:
    if dependency.protocol != "local":
        return "source"
    if _producer(dependency):
        return "input"
    if _is_folder(dependency):
        return "folder"
    return "module" if dependency.fs_path.endswith(".py") else "file"


def _path(dependency: Any) -> str:
    """Relative to the project's root where it lies inside, as written in dvc.yaml elsewhere."""
    if not dependency.is_in_repo:
        return printable(str(dependency.def_path))
    return printable(os.path.relpath(dependency.fs_path, dependency.repo.root_dir).replace(os.sep, "/"))


def _command(command: str | list[str]) -> str:
    return printable(command if isinstance(command, str) else " && ".join(command))


def _value(value: Any) -> str:
    """As JSON, so that 1 and "1" are told apart; on one line, without passwords."""
    try:
        text = json.dumps(value, ensure_ascii=False, default=str)
    except (TypeError, ValueError):  # a key that is a date, a list that holds itself
        text = repr(value)
    return redact(printable(text))


def _change(*values: str) -> str:
    """`old → new` (or one value alone), each shortened; from where they part, if that is far in."""
    alike = [len(set(letters)) == 1 for letters in zip(*values, strict=False)]
    same = alike.index(False) if False in alike else 0
    start = max(0, same - 10) if same > LONGEST // 2 and max(map(len, values)) > LONGEST else 0
    return " → ".join(
        ("…" if start else "") + text[start : start + LONGEST] + ("…" if len(text) > start + LONGEST else "")
        for text in values
    )


def _one_line(root: Path, error: BaseException) -> str:
    """An error of DVC with its causes, where the line and column are, as one line."""
    parts: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        text = printable(" ".join(str(cause).split())).replace('in "<unicode string>", ', "at ")
        if text and not any(text in part for part in parts):
            parts.append(text)
        cause = cause.__cause__
    return f"{root}: " + ": ".join(parts)
