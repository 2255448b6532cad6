"""Git, as the flows need it: which commit, is it clean, a working tree of another commit."""

from __future__ import annotations

import itertools
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from flows.faults import CheckoutBusy, Refused, WrongRequest

CONFLICT = re.compile(rb"^(<{7}|>{7}) ", re.MULTILINE)


class TagTaken(CheckoutBusy):
    """Another process or machine made the tag first."""


def commit_of(root: Path, ref: str) -> str:
    """The full SHA of a branch, tag or commit, after asking the remote for news.

    Of a branch that is both here and there, the one that contains the other. Raises WrongRequest where
    neither knows it, or where both have gone their own way.
    """
    here = _resolve(root, ref)
    # A full SHA means one thing only, and HEAD what is here.
    if here and ref in (here, "HEAD"):
        return here
    if "origin" in _git(root, "remote").stdout.split():
        # One that cannot be reached is no error yet: what is asked for may be here.
        everything = ["--tags", "origin", "+refs/heads/*:refs/remotes/origin/*"]
        _git(root, "fetch", "--quiet", *everything, check=False, timeout=120)
    here, there = _resolve(root, ref), _resolve(root, f"refs/remotes/origin/{ref}")
    found = here or there
    if found is None:
        raise WrongRequest(f"git knows no commit {ref!r}, nor does its remote; push it first, or check the spelling")
    if here is None or there is None or here == there or _contains(root, here, there):
        return found
    if _contains(root, there, here):
        return there
    raise WrongRequest(f"{ref} here and origin/{ref} have diverged; name the commit, or bring them together")


def _resolve(root: Path, ref: str) -> str | None:
    found = _git(root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}", check=False)
    return found.stdout.strip() if found.returncode == 0 else None


def _contains(root: Path, commit: str, older: str) -> bool:
    return _git(root, "merge-base", "--is-ancestor", older, commit, check=False).returncode == 0


def changed_files(root: Path, paths: list[str]) -> list[str]:
    """Those of `paths` (tracked or not) that differ from HEAD. All tracked files where `paths` is empty."""
    which = ["--untracked-files=all", "--", *paths] if paths else ["--untracked-files=no"]
    lines = _git(root, "-c", "core.quotepath=off", "status", "--porcelain", "--no-renames", *which).stdout.splitlines()
    return [line[3:] for line in lines]


def is_conflicted(text: bytes) -> bool:
    """Whether a file's text holds the marks that a merge puts around both sides of a conflict."""
    return bool(CONFLICT.search(text))


def is_tracked(root: Path, path: str) -> bool:
    """Whether git tracks this file, or anything in this folder but what keeps the folder there."""
    names = _git(root, "ls-files", "-z", "--", path).stdout.split("\0")
    return any(name and not keeps_folder(name) for name in names)


def keeps_folder(path: str) -> bool:
    """Whether a file is there only so that git has its folder."""
    return Path(path).name in (".gitkeep", ".gitignore")


def commits_of(root: Path, path: str) -> list[tuple[str, str]]:
    """(SHA, `date author: subject`) of the commits of all branches and tags that changed a file, the newest first.

    Also those of a branch that was merged with another's file kept, and is gone. Empty where the folder is in no
    repository.
    """
    done = _git(root, "log", "--all", "--full-history", "--format=%H %cs %an: %s", "--", path, check=False)
    return [(line[:40], line[41:]) for line in done.stdout.splitlines()]


def content(root: Path, commit: str, path: str) -> bytes | None:
    """A file as a commit has it; None where it has none. `path` is relative to `root`."""
    command = ["git", "show", f"{commit}:./{path}"]
    # Not _git, which takes line ends for its own.
    done = subprocess.run(command, cwd=root, capture_output=True, timeout=60, stdin=subprocess.DEVNULL)
    return done.stdout if done.returncode == 0 else None


@dataclass(frozen=True)
class Tag:
    """An annotated tag; `commit` is what it points at, `time` seconds since 1970, `message` all but its first line."""

    name: str
    commit: str
    time: int
    message: str


def tags(root: Path, *patterns: str) -> list[Tag]:
    """The annotated tags whose names match one of the patterns, as `classifier#*`, in no order."""
    fields = "%00".join(
        ("%(refname:lstrip=2)", "%(*objecttype)", "%(*objectname)", "%(taggerdate:unix)", "%(contents:body)")
    )
    wanted = [f"refs/tags/{pattern}" for pattern in patterns]
    text = _git(root, "for-each-ref", f"--format={fields}%00", *wanted).stdout
    parts = text.split("\0")[:-1]
    rows = [
        [one.lstrip("\n") if at == 0 else one for at, one in enumerate(parts[start : start + 5])]
        for start in range(0, len(parts), 5)
    ]
    return [Tag(name, commit, int(time or 0), body) for name, kind, commit, time, body in rows if kind == "commit"]


def create_tags(root: Path, commit: str, names: Sequence[str], message: str, time: int) -> dict[str, str]:
    """Annotated tags at a commit, all or none; each name with its tag object's SHA.

    Raises TagTaken where one is there already, also where another process makes it at this moment.
    """
    made = {}
    who = _git(root, *_author(root), "var", "GIT_COMMITTER_IDENT").stdout.rpartition(">")[0]
    for name in names:
        text = f"object {commit}\ntype commit\ntag {name}\ntagger {who}> {time} +0000\n\n{message}\n"
        made[name] = _git(root, "mktag", stdin=text).stdout.strip()
    orders = ["start", *(f"create refs/tags/{name} {sha}" for name, sha in made.items()), "prepare", "commit"]
    done = _git(root, "update-ref", "--stdin", check=False, stdin="\n".join(orders) + "\n")
    if done.returncode:
        raise TagTaken(f"{', '.join(names)}: {done.stderr.strip()}")
    return made


def delete_tags(root: Path, made: Mapping[str, str]) -> None:
    """Take back tags that `create_tags` made, if they are still those."""
    orders = "".join(f"delete refs/tags/{name} {sha}\n" for name, sha in made.items())
    _git(root, "update-ref", "--stdin", stdin=orders)


def push_tags(root: Path, names: Sequence[str]) -> None:
    """Send tags to `origin`, all or none. Raises TagTaken where it has others of these names, else Refused."""
    refs = [f"refs/tags/{name}" for name in names]
    done = _git(root, "push", "--quiet", "--atomic", "origin", *refs, check=False, timeout=300)
    if done.returncode:
        why = done.stderr.strip()
        raise (TagTaken if "already exists" in why or "rejected" in why else Refused)(f"{root}: git push: {why}")


def fetch_tags(root: Path) -> None:
    """Bring origin's tags. Raises Refused where it cannot be reached, or has another tag of a name that is here."""
    _git(root, "fetch", "--quiet", "--tags", "origin", timeout=120)


def beyond(root: Path, commit: str) -> set[str]:
    """The commits of all branches and tags that `commit` does not contain."""
    return set(_git(root, "rev-list", "--all", "--not", commit).stdout.split())


def switch(root: Path, commit: str) -> None:
    """Put the working tree at a commit, detached. Modified tracked files are not overwritten: that is Refused."""
    _git(root, "-c", "advice.detachedHead=false", "checkout", "--quiet", "--detach", commit)


def discard(root: Path, path: str) -> None:
    """Put a file back as HEAD has it: gone where HEAD has none."""
    if _git(root, "cat-file", "-e", f"HEAD:{path}", check=False).returncode == 0:
        _git(root, "checkout", "--quiet", "HEAD", "--", path)
    else:
        _git(root, "rm", "--quiet", "--cached", "--ignore-unmatch", "--", path)
        (root / path).unlink(missing_ok=True)


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


def commit_as_branch(worktree: Path, paths: list[str], name: str, message: str) -> tuple[str, str]:
    """Commit `paths` in a detached working tree on a branch of its own; returns the branch and the commit's SHA.

    An existing branch is never moved, because somebody may have committed to it: one with the same content is
    the answer, beside any other a branch `name`-2, -3 … is made. The working tree is then at that commit, detached.
    """
    settings = ["-c", "commit.gpgsign=false", *_author(worktree)]  # nobody is there to type a passphrase
    _git(worktree, "add", "--", *paths)
    _git(worktree, *settings, "commit", "--quiet", "--allow-empty", "--no-verify", "-m", message)
    made = _git(worktree, "rev-parse", "HEAD^{tree}").stdout.strip()
    for number in itertools.count(1):
        branch = name if number == 1 else f"{name}-{number}"
        there = _git(worktree, "rev-parse", "--verify", "--quiet", f"refs/heads/{branch}^{{tree}}", check=False)
        if there.returncode:
            _git(worktree, "branch", branch, "HEAD")
        elif there.stdout.strip() != made:
            continue
        commit = _git(worktree, "rev-parse", f"refs/heads/{branch}").stdout.strip()
        switch(worktree, commit)
        return branch, commit
    raise AssertionError


def _author(root: Path) -> list[str]:
    """Settings that name somebody where git's own do not."""
    if _git(root, "config", "user.email", check=False).stdout.strip():
        return []
    return ["-c", "user.name=graft", "-c", "user.email=graft@localhost"]


def _git(
    root: Path, *arguments: str, check: bool = True, timeout: float = 60, stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=root, capture_output=True, text=True, timeout=timeout, input=stdin
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Refused(f"{root}: git {arguments[0]} did not work: {error}") from None
    if check and done.returncode:
        raise Refused(f"{root}: git {' '.join(arguments)}: {done.stderr.strip()}")
    return done
