"""What dvc.lock records, now and at every commit, and the cached files that it names."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows import git, verified
from flows.faults import NotIntact, Refused
from flows.intact import Inspection, refuse
from flows.markdown import printable
from flows.md5 import md5_in, md5_of, md5_of_listing
from flows.redact import redact

LOCK = "dvc.lock"
HERE = "in the working tree, not committed"


class Unknown(Exception):
    """No dvc.lock records these bytes, or there is no project. One line."""


class NotFound(Exception):
    """What is recorded is not in DVC's cache here. One line."""


@dataclass(frozen=True)
class Version:
    """One content of dvc.lock and where it was first recorded."""

    recorded: str  # for people
    commit: str | None
    stages: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Entry:
    """A stage as one version records it."""

    stage: str
    version: Version

    @property
    def lock(self) -> dict[str, Any]:
        return self.version.stages[self.stage]


def first(versions: list[Version], stage: str, version: Version) -> Entry:
    """The same entry as the version has it that recorded it before all others."""
    lock = version.stages[stage]
    return Entry(stage, [one for one in versions if one.stages.get(stage) == lock][-1])


@contextmanager
def opened(root: Path) -> Iterator[Project]:
    """The project that holds `root`. Raises Unknown where there is none."""
    from dvc.exceptions import DvcException

    try:
        repo = verified.project(root)
    except DvcException as error:
        raise Unknown(f"{root}: {error}; start in the project's folder") from error
    with repo:
        yield Project(repo)


class Project:
    """What git and DVC's cache hold."""

    def __init__(self, repo: Any) -> None:
        self._repo = repo
        self._root = Path(repo.root_dir)
        self._listings: dict[str, dict[str, str] | None] = {}
        self._modules: dict[tuple[str, str], str | None] = {}

    def versions(self) -> list[Version]:
        """Each content that dvc.lock had, the newest first, as the commit has it that recorded it first."""
        found: dict[str, Version] = {}
        for commit, text, said in self._history():
            # From the newest on: an older commit with the same content is the one that recorded it.
            found.pop(text, None)
            found[text] = Version(said, commit, stages_of(text))
        here = self._root / LOCK
        if here.is_file() and (text := here.read_text(encoding="utf-8")) not in found:
            found = {text: self.here(), **found}
        if not found:
            raise Unknown(f"{here}: not found, and no commit has one; run `dvc repro`")
        return list(found.values())

    def _history(self) -> Iterator[tuple[str, str, str]]:
        for commit, said in git.commits_of(self._root, LOCK):
            content = git.content(self._root, commit, LOCK)
            if content:
                text = content.decode("utf-8", "replace")
                yield commit, text, printable(f"by commit {commit[:12]} of {said}")

    def md5_at(self, commit: str, path: str) -> str | None:
        """MD5 (hex) of a module as a commit has it; None where it has none."""
        if (commit, path) not in self._modules:
            content = git.content(self._root, commit, path)
            found = None if content is None else hashlib.md5(content, usedforsecurity=False).hexdigest()
            self._modules[commit, path] = found
        return self._modules[commit, path]

    def listing(self, out: dict[str, Any]) -> dict[str, str] | None:
        """MD5 by path inside an output, "" for one that is a file; None where the cache does not have it."""
        md5 = out.get("md5", "")
        if not md5.endswith(".dir"):
            return {"": md5}
        if md5 not in self._listings:
            path = self._object(md5)
            whole = path.is_file() and md5_of(path) == md5.removesuffix(".dir")
            entries = json.loads(path.read_bytes()) if whole else None
            self._listings[md5] = None if entries is None else {one["relpath"]: one["md5"] for one in entries}
        return self._listings[md5]

    def holds(self, out: dict[str, Any], path: str, md5: str | None) -> bool | None:
        """Whether the output had `md5` at `path`, which lies in it; None where the cache cannot tell."""
        if path == out["path"]:
            return bool(md5 == out.get("md5"))
        listing = self.listing(out)
        if listing is None:
            return None
        inside = path.removeprefix(f"{out['path']}/")
        if not (md5 or "").endswith(".dir"):
            return listing.get(inside) == md5
        below = {name.removeprefix(f"{inside}/"): one for name, one in listing.items() if name.startswith(f"{inside}/")}
        wanted = self.listing({"md5": md5})
        return md5_of_listing(below) == md5 if wanted is None else below == wanted

    def content(self, lock: dict[str, Any], path: str) -> Path | None:
        """The cached file that a stage's entry records at `path`; None where it is not in the cache."""
        for out in lock.get("outs", []):
            if within(path, out["path"]) and (listing := self.listing(out)) is not None:
                md5 = listing.get(path.removeprefix(out["path"]).lstrip("/"))
                if md5 and (found := self._object(md5)).is_file():
                    return found
        return None

    def here(self) -> Version:
        """What dvc.lock records in the working tree. Raises Unknown where there is none."""
        path = self._root / LOCK
        if not path.is_file():
            raise Unknown(f"{path}: not found; run `dvc repro`")
        return Version(HERE, None, stages_of(path.read_text(encoding="utf-8")))

    def at(self, commit: str) -> Version:
        """What dvc.lock records at a commit. Raises Unknown where that has none."""
        text = git.content(self._root, commit, LOCK)
        if text is None:
            raise Unknown(f"commit {commit[:12]} has no {LOCK}; was it made by this project?")
        return Version(f"by commit {commit[:12]}", commit, stages_of(text.decode("utf-8", "replace")))

    def fetched(self, version: Version, stage: str, path: str) -> Path:
        """The file that a committed version's stage wrote at `path`, from DVC's cache or else its remote.

        Raises Unknown where nothing of the kind is recorded, NotFound where neither has it, NotIntact for other bytes.
        """
        from dvc.exceptions import DvcException

        lock = version.stages.get(stage, {})
        if not any(within(path, out["path"]) for out in lock.get("outs", [])):
            raise Unknown(f"{LOCK} {version.recorded}: {stage} wrote no {path}")
        # A damaged object goes, so that a good one can be fetched.
        Inspection(self._repo).look(out for out in lock["outs"] if within(path, out["path"]))
        found = self.content(lock, path)
        why = ""
        if found is None:
            try:
                self._repo.fetch(targets=[path], revs=[version.commit], workspace=False)
            except (DvcException, OSError) as error:
                why = f" ({redact(str(error))})"
            self._listings = {md5: one for md5, one in self._listings.items() if one is not None}
            found = self.content(lock, path)
        if found is None and self._damaged_in_remote(lock, path):
            raise NotIntact(
                f"{path} as recorded {version.recorded}: the DVC remote has an object of that name with other bytes, "
                "which were not taken; `graft doctor --deep --repair` where it was made replaces them"
            )
        if found is None:
            raise NotFound(
                f"{path} as recorded {version.recorded} is neither in DVC's cache here nor in its remote{why}; push it "
                "where it was made (`dvc push`), and look at `dvc remote list`"
            )
        if md5_of(found) != f"{found.parent.name}{found.name}":
            raise NotIntact(f"{found}: not the bytes of {path} {version.recorded}; delete it and run again")
        return found

    def _damaged_in_remote(self, lock: dict[str, Any], path: str) -> bool:
        """Whether the default remote has, by the name of what an entry records at `path`, other bytes."""
        from dvc.exceptions import DvcException

        out = next(one for one in lock["outs"] if within(path, one["path"]))
        listing = self.listing(out)
        md5 = out.get("md5") if listing is None else listing.get(path.removeprefix(out["path"]).lstrip("/"))
        try:
            objects = self._repo.cloud.get_remote_odb()
            return bool(md5 and objects.exists(md5) and md5_in(objects, md5) != md5.removesuffix(".dir"))
        except (DvcException, OSError):
            return False

    def push(self, stages: list[str], commit: str) -> int:
        """Upload what stages made, as a commit records it, to DVC's default remote; how many objects were new there.

        Raises NotIntact, with nothing uploaded, where one is damaged and has no good copy; Refused.
        """
        from dvc.exceptions import DvcException

        here = self.here().stages
        outs = [out for stage in stages for out in here.get(stage, {}).get("outs", [])]
        refuse(Inspection(self._repo).look(outs), "nothing was pushed")
        try:
            return int(self._repo.push(targets=stages, revs=[commit], workspace=False))
        except (DvcException, OSError) as error:
            raise Refused(f"cannot push to DVC's remote: {redact(str(error))}; look at `dvc remote list`") from error

    def _object(self, md5: str) -> Path:
        return Path(self._repo.cache.local.path) / md5[:2] / md5[2:]


def stages_of(text: str) -> dict[str, dict[str, Any]]:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        found = YAML(typ="safe").load(text)
    except YAMLError:  # a commit with conflict marks
        return {}
    stages = found.get("stages") if isinstance(found, dict) else None
    return stages if isinstance(stages, dict) else {}


def within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder}/")
