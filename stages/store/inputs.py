"""Before a stage that DVC started reads what other stages wrote: is it what they wrote, byte by byte?

DVC goes by inode, mtime and size, and believes what it put in place itself, also where its cache was damaged. So each
input is hashed here against dvc.lock; a file that was whole once is hashed again when its inode, size, mtime or ctime
differs.
"""

from __future__ import annotations

import configparser
import hashlib
import json
import logging
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from stages.core.errors import IntegrityError
from stages.store import outputs

MEMORY = Path(".graft/inputs.json")
IGNORED = (".gitignore", ".gitkeep")  # git's own; what is being written is named .*.partial
Md5s = dict[str, str]  # of files, by path in their folder

log = logging.getLogger(__name__)


def check(stage: str) -> None:
    """Raise IntegrityError naming a file of this stage's inputs that has other bytes than dvc.lock records.

    Only as a DVC stage, which DVC says by DVC_STAGE: who starts a stage by hand vouches for its inputs.
    """
    if "DVC_STAGE" not in os.environ:
        return
    stages, recorded = _read(Path("dvc.yaml")), _read(Path("dvc.lock"))
    needs = [str(need) for need in stages.get(stage, {}).get("deps", [])]
    memory = _Memory()
    for writer, entry in recorded.items():
        for out in entry.get("outs", []) if isinstance(entry, Mapping) else ():
            path = str(out.get("path"))
            wanted = [need for need in needs if need == path or need.startswith(f"{path}/")]
            if wanted and out.get("hash") == "md5":
                _check(writer, path, str(out.get("md5")), wanted, memory)
    memory.keep()


def _check(writer: str, path: str, md5: str, needs: list[str], memory: _Memory) -> None:
    found = _found(Path(path), memory)
    if not found:  # the stage itself says what is missing
        return
    if not md5.endswith(".dir"):
        expected = {"": md5}
    elif _md5_of_listing(found) == md5:
        return
    else:
        expected = _listing(md5)
    if not expected:
        log.warning("%s is not as dvc.lock records it, and DVC's cache does not say where; it is read as it is", path)
    for name, one in sorted(expected.items()):
        place = f"{path}/{name}" if name else path
        read = any(place == need or place.startswith(f"{need}/") for need in needs)
        if read and found.get(name, one) != one:
            memory.keep()
            raise IntegrityError(
                f"{place}: MD5 is {found[name]}, but dvc.lock records {one} as what {writer} wrote. Run `graft verify "
                f"--repair` and then `dvc repro`; if the change is meant, `dvc commit {writer}`"
            )


def _found(path: Path, memory: _Memory) -> Md5s:
    if path.is_file():
        return {"": memory.md5_of(path)}
    files = (file for file in sorted(path.rglob("*")) if file.is_file() and file.name not in IGNORED)
    return {
        file.relative_to(path).as_posix(): memory.md5_of(file)
        for file in files
        if not (file.name.startswith(".") and file.name.endswith(".partial"))
    }


def _md5_of_listing(md5s: Md5s) -> str:
    """DVC's name for a folder of these files: the MD5 of its listing as JSON, ordered by path."""
    entries = [{"md5": md5, "relpath": path} for path, md5 in sorted(md5s.items())]
    return hashlib.md5(json.dumps(entries, sort_keys=True).encode(), usedforsecurity=False).hexdigest() + ".dir"


def _listing(md5: str) -> Md5s:
    """What DVC's cache says of a folder; empty where it has nothing whole."""
    for cache in _caches():
        with suppress(OSError):
            data = (cache / "files/md5" / md5[:2] / md5[2:]).read_bytes()
            if hashlib.md5(data, usedforsecurity=False).hexdigest() == md5.removesuffix(".dir"):
                return {one["relpath"]: one["md5"] for one in json.loads(data)}
    return {}


def _caches() -> Iterator[Path]:
    for name in ("config.local", "config"):
        config = configparser.ConfigParser(interpolation=None)
        with suppress(configparser.Error, OSError, UnicodeDecodeError):
            config.read(Path(".dvc") / name)
        folder = config.get("cache", "dir", fallback=None)
        if folder:
            yield Path(".dvc") / folder
    yield Path(".dvc/cache")


def _read(path: Path) -> dict[str, Any]:
    """The stages of dvc.yaml or dvc.lock; none where it cannot be read, of which DVC tells."""
    try:
        value = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except (OSError, YAMLError, UnicodeDecodeError):
        return {}
    stages = value.get("stages") if isinstance(value, dict) else None
    return stages if isinstance(stages, dict) else {}


class _Memory:
    """MD5s of files by path, believed while inode, size, mtime and ctime stay. Losing it costs hashing again."""

    def __init__(self) -> None:
        self._known: dict[str, list[Any]] = {}
        with suppress(OSError, ValueError):
            known = json.loads(MEMORY.read_text())
            self._known = known if isinstance(known, dict) else {}
        self._changed = False

    def md5_of(self, path: Path) -> str:
        seen = path.stat()
        looks = [seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns]
        known = self._known.get(path.as_posix())
        if isinstance(known, list) and known[:-1] == looks:
            return str(known[-1])
        with path.open("rb") as file:
            md5 = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        self._known[path.as_posix()] = [*looks, md5]
        self._changed = True
        return md5

    def keep(self) -> None:
        if not self._changed:
            return
        partial = MEMORY.with_name(f".{MEMORY.name}.{secrets.token_hex(4)}.partial")
        known = {path: one for path, one in self._known.items() if Path(path).is_file()}
        with suppress(OSError):
            MEMORY.parent.mkdir(exist_ok=True)
            partial.write_text(json.dumps(known))
            partial.replace(MEMORY)
        with suppress(OSError):
            outputs.remove(partial)
