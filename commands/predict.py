"""graft predict: classifies files and folders with the exported model."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
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


def predict(
    paths: Annotated[list[Path], typer.Argument(help="Image files, or folders to search for them.")],
    model: Annotated[Path, typer.Option(help="The folder that export wrote.")] = Path("data/export"),
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per image instead of a table.")] = False,
) -> None:
    """Name the class of each image. A file that cannot be read is reported and the rest go on.

    Exit 2 where a path or the model does not exist, 3 where no file could be classified.
    """
    missing = [str(path) for path in paths if not path.exists()]
    if missing:
        raise ConfigError(f"no such file or folder: {', '.join(missing)}")
    if not (model / "saved_model" / "saved_model.pb").is_file():
        raise ConfigError(f"{model}: no exported model there; run dvc repro, or name its folder with --model")
    files = list(found(paths))
    if not files:
        raise ConfigError(f"no image file ({', '.join(sorted(SUFFIXES))}) under {', '.join(map(str, paths))}")
    rows = list(classified(files, model))
    if as_json:
        for row in rows:
            sys.stdout.write(json.dumps(row, ensure_ascii=False) + "\n")
    else:
        Console(soft_wrap=True).print(_table(rows))
    if all("error" in row for row in rows):
        raise DataRejected(f"none of {len(rows)} files could be read as an image")


def found(paths: list[Path]) -> Iterator[Path]:
    """Files named, as they are; folders searched for image files, in name order."""
    for path in paths:
        if path.is_dir():
            yield from sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
        else:
            yield path


def classified(files: list[Path], model: Path) -> Iterator[dict[str, Any]]:
    """One row per file, in order: {file, label, probability, probabilities} or {file, error}."""
    from stages.store import process, tensorflow_runtime

    tensorflow_runtime.start(threads=2, seed=0)
    import numpy as np
    import tensorflow as tf

    from stages.core import images

    try:
        labels = (model / "labels.txt").read_text(encoding="utf-8").split("\n")[:-1]
        # Held here: the signature alone would not keep the model's variables alive.
        loaded = tf.saved_model.load(str(model / "saved_model"))
        signature = loaded.signatures["pixels"]
        size = signature.structured_input_signature[1]["pixels"].shape[1]
        classes = signature.structured_outputs["probabilities"].shape[1]
    except (OSError, ValueError, KeyError, tf.errors.OpError) as error:
        raise IntegrityError(f"{model}: not a model that export wrote ({error}); run dvc repro export") from error
    if len(labels) != classes:
        raise IntegrityError(f"{model}/labels.txt: {len(labels)} labels for {classes} classes; run dvc repro export")
    waiting = iter(process.progress(files, "predict", len(files)))
    while batch := list(islice(waiting, BATCH)):
        pixels: dict[Path, Any] = {}
        errors: dict[Path, str] = {}
        for file in batch:
            try:
                pixels[file] = images.resize(images.decode(_bytes_of(file)), size)
            except (images.Undecodable, OSError) as error:
                errors[file] = str(error)
        if pixels:
            answer = signature(pixels=tf.constant(np.stack(list(pixels.values())).astype(np.float32)))
            rows = dict(zip(pixels, answer["probabilities"].numpy(), strict=True))
        for file in batch:
            if file in errors:
                yield {"file": printable(str(file)), "error": errors[file]}
                continue
            best = int(rows[file].argmax())
            probabilities = {label: round(float(value), 6) for label, value in zip(labels, rows[file], strict=True)}
            yield {"file": printable(str(file)), "label": labels[best], "probability": probabilities[labels[best]],
                   "probabilities": probabilities}  # fmt: skip


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
        if "error" in row:
            table.add_row(escape(row["file"]), f"[red]{escape(row['error'])}[/]", "")
        else:
            table.add_row(escape(row["file"]), escape(row["label"]), f"{row['probability']:.4f}")
    return table
