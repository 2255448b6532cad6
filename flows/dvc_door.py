"""The only door to DVC: is a stage stale, reproduce it, move its data, read and write its lock entry.

Questions are asked in process (about 20 ms each); a stage runs as `dvc repro` in a child process, so
that its output can be streamed and a crash of the stage or of DVC is not ours. One Door per thread:
DVC's Repo is not safe to share.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import logging
import re
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from flows import child, containment, lock_file, run_cache, rwlock, transfer, verified
from flows.faults import CheckoutBusy, NotIntact, Refused, WrongRequest
from flows.intact import Damage, Inspection, refuse
from flows.redact import redact

if TYPE_CHECKING:
    from dvc.repo import Repo
    from dvc.stage import PipelineStage

# How stages report progress where no terminal is: `fine_tune: 30 % head epoch 9 of 20`.
PROGRESS = re.compile(r"^(\w+): (\d{1,3}) % (.+)$")
RESTORED = re.compile(r"^Stage '.+' is cached - skipping run")
UNCHANGED = re.compile(r"^Stage '.+' didn't change, skipping")
STARTED = re.compile(r"^Running stage '.+':$")
EXITED = re.compile(r"exited with (-?\d+)")
BLOCKED = re.compile(r"' is busy, it is being blocked by")
# What DVC adds for people at a terminal; in a run's log it would only hide the stage's lines.
ADVICE = re.compile(
    r"^(To track the changes with git|\s*git add |To enable auto staging|\s*dvc config core\.autostage"
    r"|Use `dvc push`|Updating lock file|Generating lock file|> |ERROR: failed to reproduce)"
)
LAST_LINES = 12
# Seconds that a process which was just killed may still be listed as alive, and so as a user of its files.
BEING_KILLED = 5.0
OUTPUT = "output "

T = TypeVar("T")
Outcome = Literal["Unchanged", "Restored", "Completed"]


@dataclass(frozen=True)
class Inspected:
    """What `Door.inspect` found: a line for each damaged file, how many were not mended, objects and bytes hashed."""

    lines: list[str]
    left: int
    objects: int
    hashed: int


class StageFailed(Exception):
    """A stage's command, or DVC around it, failed. `exit_code` is the stage's own where it had one."""

    def __init__(self, stage: str, exit_code: int, last_lines: list[str]) -> None:
        own = bool(last_lines) and last_lines[0].startswith(f"{stage} failed (exit {exit_code})")
        super().__init__("\n".join(last_lines if own else [f"{stage} failed (exit {exit_code})", *last_lines]))
        self.stage, self.exit_code = stage, exit_code


class Door:
    """DVC in one checkout, for one thread."""

    def __init__(self, root: Path, patience: float = 0.0) -> None:
        """Open the DVC project at `root`.

        `patience` is how long, in seconds, to wait for files that another DVC process uses. Raises
        WrongRequest where there is no project.
        """
        from dvc.exceptions import DvcException

        # What DVC says of its own accord goes to nobody: it would print over the run's log.
        logger = logging.getLogger("dvc")
        logger.handlers, logger.propagate = [logging.NullHandler()], False
        self.root, self._patience = root, patience
        self.damage: list[Damage] = []  # found since the last stage was reproduced
        try:
            rwlock.mend(root)
            lock_file.mend(root)
            self._repo: Repo = verified.project(root)
            run_cache.mend(root, Path(self._repo.stage_cache.cache_dir))
        except DvcException as error:
            raise WrongRequest(f"{root}: {error}; start in the project's folder") from None

    def close(self) -> None:
        """Release what the Repo holds open."""
        self._repo.close()

    def __enter__(self) -> Door:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def resource(self, stage: str) -> str | None:
        """What the stage asks for in dvc.yaml (`meta: {resource: gpu}`), or None."""
        meta = self._stage(stage).meta or {}
        return meta.get("resource")

    def with_upstream(self, stages: Iterable[str]) -> set[str]:
        """The stages and everything they need, by name."""
        import networkx

        graph = self._ask(lambda: self._repo.index.graph)
        known = self._stages()
        wanted: set[str] = set()
        for name in stages:
            # DVC's edges point from a stage to what it needs.
            needed = networkx.descendants(graph, self._stage(name))
            wanted |= {name, *(stage.name for stage in known if stage in needed)}
        return wanted

    def stale(self, stage: str) -> list[str]:
        """Why DVC would run or restore the stage: `fine_tune.seed modified`, `output data/split deleted`.

        Empty where nothing changed.
        """
        status = self._ask(lambda: self._repo.status(targets=[self._target(stage)]))
        return self._reasons(stage, next(iter(status.values()), []))

    def stale_stages(self) -> dict[str, list[str]]:
        """`stale` of every stage of dvc.yaml that is, by name, for the price of asking about one."""
        status = self._ask(lambda: self._repo.status(targets=[str(self.root / "dvc.yaml")]))
        # DVC names a stage by its way from the working folder: `../dvc.yaml:split`.
        named = {address.rpartition(":")[2]: entries for address, entries in status.items()}
        return {stage: reasons for stage, entries in named.items() if (reasons := self._reasons(stage, entries))}

    def _reasons(self, stage: str, entries: list[Any]) -> list[str]:
        """What `Repo.status` says of one stage, a line each."""
        reasons: list[str] = []
        for entry in entries:
            if isinstance(entry, str):
                reasons.append(entry)
                continue
            for kind, changes in entry.items():
                for path, change in changes.items():
                    keys = change if isinstance(change, dict) else {path: change}
                    prefix = OUTPUT if kind == "changed outs" else ""
                    # An output that is not there need not have been deleted: a new tree has none yet.
                    reasons += [
                        f"{prefix}{key} {'is not here' if prefix and how == 'deleted' else how}"
                        for key, how in keys.items()
                    ]
        if reasons and not self.lock_entry(stage):
            return ["it never ran here"]
        return reasons

    def restorable(self, stage: str) -> bool:
        """Whether DVC's run cache holds this stage's outputs for exactly its present inputs, and holds them whole."""
        return self._restorable(stage, self._asked(stage))

    def _restorable(self, stage: str, asked: PipelineStage) -> bool:
        from dvc.stage.cache import RunCacheNotFoundError
        from dvc_data.hashfile.hash_info import HashInfo

        if any(not reason.startswith(OUTPUT) for reason in self.stale(stage)):
            # Without hashes of outputs DVC looks its run cache up; with them it would take dvc.lock's word for them.
            for output in asked.outs:
                output.hash_info = HashInfo()
        try:
            # DVC looks dvc.yaml up in the working folder.
            with contextlib.chdir(self.root):
                self._repo.stage_cache.restore(asked, dry=True)
        except RunCacheNotFoundError:
            return False
        return not any(one.mended_from is None for one in self._look(self._kept_for(asked)))

    def _kept_for(self, asked: PipelineStage) -> list[dict[str, Any]]:
        """The outputs that a restorable stage would get, as dvc.lock would list them."""
        from dvc.stage.serialize import to_single_stage_lockfile

        complete = all(output.hash_info for output in asked.outs)
        kept = to_single_stage_lockfile(asked) if complete else self._repo.stage_cache._load(asked)
        return list((kept or {}).get("outs", []))

    def inputs_key(self, stage: str) -> str:
        """SHA-256 (hex) over all that decides the stage's outputs: command, parameters, content of dependencies."""
        from dvc.stage.serialize import to_single_stage_lockfile

        asked = self._asked(stage)
        asked.outs = []
        return hashlib.sha256(json.dumps(to_single_stage_lockfile(asked), sort_keys=True).encode()).hexdigest()

    def reproduce(self, stage: str, force: bool, on_line: Callable[[str], None]) -> Outcome:
        """`dvc repro -s` in a child process; its lines go to `on_line`.

        Raises StageFailed with the stage's exit code and last lines; exit 6 means that another DVC
        process still held its files when patience ended. What DVC would restore is hashed first: DVC itself
        would put damaged bytes in place.
        """
        self._check_places()
        if not force:
            self.restorable(stage)
            for damage in self.damage:
                on_line(f"{stage}: {damage}")
            self.damage.clear()
        command = [
            sys.executable,
            "-m",
            "dvc",
            "--wait-for-lock",
            "repro",
            "-s",
            stage,
            *(["--force"] if force else []),
        ]
        deadline = time.monotonic() + max(self._patience, BEING_KILLED)
        while True:
            lines: deque[str] = deque(maxlen=400)

            def take(line: str, lines: deque[str] = lines) -> None:
                lines.append(redact(line))
                if not ADVICE.match(line):
                    on_line(lines[-1])

            code = child.run(command, self.root, take)
            said = "\n".join(lines)
            if code == 0:
                if any(RESTORED.match(line) for line in lines):
                    return "Restored"
                return "Unchanged" if any(UNCHANGED.match(line) for line in lines) else "Completed"
            busy = BLOCKED.search(said) is not None
            if not busy or time.monotonic() > deadline:
                exited = EXITED.findall(said)
                own = 6 if busy else int(exited[-1]) if exited else 5
                # A shell between DVC and the stage turns a signal into 128 and its number.
                own = 128 - own if own < 0 else own
                if own in (137, 139):
                    lines.append(
                        f"{stage} was ended by signal {own - 128}" + (": out of memory?" if own == 137 else "")
                    )
                told = [line for line in lines if not any(kind.match(line) for kind in (ADVICE, PROGRESS, STARTED))]
                # The stage's own word on why comes first: a run's page shows only the beginning.
                why = [line for line in told if line.startswith(f"{stage} failed (exit ")]
                shown = [*why[-1:], *(line for line in told[-LAST_LINES:] if line not in why[-1:])]
                raise StageFailed(stage, own, shown)
            time.sleep(2.0)

    def dependencies(self, stage: str) -> tuple[list[str], list[str]]:
        """The stage's inputs as (outputs of other stages, files that git tracks), relative to the root."""
        outputs = [output for other in self._ask(lambda: self._repo.index.stages) for output in other.outs]
        of_stages: list[str] = []
        tracked: list[str] = []
        for dependency in self._stage(stage).deps:
            if not dependency.is_in_repo or dependency.def_path == "params.yaml":
                continue
            inside = any(dependency.fs.isin_or_eq(dependency.fs_path, output.fs_path) for output in outputs)
            (of_stages if inside else tracked).append(dependency.def_path)
        return sorted(of_stages), sorted(tracked)

    def remote_address(self, remote: str) -> str:
        """The URL of a DVC remote. Raises WrongRequest where there is none of that name."""
        known = self._repo.config["remote"]
        if remote not in known:
            names = ", ".join(known) or "none"
            raise WrongRequest(f"there is no DVC remote {remote!r} (known: {names}); dvc remote add {remote} <address>")
        return str(known[remote]["url"])

    def push(self, paths: list[str], remote: str) -> int:
        """Upload stages' outputs, or parts of them, to a DVC remote; returns how many objects were new there.

        Raises NotIntact, with nothing uploaded, where one is damaged here and has no good copy.
        """
        refuse(self._look(self._recorded_outs(paths), remote), f"nothing was pushed to {remote!r}")
        self.remote_address(remote)
        return transfer.run(self.root, "push", remote, [self._target(path) for path in paths], self._patience)

    def pull(self, paths: list[str], remote: str) -> None:
        """Fetch stages' outputs, or parts of them, from a DVC remote and put them in place, over what is there."""
        self._check_places()
        from dvc.exceptions import DvcException

        # What is in the cache already would be believed; damaged, it goes and is fetched like the rest.
        outs = self._recorded_outs(paths)
        self._look(outs, remote)
        self.remote_address(remote)
        targets = [self._target(path) for path in paths]
        transfer.run(self.root, "fetch", remote, targets, self._patience)
        # Putting in place begins with taking away what is there.
        stages = {stage.name for stage in self._stages()}
        gone = Inspection(self._repo).missing(outs, [] if stages & set(paths) else paths)
        if gone:
            more = f" and {len(gone) - 3} more" if len(gone) > 3 else ""
            raise Refused(
                f"cannot fetch from the DVC remote {remote!r}: it does not have {', '.join(gone[:3])}{more}, or not "
                "whole; push them again where they were made"
            )
        try:
            self._patiently(lambda: self._repo.checkout(targets=targets, force=True))
        except (DvcException, OSError) as error:
            raise Refused(f"cannot put {', '.join(paths)} in place: {transfer.whole(error)}") from None

    def inspect(self, stages: Iterable[str] = (), mend: bool = True) -> Inspected:
        """Hash all that dvc.lock records of the stages' outputs (all without any), in DVC's cache and in the workspace.

        `mend` replaces damage by good copies, and removes what has none. Raises WrongRequest for an unknown stage.
        """
        lock = self._lock()
        unknown = sorted(set(stages) - lock.keys())
        if unknown:
            raise WrongRequest(f"dvc.lock has no stage {', '.join(unknown)}; it has {', '.join(lock) or 'none'}")
        looked = Inspection(self._repo, thorough=True, mend=mend)
        damage = looked.look(out for stage in (set(stages) or lock) for out in lock[stage].get("outs", []))
        left = sum(one.mended_from is None for one in damage)
        return Inspected([str(one) for one in damage], left, looked.objects, looked.hashed)

    def _look(self, outs: Iterable[Mapping[str, Any]], remote: str | None = None) -> list[Damage]:
        found = Inspection(self._repo, remote=remote).look(outs)
        self.damage += found
        return found

    def _recorded_outs(self, paths: Iterable[str]) -> list[dict[str, Any]]:
        """What dvc.lock records of stages' outputs, by stage or by path; whole outputs, also for parts of one."""
        lock = self._lock()
        outs = [(stage, out) for stage, entry in lock.items() for out in entry.get("outs", [])]
        wanted = set(paths)
        return [
            out
            for stage, out in outs
            if stage in wanted or any(f"{path}/".startswith(f"{out['path']}/") for path in wanted)
        ]

    def lock_text(self) -> str:
        """dvc.lock as it stands."""
        path = self.root / "dvc.lock"
        return path.read_text() if path.exists() else ""

    def lock_entry(self, stage: str) -> dict[str, Any]:
        """What dvc.lock records of one stage: cmd, deps, params, outs. Empty where it never ran."""
        return dict(self._lock().get(stage, {}))

    def _lock(self) -> dict[str, dict[str, Any]]:
        from dvc.utils.serialize import load_yaml

        return dict(load_yaml(str(self.root / "dvc.lock")).get("stages", {})) if self.lock_text() else {}

    def put_lock_entry(self, stage: str, entry: dict[str, Any]) -> None:
        """Write one stage's record into dvc.lock the way DVC writes it; an empty one removes it."""
        from dvc.repo import lock_repo
        from dvc.utils.serialize import modify_yaml

        def put() -> None:
            with lock_repo(self._repo), modify_yaml(str(self.root / "dvc.lock")) as data:
                data.setdefault("schema", "2.0")
                stages = data.setdefault("stages", {})
                if entry:
                    stages[stage] = entry
                else:
                    stages.pop(stage, None)

        self._patiently(put)

    def accept(self, stage: str, entry: dict[str, Any], remote: str) -> None:
        """Take over a stage's outputs that another machine made from the very same inputs, without running it.

        Raises NotIntact, with dvc.lock as before, when the entry was made from other inputs,
        parameters or command than this checkout has, or when the outputs do not arrive whole.
        """
        before = self.lock_entry(stage)
        self.put_lock_entry(stage, entry)
        try:
            foreign = [reason for reason in self.stale(stage) if not reason.startswith(OUTPUT)]
            if foreign:
                raise NotIntact(
                    f"{stage} came back made from other inputs than this checkout has ({'; '.join(foreign[:5])}); "
                    "its result is not taken over. Run the pipeline again"
                )
            try:
                self.pull([stage], remote)
                left = self.stale(stage)
            except CheckoutBusy:
                raise
            except Refused as refusal:
                raise NotIntact(f"{stage}'s outputs did not arrive whole: {refusal}") from None
            if left:
                raise NotIntact(f"{stage}'s outputs did not arrive as recorded ({'; '.join(left[:5])}); run again")
            # As after a run here: going back to these inputs later restores, and needs no worker.
            self._patiently(lambda: self._remember(stage))
        except BaseException:
            self.put_lock_entry(stage, before)
            raise

    def _remember(self, stage: str) -> None:
        """Enter the stage, as dvc.lock has it, into DVC's run cache."""
        from dvc.repo import lock_repo

        with lock_repo(self._repo), contextlib.chdir(self.root):
            self._repo.stage_cache.save(self._stage(stage))

    def metrics_change(self) -> dict[str, dict[str, Any]]:
        """Metrics now beside those of the last commit: file → {flattened key: {"old", "new", "diff"}}."""
        diff = self._repo.metrics.diff("HEAD", all=True)
        return dict(diff.get("diff", {}))

    def _target(self, what: str) -> str:
        """A stage's name or an output's path as DVC finds it from any working folder."""
        named = any(stage.name == what for stage in self._stages())
        return f"{self.root / 'dvc.yaml'}:{what}" if named else str(self.root / what)

    def _asked(self, name: str) -> PipelineStage:
        """A copy of a stage, with the present hashes of its inputs filled in."""
        from dvc.repo import lock_repo

        asked = copy.copy(self._stage(name))
        asked.deps = [copy.copy(dependency) for dependency in asked.deps]
        asked.outs = [copy.copy(output) for output in asked.outs]

        def look_up() -> None:
            with lock_repo(self._repo):
                asked.save_deps()

        self._ask(look_up)
        return asked

    def _ask(self, question: Callable[[], T]) -> T:
        """DVC's answer; waits like `_patiently`, mends a torn dvc.lock, raises WrongRequest where DVC cannot read."""
        from dvc.exceptions import DvcException

        try:
            return self._patiently(question)
        except DvcException as error:
            if lock_file.mend(self.root, thoroughly=True):
                self._repo._reset()
                return self._ask(question)
            if lock_file.is_merging(self.root):
                raise WrongRequest(lock_file.MERGE) from None
            raise WrongRequest(f"DVC cannot read the project: {transfer.whole(error)}") from None

    def _patiently(self, action: Callable[[], T]) -> T:
        answer: T = transfer.patiently(action, self._patience)
        return answer

    def _stages(self) -> list[PipelineStage]:
        """The stages of dvc.yaml; data added with `dvc add` is in DVC's index too, but is no stage with a name."""
        from dvc.stage import PipelineStage

        return [stage for stage in self._ask(lambda: self._repo.index.stages) if isinstance(stage, PipelineStage)]

    def _check_places(self) -> None:
        stages = self._ask(lambda: self._repo.index.stages)
        containment.check(self.root, [Path(output.fs_path) for stage in stages for output in stage.outs])

    def _stage(self, name: str) -> PipelineStage:
        for stage in self._stages():
            if stage.name == name:
                return stage
        known = ", ".join(sorted(stage.name for stage in self._stages()))
        raise WrongRequest(f"dvc.yaml has no stage {name!r}; it has {known}")
