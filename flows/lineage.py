"""What made a file: found by its bytes in what dvc.lock records now, or recorded at any commit.

A dvc.lock may hold stages that ran one after another and no longer fit together, as when fine_tune ran again and export
did not. So each input is followed to an entry, of this dvc.lock or another commit's, whose output it really was.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flows.md5 import md5_of
from flows.recorded import LOCK, Entry, NotFound, Project, Unknown, Version, first, opened, within

VERSIONS = "stages/versions/"  # the libraries of each stage


class Lineage:
    """The entries that led to one file."""

    def __init__(self, project: Project, versions: list[Version], matches: list[tuple[Entry, str]]) -> None:
        """`matches` are the entries with an output of these bytes, and its path there; the first is followed."""
        entry, path = matches[0]
        self._project, self._versions, self._path = project, versions, path
        self._doubts: list[str] = []
        # The same outputs of other code or parameters are the same result; another result that shares this file is not.
        others = [other for other, _ in matches if other.lock.get("outs") != entry.lock.get("outs")]
        if others:
            self._doubts.append(
                f"the same bytes were also written in another run: by {others[0].stage}, recorded "
                f"{others[0].version.recorded}; give a file that tells them apart, as the model itself"
            )
        self._entries = {entry.stage: entry}
        self._entry = entry
        self._follow(entry)

    def record(self) -> dict[str, Any]:
        """Everything, as JSON can hold it."""
        ordered = [name for name in self._entry.version.stages if name in self._entries]
        ordered += [name for name in self._entries if name not in ordered]
        return {
            "path": self._path,
            "stage": self._entry.stage,
            "recorded": self._entry.version.recorded,
            "commit": self._entry.version.commit,
            "stages": [self._stage(self._entries[name]) for name in ordered],
            "code": self._code(),
            "weights": self._weights(),
            "images": self._images(),
            "doubts": self._doubts,
        }

    def images(self) -> list[dict[str, Any]]:
        """The rows of split.parquet: name, label, image_id (SHA-256 of the file's bytes), group and split.

        Raises NotFound where it is not in the cache, Unknown where the file was not made from a split.
        """
        import pyarrow.parquet as pq

        if "split" not in self._entries:
            raise Unknown(f"{self._path}: {self._entry.stage} comes before images are chosen")
        content = self._project.content(self._entries["split"].lock, "data/split/split.parquet")
        if content is None:
            raise NotFound("data/split/split.parquet of that run is not in DVC's cache here; run `dvc fetch -A split`")
        rows: list[dict[str, Any]] = pq.read_table(content).to_pylist()
        return rows

    def _follow(self, entry: Entry) -> None:
        for dep in entry.lock.get("deps", []):
            maker = self._maker(entry, dep)
            if maker and maker.stage not in self._entries:
                self._entries[maker.stage] = maker
                self._follow(maker)
            elif maker and maker.version is not self._entries[maker.stage].version:
                known = self._entries[maker.stage]
                if known.lock.get("outs") != maker.lock.get("outs"):
                    self._doubts.append(f"{dep['path']} came of another run of {maker.stage} than the rest did")

    def _maker(self, entry: Entry, dep: dict[str, Any]) -> Entry | None:
        """The entry of which `dep` was an output, or a part of one; None for what no stage writes."""
        candidates = [entry.version, *(one for one in self._versions if one is not entry.version)]
        guess = None
        for version in candidates:
            for stage, lock in version.stages.items():
                for out in lock.get("outs", []):
                    if stage == entry.stage or not within(dep["path"], out["path"]):
                        continue
                    fits = self._project.holds(out, dep["path"], dep.get("md5"))
                    if fits:
                        return first(self._versions, stage, version)
                    if fits is None and guess is None:
                        guess = first(self._versions, stage, version)
        if guess:
            self._doubts.append(
                f"{dep['path']}: taken to be {guess.stage}'s output {guess.version.recorded}; its listing is not in "
                f"DVC's cache here (`dvc fetch -A {guess.stage}`)"
            )
        return guess

    def _stage(self, entry: Entry) -> dict[str, Any]:
        deps = {dep["path"]: dep.get("md5", "") for dep in entry.lock.get("deps", [])}
        return {
            "stage": entry.stage,
            "recorded": entry.version.recorded,
            "commit": entry.version.commit,
            "cmd": entry.lock.get("cmd", ""),
            "params": {name: value for file in entry.lock.get("params", {}).values() for name, value in file.items()},
            "inputs": {path: md5 for path, md5 in deps.items() if not path.endswith(".py")},
            "modules": {path: md5 for path, md5 in deps.items() if path.endswith(".py")},
            "outputs": {out["path"]: out.get("md5", "") for out in entry.lock.get("outs", [])},
        }

    def _code(self) -> str:
        """Whether modules that ran, and versions of libraries, are the ones of the commit that records them."""
        ran = {
            (entry.version.commit, dep["path"], dep.get("md5"))
            for entry in self._entries.values()
            for dep in entry.lock.get("deps", [])
            if dep["path"].endswith(".py") or dep["path"].startswith(VERSIONS)
        }
        if not ran:
            return "no module is recorded"
        paths = {path for _, path, _ in ran}
        count = sum(path.endswith(".py") for path in paths)
        said = f"{count} module{'s' if count != 1 else ''}"
        if count < len(paths):
            said += f" and the versions of {len(paths) - count} stages' libraries"
        commits = {entry.version.commit for entry in self._entries.values()}
        if None in commits:
            return f"hashes of {said} are recorded; commit dvc.lock to tie them to a revision"
        names = ", ".join(sorted(str(commit)[:12] for commit in commits))
        different = {path for commit, path, md5 in ran if commit and self._project.md5_at(commit, path) != md5}
        if different:
            listed = ", ".join(sorted(different))
            return f"of {said} that ran {len(different)} are not as committed at {names}: {listed}"
        return f"{said} ran, as committed at {names}"

    def _weights(self) -> str:
        trunk = self._json("feature_extract", "data/feature_extract/trunk.json")
        if trunk is None:
            return "not in DVC's cache here" if "feature_extract" in self._entries else "none"
        settings = trunk["settings"]
        return (
            f"{settings['backbone']} {settings['alpha']:g}, {settings['weights']}: SHA-256 {trunk['weights_digest']} "
            "over all its tensors"
        )

    def _images(self) -> str:
        split = self._json("split", "data/split/split.json")
        if split is None:
            return "not in DVC's cache here" if "split" in self._entries else "none chosen yet"
        counts = ", ".join(f"{name} {count:,}" for name, count in split["images"].items())
        return f"{counts}: SHA-256 {split['digest']} over ids, labels and splits; --images lists them"

    def _json(self, stage: str, path: str) -> Any:
        if stage not in self._entries:
            return None
        content = self._project.content(self._entries[stage].lock, path)
        return None if content is None else json.loads(content.read_bytes())


@contextmanager
def trace(root: Path, file: Path) -> Iterator[Lineage]:
    """The lineage of a file or folder, by its bytes, in the project that holds `root`.

    Raises Unknown where nothing recorded has these bytes, or for no project; NotFound where too little is in the
    cache to tell.
    """
    wanted = [md5_of(path) for path in (sorted(file.rglob("*")) if file.is_dir() else [file]) if path.is_file()]
    if not wanted:
        raise Unknown(f"{file}: holds no file")
    with opened(root) as project:
        versions = project.versions()
        unseen = 0
        matches: list[tuple[Entry, str]] = []
        # The last that recorded it: later stages of one run are recorded after earlier ones.
        for version in versions:
            for stage in reversed(version.stages):
                for out in version.stages[stage].get("outs", []):
                    listing = project.listing(out)
                    if listing is None:
                        unseen += 1
                    elif set(wanted) <= set(listing.values()):
                        matches.append((first(versions, stage, version), _place(out["path"], listing, wanted)))
        if matches:
            yield Lineage(project, versions, matches)
            return
    looked = f"{len(versions)} version{'s' if len(versions) != 1 else ''} of {LOCK}"
    if unseen:
        raise NotFound(
            f"{file}: not among what DVC's cache here holds of {looked}; {unseen} outputs are not in it. Run "
            "`dvc fetch -A` and try again"
        )
    raise Unknown(f"{file}: no stage wrote these bytes, by {looked}; was it changed, or made in another project?")


def _place(out: str, listing: dict[str, str], wanted: list[str]) -> str:
    """Where the wanted files lie in an output: a file, or the folder that holds them all."""
    names = [name for name, md5 in listing.items() if md5 in wanted]
    inside = names[0] if len(wanted) == 1 else posixpath.commonpath(names)
    return f"{out}/{inside}".rstrip("/")
