"""Git, as the flows need it: which commit, is it clean, a working tree of another commit."""

from __future__ import annotations

import subprocess
from pathlib import Path

from flows.faults import Refused, WrongRequest


def commit_of(root: Path, ref: str) -> str:
    """The full SHA of a branch, tag or commit, fetched from the remote if it is not here yet. Raises WrongRequest."""
    for attempt in ("here", "fetched"):
        found = _git(root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}", check=False)
        if found.returncode == 0:
            return found.stdout.strip()
        # A branch that only the remote has is named origin/… here.
        if attempt == "here" and _git(root, "remote", check=False).stdout.strip():
            fetch(root)
    raise WrongRequest(f"git knows no commit {ref!r}, nor does its remote; push it first, or check the spelling")


def fetch(root: Path) -> None:
    """Fetch branches and tags from the remote; a remote that cannot be reached is not an error yet."""
    _git(root, "fetch", "--quiet", "--tags", "origin", "+refs/heads/*:refs/remotes/origin/*", check=False, timeout=120)


def changed_files(root: Path, paths: list[str]) -> list[str]:
    """Those of `paths` (tracked or not) that differ from HEAD. All tracked files where `paths` is empty."""
    which = ["--untracked-files=all", "--", *paths] if paths else ["--untracked-files=no"]
    lines = _git(root, "-c", "core.quotepath=off", "status", "--porcelain", "--no-renames", *which).stdout.splitlines()
    return [line[3:] for line in lines]


def is_tracked(root: Path, path: str) -> bool:
    """Whether git tracks this very file (a folder that only holds a .gitkeep is not tracked data)."""
    return (
        _git(root, "ls-files", "--error-unmatch", "--", path, check=False).returncode == 0 and (root / path).is_file()
    )


def switch(root: Path, commit: str) -> None:
    """Put the working tree at a commit, detached. Modified tracked files are not overwritten: that is Refused."""
    _git(root, "-c", "advice.detachedHead=false", "checkout", "--quiet", "--detach", commit)


def discard(root: Path, paths: list[str]) -> None:
    """Put tracked files back as HEAD has them."""
    _git(root, "checkout", "--quiet", "HEAD", "--", *paths, check=False)


def add_worktree(root: Path, folder: Path, commit: str) -> None:
    """A second working tree of this repository at `commit`; one left there by an earlier run is reset."""
    _git(root, "worktree", "prune")
    if (folder / ".git").exists():
        _git(folder, "checkout", "--quiet", "--force", "--detach", commit)
    else:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _git(root, "worktree", "add", "--quiet", "--force", "--detach", str(folder), commit)


def remove_worktree(root: Path, folder: Path) -> None:
    """Delete a working tree and all that is in it."""
    _git(root, "worktree", "remove", "--force", str(folder))


def commit_as_branch(worktree: Path, paths: list[str], branch: str, message: str) -> str:
    """Commit `paths` in a detached working tree and point `branch` at the commit; returns its SHA."""
    who = []
    if not _git(worktree, "config", "user.email", check=False).stdout.strip():
        who = ["-c", "user.name=graft", "-c", "user.email=graft@localhost"]
    _git(worktree, "add", "--", *paths)
    _git(worktree, *who, "commit", "--quiet", "--allow-empty", "--no-verify", "-m", message)
    _git(worktree, "branch", "--force", branch, "HEAD")
    return _git(worktree, "rev-parse", "HEAD").stdout.strip()


def _git(root: Path, *arguments: str, check: bool = True, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=root, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Refused(f"{root}: git {arguments[0]} did not work: {error}") from None
    if check and done.returncode:
        raise Refused(f"{root}: git {' '.join(arguments)}: {done.stderr.strip()}")
    return done
