"""Which files a run works on: this checkout, held by one run at a time, or a working tree of another commit."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from flows import git
from flows.faults import CheckoutBusy, WrongRequest
from flows.redact import has_login, redact

# Everything of ours that is neither git's nor DVC's: locks, checkpoints, working trees, the server of `make up`.
OURS = Path(".graft")
KEPT_TREES = 8


@contextmanager
def held(root: Path, wait: float, who: str, on_wait: Callable[[str], None]) -> Iterator[None]:
    """Hold the checkout for one run; others wait `wait` seconds, then raise CheckoutBusy naming the holder.

    The lock is the kernel's (flock), so it is gone with its holder however that ended. `on_wait` is
    told once, before waiting.
    """
    folder = root / OURS
    folder.mkdir(exist_ok=True)
    with (folder / "checkout.lock").open("a+") as file:
        deadline, told = time.monotonic() + wait, False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                file.seek(0)
                holder = file.read().strip() or "another run"
            if time.monotonic() >= deadline:
                raise CheckoutBusy(f"{root} is in use by {holder}; waited {wait:g} s. Run again when it has ended")
            if not told:
                on_wait(f"waiting up to {wait:g} s: {root} is in use by {holder}")
                told = True
            time.sleep(0.5)
        file.truncate(0)
        file.write(f"{who} (pid {os.getpid()} on {socket.gethostname()}, since {time.strftime('%Y-%m-%d %H:%M:%S')})")
        file.flush()
        yield


def identity(root: Path) -> str:
    """A random name that this checkout keeps: who finds it under a path sees this very checkout there."""
    path = root / OURS / "identity"
    known = path.read_text() if path.exists() else ""
    # A copy of the folder is another checkout.
    if not known.endswith(f" {root}"):
        path.parent.mkdir(exist_ok=True)
        known = f"{uuid.uuid4().hex} {root}"
        path.write_text(known)
    return known


@dataclass(frozen=True)
class Tree:
    """Where a run works. `branch` is where its result will be committed, None when it works in the checkout."""

    root: Path
    commit: str
    branch: str | None


@contextmanager
def tree_for(root: Path, ref: str | None, overrides: Mapping[str, Any]) -> Iterator[Tree]:
    """The files to run on.

    Without `ref` and `overrides`: the checkout as it stands, edits included. With either: a working
    tree of that commit (default HEAD) under .graft/trees, with the overrides written into its
    params.yaml and this checkout's DVC cache, so that nothing in the checkout changes and nothing
    already made is made again. After success `keep` commits the result and `clear` ends the tree; after
    a failure it stays as it is, to be looked at and to be resumed by the same request.
    """
    if ref is None and not overrides:
        yield Tree(root, "", None)
        return
    commit = git.commit_of(root, ref or "HEAD")
    asked = json.dumps([commit, dict(overrides)], sort_keys=True, default=str)
    name = hashlib.sha256(asked.encode()).hexdigest()[:12]
    tree = Tree(root / OURS / "trees" / name, commit, f"graft/{name}")
    git.add_worktree(root, tree.root, commit)
    override(tree.root / "params.yaml", overrides)
    outputs = _share_cache(root, tree.root)
    _link_sources(root, tree.root, outputs)
    yield tree


def keep(tree: Tree, message: str) -> tuple[str, str]:
    """Commit a finished tree's params.yaml and dvc.lock on its branch, where the tree then is; returns both.

    That is the branch's name and the commit's SHA.
    """
    assert tree.branch is not None
    files = [name for name in ("params.yaml", "dvc.lock") if (tree.root / name).exists()]
    return git.commit_as_branch(tree.root, files, tree.branch, message)


def clear(root: Path, tree: Tree) -> None:
    """Remove a kept tree's data, which DVC's cache has.

    The reports stay for the links that lead to them, until KEPT_TREES newer ones have come.
    """
    shutil.rmtree(tree.root / "data", ignore_errors=True)
    tree.root.touch()
    newest = sorted(tree.root.parent.iterdir(), key=lambda folder: folder.stat().st_mtime, reverse=True)
    for folder in newest[KEPT_TREES:]:
        git.remove_worktree(root, folder)


def override(path: Path, overrides: Mapping[str, Any]) -> None:
    """Set dotted keys (`fine_tune.tail.epochs`) in a params file, keeping its comments.

    Raises WrongRequest for a key whose block does not exist; whether the value is legal is for the
    stage to say (exit 2).
    """
    yaml = YAML()
    yaml.width = 4096
    try:
        values = yaml.load(path.read_text())
    except (OSError, YAMLError) as error:
        raise WrongRequest(f"{path}: cannot be read: {error}") from None
    if not isinstance(values, dict):
        raise WrongRequest(f"{path}: holds no blocks; must be a mapping of stage to parameters")
    for dotted, value in overrides.items():
        if has_login(value):
            raise WrongRequest(
                f"override {dotted!r}: the address {redact(str(value))!r} holds a login; put it into ~/.netrc, and out "
                "of the flow run's parameters, which Prefect keeps"
            )
        block, *keys = dotted.split(".")
        if not keys or block not in values:
            raise WrongRequest(
                f"override {dotted!r}: received no block of params.yaml before the first dot; "
                f"legal are {', '.join(values)}, as in fine_tune.tail.epochs"
            )
        here = values
        for key in [block, *keys[:-1]]:
            if here.get(key) is None:
                here[key] = {}
            here = here[key]
            if not isinstance(here, dict):
                raise WrongRequest(f"override {dotted!r}: {key} is a value, not a block")
        here[keys[-1]] = value
    with path.open("w") as file:
        yaml.dump(values, file)


def _share_cache(root: Path, tree: Path) -> list[Path]:
    """DVC in the tree uses the checkout's cache and private settings (remotes' credentials).

    Returns the paths in the tree that DVC or a stage puts there itself.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    private = root / ".dvc" / "config.local"
    if private.exists():
        shutil.copy(private, tree / ".dvc" / "config.local")
    try:
        with Repo(str(root)) as repo:
            cache = repo.cache.local.path
        # objects lie in <cache dir>/files/md5
        with Repo(str(tree)) as repo, repo.config.edit("local") as settings:
            settings.setdefault("cache", {})["dir"] = str(Path(cache).parent.parent)
        with Repo(str(tree)) as repo:
            return [Path(output.fs_path) for stage in repo.index.stages for output in stage.outs]
    except DvcException as error:
        raise WrongRequest(f"{tree}: DVC cannot read the project at this commit: {error}") from None


def _link_sources(root: Path, tree: Path, outputs: list[Path]) -> None:
    """Source images that neither git nor DVC carries are read where they are: a link in the tree leads there."""
    values = YAML(typ="safe").load((tree / "params.yaml").read_text())
    block = (values if isinstance(values, dict) else {}).get("download") or {}
    for given in {str(block.get("source") or ""), str(block.get("watch") or "")} - {""}:
        there, here = (root / given).resolve(), tree / given
        if Path(given).is_absolute() or not there.is_relative_to(root) or not there.exists():
            continue
        # What the commit or DVC has is this commit's own; a link above an output would have the tree write into
        # the checkout.
        carried = any(path.is_relative_to(here) or here.is_relative_to(path) for path in outputs)
        if carried or git.is_tracked(tree, given):
            continue
        if here.is_dir() and not here.is_symlink():
            shutil.rmtree(here)
        if not here.is_symlink() and not here.exists():
            here.parent.mkdir(parents=True, exist_ok=True)
            here.symlink_to(there)
