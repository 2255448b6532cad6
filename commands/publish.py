"""graft publish: puts the exported model where a model server looks for versions of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stages.core.errors import ConfigError


def publish(
    folder: Annotated[Path, typer.Argument(help="The model's folder at the server, e.g. /srv/models/flowers.")],
    version: Annotated[
        int | None, typer.Option(help="A whole number; without it, one more than the highest there.", min=0)
    ] = None,
    model: Annotated[Path, typer.Option(help="The folder that export wrote.")] = Path("data/export"),
) -> None:
    """Copy the SavedModel to FOLDER/VERSION, for TensorFlow Serving or KServe. It appears whole or not at all.

    labels.txt, the certificate and the model card go along in assets.extra/. Exit 2 where there is no exported model
    or the version exists, 4 where its files, or the copies made, are not those that were certified.
    """
    from stages.store import exported_files, model_versions

    if not (model / "saved_model/saved_model.pb").is_file():
        raise ConfigError(f"{model}: no exported SavedModel there; run dvc repro, or name its folder with --model")
    beside = [model / name for name in ("labels.txt", "certificate.json", "MODEL_CARD.md")]
    exported_files.check(model, "saved_model")
    place = model_versions.add(model / "saved_model", [file for file in beside if file.is_file()], folder, version)
    typer.echo(str(place))
    if (highest := model_versions.versions(folder)[-1]) != int(place.name):
        typer.echo(f"servers take the highest version unless told otherwise: {highest}")
