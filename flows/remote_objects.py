"""Which objects that dvc.lock records a DVC remote really has, and bringing it those that it lost.

DVC asks a remote for the listing of a folder only and takes the files of it for granted, so it says that all is up to
date where some were lost, and `dvc push` uploads none of them (DVC#10977). Here each object is asked for by name.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.md5 import md5_in, md5_of

if TYPE_CHECKING:
    from dvc.repo import Repo

LISTING = ".dir"


class NotComparable(Exception):
    """A remote that keeps files under their own names, which has no objects to look for."""


@dataclass(frozen=True)
class Recorded:
    """An object that dvc.lock or a .dvc file names, and where it belongs; `listing` is the folder's it lies in."""

    md5: str
    path: str
    listing: str | None = None

    @property
    def is_listing(self) -> bool:
        return self.md5.endswith(LISTING)


@dataclass(frozen=True)
class Missing:
    """What a remote lacks: `dvc push` would bring all but the `lost`, whose folders' listings are there."""

    lost: list[Recorded]
    not_pushed: list[Recorded]

    def __iter__(self) -> Any:
        return iter([*self.lost, *self.not_pushed])


@dataclass(frozen=True)
class Repaired:
    """How an upload went: in the remote now, not here to be uploaded, and here but with other bytes."""

    uploaded: list[Recorded]
    not_here: list[Recorded]
    damaged: list[Recorded]


def cached(repo: Repo, md5: str) -> Path:
    """Where DVC's cache keeps an object."""
    return Path(repo.cache.local.path) / md5[:2] / md5[2:]


def is_whole(path: Path, md5: str) -> bool:
    """Whether a file's bytes are those its name says. Reads all of it: DVC itself believes any that is read-only."""
    return md5_of(path) == _bare(md5)


def recorded(repo: Repo) -> list[Recorded]:
    """Every path of every cached output, folders as their listings; of one whose listing is not here, that alone."""
    found: list[Recorded] = []
    for out in repo.index.outs:
        value = out.hash_info.value if out.hash_info else None
        if not value or not out.use_cache or out.hash_info.name != "md5":
            continue
        path = str(out.def_path)
        found.append(Recorded(value, path))
        if not value.endswith(LISTING):
            continue
        listing = cached(repo, value)
        if listing.is_file() and is_whole(listing, value):
            entries = json.loads(listing.read_bytes())
            found += [Recorded(entry["md5"], f"{path}/{entry['relpath']}", value) for entry in entries]
    return found


def once(wanted: Iterable[Recorded]) -> list[Recorded]:
    """The first of each object: files of the same bytes are one."""
    return list({one.md5: one for one in reversed(list(wanted))}.values())[::-1]


def odb(repo: Repo, remote: str | None) -> Any:
    """A remote's objects; the default one's for None. Raises NotComparable, DvcException where there is none."""
    found = repo.cloud.get_remote(remote)
    if found.worktree or found.fs.version_aware:
        raise NotComparable(f"{remote or found.name} keeps versions of files under their own names")
    return found.odb


def missing(objects: Any, wanted: Iterable[Recorded]) -> Missing:
    """Which of them a remote lacks. Nothing in the remote is changed."""
    asked = once(wanted)
    there = set(objects.list_oids_exists([one.md5 for one in asked]))
    gone = [one for one in asked if one.md5 not in there]
    lost = [one for one in gone if one.listing in there]
    return Missing(lost, [one for one in gone if one.listing not in there])


def damaged(objects: Any, wanted: Iterable[Recorded]) -> list[Recorded]:
    """Which of them a remote has with other bytes than their name says. Reads all of each."""
    return [one for one in once(wanted) if objects.exists(one.md5) and md5_in(objects, one.md5) != _bare(one.md5)]


def upload(repo: Repo, objects: Any, wanted: Iterable[Recorded]) -> Repaired:
    """Copy objects from the cache to a remote, each hashed first, listings last; asks again what is there now.

    A listing goes only where all it names is in the remote: it tells others that the folder is complete.
    """
    repaired = Repaired([], [], [])
    good: list[Recorded] = []
    for one in once(wanted):
        path = cached(repo, one.md5)
        kind = repaired.not_here if not path.is_file() else good if is_whole(path, one.md5) else repaired.damaged
        kind.append(one)
    for listings in (False, True):
        batch = [one for one in good if one.is_listing is listings]
        if listings:
            batch = [one for one in batch if not missing(objects, _inside(repo, one)).not_pushed]
        if batch:
            names = [one.md5 for one in batch]
            paths = [str(cached(repo, name)) for name in names]
            objects.add(paths, repo.cache.local.fs, names, check_exists=False, verify=False, on_error=_ignore)
    left = {one.md5 for one in missing(objects, good)}
    repaired.uploaded.extend(one for one in good if one.md5 not in left)
    return repaired


def _inside(repo: Repo, listing: Recorded) -> list[Recorded]:
    entries = json.loads(cached(repo, listing.md5).read_bytes())
    return [Recorded(entry["md5"], f"{listing.path}/{entry['relpath']}") for entry in entries]


def _bare(md5: str) -> str:
    return md5.removesuffix(LISTING)


def _ignore(_: str, error: BaseException) -> None:
    """What did not arrive is seen by asking for it."""
    if not isinstance(error, Exception):
        raise error
