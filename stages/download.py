"""download: the source's images, packed into Parquet shards as they came.

Nothing is judged here: broken files come along, and validate says what is wrong with them.

Reads   download.source
Writes  data/download/{images/*.parquet, dataset.json, source.json}
Run     python -m stages.download
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from stages.core.errors import IntegrityError
from stages.core.parameters import Problem, StageParams
from stages.core.unpacking import Limits
from stages.store import documents, fetch, image_shards, outputs, params, process, sources
from stages.store.columns import Columns
from stages.store.kept_packing import KeptPacking

OUT = Path("data/download")


class DownloadParams(StageParams):
    """Where the images come from, and how much is taken on trust."""

    source: str = Field(
        "digits", min_length=1, description="'digits', or the path or URL of the images; a login goes into ~/.netrc"
    )  # fmt: skip
    watch: str = Field("data/images", min_length=1, description="path DVC watches; a source folder must be it")
    sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$", description="pin of an archive, Parquet or CSV file")
    images_per_shard: int = Field(256, ge=1, le=65536, description="images per Parquet file, on average")
    max_bytes: int = Field(50 * 2**30, ge=1, description="largest archive, in bytes, packed or unpacked")
    max_members: int = Field(2_000_000, ge=1, description="most files and folders in an archive")
    max_ratio: int = Field(200, ge=1, description="most unpacked bytes per packed byte")
    timeout_seconds: float = Field(60.0, gt=0.0, le=3600.0, description="longest silence of a server, in seconds")
    retries: int = Field(4, ge=0, le=20, description="tries after a first one that the network broke")
    max_missing_fraction: float = Field(
        0.0, ge=0.0, le=1.0, description="share of a CSV's rows without file and images without row"
    )
    file_column: str = Field("file", min_length=1, description="a CSV's column of paths, relative to the CSV")
    image_column: str = Field("image", min_length=1, description="a Parquet file's column of image bytes")
    label_column: str = Field("label", min_length=1, description="column of labels, in a CSV or Parquet file")
    split_column: str = Field("split", min_length=1, description="column of splits, which may be absent")

    def across(self, blocks: Mapping[str, StageParams]) -> Iterator[Problem]:
        """A pin needs a file, and dvc.yaml needs `watch`, which it cannot default."""
        if "watch" not in self.model_fields_set:
            yield Problem("download.watch", "missing; the path DVC watches for changes, e.g. data/images")
        if self.source == sources.DIGITS and self.sha256 is not None:
            yield Problem("download.sha256", "the built-in digits have no file to pin; must be null")


def main() -> str:
    settings = params.read(DownloadParams)
    sources.check_place(settings.source, settings.watch, OUT)
    with outputs.replacing(OUT) as (out,):
        summary, listing = pack(settings, out)
        if sources.is_listing(settings.watch) and listing != documents.read(Path(settings.watch).expanduser()):
            raise IntegrityError(
                f"download.watch: {settings.source!r} is not as {settings.watch} records it; run `graft add` to take "
                "it as it is now, which also packs it, or put the files back"
            )
    return summary


def pack(settings: DownloadParams, out: Path, kept: KeptPacking | None = None) -> tuple[str, dict[str, Any]]:
    """Pack the source into the empty folder `out`; returns the summary line, and what a listing records.

    `kept` spares what the run before did of a folder.
    """
    options = sources.Options(
        settings.sha256,
        Limits(settings.max_bytes, settings.max_members, settings.max_ratio),
        fetch.Patience(settings.timeout_seconds, settings.retries),
        Columns(settings.file_column, settings.image_column, settings.label_column, settings.split_column),
        settings.max_missing_fraction,
    )
    with sources.opened(settings.source, options, out / ".scratch", kept) as (source, sha256):
        written = image_shards.write(out / "images", source, settings.images_per_shard, kept)
    size = sum(record.size for record in source.records)
    given_splits = Counter(record.given_split for record in source.records if record.given_split is not None)
    dataset = {
        "format": source.format,
        "classes": source.classes,
        "images": len(source.records),
        "bytes": size,
        "given_splits": given_splits,
        "archive_sha256": sha256,
        "skipped": [{"name": name, "reason": reason} for name, reason in sorted(source.skipped.items())],
    }
    documents.write(out / "dataset.json", dataset)
    documents.write(out / "source.json", {"source": fetch.redacted(settings.source), "sha256": sha256})
    if kept:
        kept.found(source.files, {record.place: written.image_ids[record.name] for record in source.records})
    summary = (
        f"{len(source.records):,} images of {len(source.classes)} classes, {size / 1e6:,.1f} MB, packed from "
        f"{source.format} into {written.shards} shards; {len(source.skipped)} files skipped"
    )
    return summary, {**dataset, "sha256": written.sha256}


if __name__ == "__main__":
    process.run("download", main)
