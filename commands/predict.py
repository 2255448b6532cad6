"""graft predict: classifies files and folders with the exported model."""

from __future__ import annotations

import glob
import json
import re
import sys
from collections.abc import Iterator
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from stages.core.errors import ConfigError, DataRejected, IntegrityError
from stages.core.file_names import printable

SUFFIXES = {".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff"}  # looked for inside folders
BATCH = 32
MAX_BYTES = 2**30


class Format(StrEnum):
    """What export writes; see stages/store/exported.py."""

    saved_model = "saved_model"
    keras = "keras"
    litert = "litert"
    litert_int8 = "litert_int8"
    openvino = "openvino"
    onnx = "onnx"


def predict(
    paths: Annotated[
        list[str], typer.Argument(help="Image files, folders to search for them, or patterns as 'a*.jpg'.")
    ],
    model: Annotated[Path, typer.Option(help="The folder that export wrote.")] = Path("data/export"),
    format_: Annotated[Format, typer.Option("--format", help="Which exported model answers.")] = Format.saved_model,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per image instead of a table.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="CSV instead of a table.")] = False,
) -> None:
    """Name the class of each image. A file that cannot be read is reported and the rest go on.

    Exit 2 where a path or the model does not exist, 3 where no file could be classified, 4 where the model's files are
    not those that its certificate.json names.
    """
    if as_json and as_csv:
        raise ConfigError("--json and --csv: received both; choose one")
    named = list(expanded(paths))
    missing = [str(path) for path in named if not path.exists()]
    if missing:
        raise ConfigError(f"no such file or folder: {', '.join(missing)}")
    if not (model / "labels.txt").is_file():
        raise ConfigError(f"{model}: no exported model there; run dvc repro, or name its folder with --model")
    files = list(found(named))
    if not files:
        raise ConfigError(f"no image file ({', '.join(sorted(SUFFIXES))}) under {', '.join(paths)}")
    rows = list(classified(files, model, format_.value))
    if as_json:
        for row in rows:
            sys.stdout.write(json.dumps(row, ensure_ascii=False) + "\n")
    elif as_csv:
        _write_csv(rows)
    else:
        Console(soft_wrap=True).print(_table(rows))
    if all("error" in row for row in rows):
        raise DataRejected(f"none of {len(rows)} files could be read as an image")


def expanded(paths: list[str]) -> Iterator[Path]:
    """Paths as they are, and what a pattern (* ? [ ]) matches where nothing is called so."""
    for path in paths:
        matches = [] if Path(path).exists() else sorted(glob.glob(path, recursive=True))
        yield from map(Path, matches or [path])


def found(paths: list[Path]) -> Iterator[Path]:
    """Files named, as they are; folders searched for image files, in name order."""
    for path in paths:
        if path.is_dir():
            yield from sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
        else:
            yield path


def classified(files: list[Path], model: Path, format_: str) -> Iterator[dict[str, Any]]:
    """One row per file, in order: {file, label, probability, probabilities} or {file, error}."""
    import numpy as np

    from stages.core import images
    from stages.store import exported_files, process, runtimes

    exported_files.check(model, format_)
    labels = (model / "labels.txt").read_text(encoding="utf-8").split("\n")[:-1]
    runtime = runtimes.opened(format_, model)
    if len(labels) != runtime.classes:
        said = f"{len(labels)} labels for {runtime.classes} classes"
        raise IntegrityError(f"{model}/labels.txt: {said}; run dvc repro export")
    waiting = iter(process.progress(files, "predict", len(files)))
    while batch := list(islice(waiting, BATCH)):
        pixels: dict[Path, Any] = {}
        errors: dict[Path, str] = {}
        for file in batch:
            try:
                pixels[file] = images.decode_resized(_bytes_of(file), runtime.side)
            except (images.Undecodable, OSError) as error:
                errors[file] = str(error)
        if pixels:
            rows = dict(zip(pixels, runtime.ask(np.stack(list(pixels.values()))), strict=True))
        for file in batch:
            if file in errors:
                yield {"file": printable(str(file)), "error": errors[file]}
                continue
            best = int(rows[file].argmax())
            probabilities = {label: round(float(value), 6) for label, value in zip(labels, rows[file], strict=True)}
            yield {"file": printable(str(file)), "label": labels[best], "probability": probabilities[labels[best]],
                   "probabilities": probabilities}  # fmt: skip


def _write_csv(rows: list[dict[str, Any]]) -> None:
    from stages.store import tables

    columns = ("file", "label", "probability", "error")
    tables.write_csv_to(sys.stdout, [{name: row.get(name, "") for name in columns} for row in rows], columns)


def _bytes_of(file: Path) -> bytes:
    """A regular file's bytes; a pipe would wait for ever, a device never end."""
    if not file.is_file():
        raise OSError("not a regular file")
    if file.stat().st_size > MAX_BYTES:
        raise OSError(f"{file.stat().st_size} bytes; at most {MAX_BYTES} are read")
    return file.read_bytes()


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table("file", "label", "probability")
    for row in rows:
        file = _plain(row["file"])
        if "error" in row:
            table.add_row(file, f"[red]{_plain(row['error'])}[/]", "")
        else:
            table.add_row(file, _plain(row["label"]), f"{row['probability']:.4f}")
    return table


def _plain(text: str) -> str:
    """A text that neither Rich nor the terminal takes for a command: a file's name may hold an escape sequence."""
    return escape(re.sub(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", lambda odd: f"⟨U+{ord(odd[0]):04X}⟩", text))
