"""Whether what DVC holds is what dvc.lock records, byte by byte; what is not is mended or taken away.

DVC itself believes every object of its cache whose mode is 0444: a flipped one it checks out, calls up to date and
pushes. So each is hashed here before it is used. One that was found whole is remembered with its inode, size, mtime
and ctime and hashed again when one of them differs; `thorough` hashes always, the workspace's files too.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from flows import transfer
from flows.faults import NotIntact, Refused
from flows.md5 import listing_bytes, md5_of

MEMORY = Path(".graft/verified.json")
THREADS = 4  # hashing leaves Python's lock to others
PROTECTED = 0o444
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Damage:
    """A file that holds other bytes than recorded. `mended_from` says what it was replaced from, None where nothing
    could be."""

    path: str  # as the workspace names it: data/export/model.tflite
    place: str  # where the damaged bytes were: "DVC's cache (…)" or "the workspace"
    mended_from: str | None
    touched: bool  # whether the damaged file was taken away

    def __str__(self) -> str:
        after = f"replaced by the copy in {self.mended_from}" if self.mended_from else "no good copy was found"
        removed = "; removed, so that it is made again" if self.touched and not self.mended_from else ""
        what = after + removed if self.touched else "left as it is"
        return f"{self.path}: other bytes than recorded in {self.place}; {what}"


class Inspection:
    """Looks at the objects of one project. Not for two threads at once."""

    def __init__(self, repo: Any, thorough: bool = False, mend: bool = True, remote: str | None = None) -> None:
        """`repo` is DVC's, `remote` the name of where to look for good copies, by default the project's own."""
        self._repo, self._root = repo, Path(repo.root_dir)
        self._cache = Path(repo.cache.local.path)
        self._thorough, self._mend = thorough, mend
        self._remote = remote or repo.config["core"].get("remote")
        self._memory: dict[str, list[int]] = {}
        if not thorough:
            with suppress(OSError, ValueError):
                self._memory = dict(json.loads((self._root / MEMORY).read_text()))
        self._counting = Lock()
        self.objects = 0  # how many have been looked at
        self.hashed = 0  # bytes hashed now

    def look(self, outs: Iterable[Mapping[str, Any]]) -> list[Damage]:
        """Look at outputs as dvc.lock lists them ({path, md5, …}), and mend what can be mended."""
        found: list[Damage] = []
        before = dict(self._memory)
        for out in outs:
            md5 = str(out.get("md5") or "")
            if out.get("hash") != "md5" or not md5:
                continue
            if not md5.endswith(".dir"):
                found += self._files({str(out["path"]): md5})
                continue
            listing, damage = self._listing(str(out["path"]), md5)
            found += damage
            found += self._files({f"{out['path']}/{name}": one for name, one in listing.items()})
        if self._memory != before:
            self._remember()
        return found

    def missing(self, outs: Iterable[Mapping[str, Any]], parts: Iterable[str] = ()) -> list[str]:
        """Which files of outputs the cache does not have, by path; of `parts` of them alone, where any are given."""
        wanted = list(parts)
        gone: list[str] = []
        for out in outs:
            path, md5 = str(out["path"]), str(out.get("md5") or "")
            if out.get("hash") != "md5" or not md5:
                continue
            place = self._object(md5)
            if not place.is_file():
                gone.append(path)
            elif md5.endswith(".dir"):
                inside = {f"{path}/{one['relpath']}": one["md5"] for one in json.loads(place.read_bytes())}
                gone += [name for name, one in inside.items() if not self._object(one).is_file() and _in(name, wanted)]
        return gone

    def _listing(self, path: str, md5: str) -> tuple[dict[str, str], list[Damage]]:
        """MD5 by path inside a folder, as the cache's object says; empty where there is none that is whole."""
        place = self._object(md5)
        damage = []
        if place.exists() and not self._whole(md5):
            source = None
            if self._mend:
                place.unlink()
                source = self._listing_from_workspace(path, md5) or self._from_remote(md5)
            damage = [Damage(path, f"DVC's cache ({self._shown(place)})", source, self._mend)]
            if source is None:
                return {}, damage
        if not place.exists():
            return {}, damage
        return {one["relpath"]: one["md5"] for one in json.loads(place.read_bytes())}, damage

    def _files(self, files: dict[str, str]) -> list[Damage]:
        with ThreadPoolExecutor(THREADS) as pool:
            whole = dict(zip(files, pool.map(self._whole, files.values()), strict=True))
        found = []
        for path, md5 in files.items():
            if whole[path] is False:
                found += self._damaged_object(path, md5)
            if self._thorough:
                found += self._workspace(path, md5)
        return found

    def _whole(self, md5: str) -> bool | None:
        """Whether a cached object is what its name says; None where the cache does not have it."""
        place = self._object(md5)
        try:
            seen = place.stat()
        except FileNotFoundError:
            return None
        looks = [seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns]
        remembered = self._memory.get(md5) == looks
        with self._counting:
            self.objects += 1
            self.hashed += 0 if remembered else seen.st_size
        if remembered:
            return True
        if md5_of(place) != md5.removesuffix(".dir"):
            self._memory.pop(md5, None)
            return False
        self._memory[md5] = looks
        return True

    def _damaged_object(self, path: str, md5: str) -> list[Damage]:
        place, here = self._object(md5), self._root / path
        shown = f"DVC's cache ({self._shown(place)})"
        if not self._mend:
            return [Damage(path, shown, None, False)]
        # What was checked out from it looks unchanged to DVC and is as damaged.
        copy_is_bad = self._believed(here, md5) and md5_of(here) != md5
        found = []
        if not self._whole(md5):  # or else mended a moment ago: another file has the same bytes
            place.unlink(missing_ok=True)
            if here.is_file() and md5_of(here) == md5:
                self._put(here, place, PROTECTED)
                source: str | None = "the workspace"
            else:
                source = self._from_remote(md5)
            found = [Damage(path, shown, source, True)]
        return found + (self._replaced(path, md5) if copy_is_bad else [])

    def _workspace(self, path: str, md5: str) -> list[Damage]:
        """A file that DVC takes for what is recorded, and that is not. What DVC sees changed is its own matter."""
        here = self._root / path
        if not self._believed(here, md5):
            return []
        self.hashed += here.stat().st_size
        if md5_of(here) == md5:
            return []
        return self._replaced(path, md5) if self._mend else [Damage(path, "the workspace", None, False)]

    def _replaced(self, path: str, md5: str) -> list[Damage]:
        here, place = self._root / path, self._object(md5)
        source = "DVC's cache" if self._whole(md5) else self._from_remote(md5)
        if source:
            self._put(place, here, 0o666 & ~_umask())
        else:
            here.unlink()
        return [Damage(path, "the workspace", source, True)]

    def _believed(self, here: Path, md5: str) -> bool:
        """Whether DVC would take the file for `md5` without reading it: by inode, mtime and size."""
        if not here.is_file():
            return False
        _, known = self._repo.state.get(str(here), self._repo.fs)
        return known is not None and known.value == md5

    def _listing_from_workspace(self, path: str, md5: str) -> str | None:
        folder = self._root / path
        if not folder.is_dir():
            return None
        files = self._repo.dvcignore.find(self._repo.fs, str(folder))
        data = listing_bytes({Path(file).relative_to(folder).as_posix(): md5_of(Path(file)) for file in files})
        return "the workspace" if self._write(data, md5) else None

    def _from_remote(self, md5: str) -> str | None:
        """Fetch one object into the cache; None where there is no remote, or it does not have it whole."""
        if not self._remote:
            return None
        partial = self._partial(self._object(md5))
        try:
            transfer.fetch_object(self._root, self._remote, md5, partial)
            if md5_of(partial) == md5.removesuffix(".dir"):
                partial.chmod(PROTECTED)
                partial.replace(self._object(md5))
                return f"the remote {self._remote!r}"
        except TimeoutError as late:
            log.warning("the DVC remote %r sent no copy of %s: %s; it is not asked again", self._remote, md5, late)
            self._remote = None
        except (Refused, OSError):  # whatever it is, there is no good copy there for now
            log.debug("no good copy of %s in %s", md5, self._remote, exc_info=True)
        finally:
            partial.unlink(missing_ok=True)
        return None

    def _write(self, data: bytes, md5: str) -> bool:
        place = self._object(md5)
        partial = self._partial(place)
        try:
            partial.write_bytes(data)
            if md5_of(partial) != md5.removesuffix(".dir"):
                return False
            partial.chmod(PROTECTED)
            partial.replace(place)
            return True
        finally:
            partial.unlink(missing_ok=True)

    def _put(self, source: Path, target: Path, mode: int) -> None:
        """Copy by a rename: a new inode, so that neither DVC nor we take it for what was there."""
        partial = self._partial(target)
        try:
            with source.open("rb") as read, partial.open("xb") as file:
                while block := read.read(2**20):
                    file.write(block)
                file.flush()
                os.fsync(file.fileno())
            partial.chmod(mode)
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)

    def _partial(self, target: Path) -> Path:
        target.parent.mkdir(parents=True, exist_ok=True)
        return target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")

    def _object(self, md5: str) -> Path:
        return self._cache / md5[:2] / md5[2:]

    def _shown(self, place: Path) -> str:
        return os.path.relpath(place, self._root) if place.is_relative_to(self._root) else str(place)

    def _remember(self) -> None:
        """Losing it costs hashing again, so a disk that refuses is no matter."""
        path = self._root / MEMORY
        partial = self._partial(path)
        with suppress(OSError):
            partial.write_text(json.dumps(self._memory))
            partial.replace(path)
        partial.unlink(missing_ok=True)


def refuse(damage: Iterable[Damage], what: str) -> None:
    """Raise NotIntact naming what was not mended, if any; `what` says what is not done because of it."""
    left = [str(one) for one in damage if one.mended_from is None]
    if left:
        more = f"\nand {len(left) - 10} more" if len(left) > 10 else ""
        raise NotIntact("\n".join([f"{what}:", *left[:10]]) + f"{more}\nRun `dvc repro` to make them again")


def _in(path: str, parts: list[str]) -> bool:
    return not parts or any(f"{path}/".startswith(f"{part}/") for part in parts)


def _umask() -> int:
    now = os.umask(0)
    os.umask(now)
    return now
