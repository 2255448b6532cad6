"""graft versions: record the libraries that are installed, so that the stages that use them run again."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import typer

HEAD = (
    "# The libraries that this stage's modules import, a dependency of it in dvc.yaml: with another version it runs\n"
    "# again, and where another is installed it does not start. `graft versions` writes this file.\n"
)


def versions() -> None:
    """Bring stages/versions/ up to the installed libraries; a stage whose file changes is stale.

    Where constraints.txt pins what is installed, its lines are taken, those for other Pythons too, so that the file is
    the same on all of them. `make setup` does this after each change of packages.
    """
    from commands.checks.installed import constraints
    from commands.doctor import CODE
    from stages.store.params import STAGES
    from stages.store.versions import FOLDER, applies, installed_version, lines, pin

    pinned: dict[str, list[str]] = {}
    here: dict[str, str] = {}
    for one in constraints(CODE):
        marker = f" ; {one.marker}" if one.marker else ""
        pinned.setdefault(one.name, []).append(f"{one.name}=={pin(one)}{marker}")
        if applies(one):
            here[one.name] = pin(one)
    changed = 0
    for stage in STAGES:
        path = CODE / FOLDER / f"{stage}.txt"
        named = {one.name: pin(one) for one in lines(path) if applies(one)}
        written: list[str] = []
        for name in sorted(named):
            installed = installed_version(name) or here.get(name, named[name])
            written += pinned[name] if here.get(name) == installed else [f"{name}=={installed}"]
            if installed != named[name]:
                typer.echo(f"{stage}: {name} {named[name]} → {installed}")
        text = HEAD + "".join(f"{line}\n" for line in written)
        if text != path.read_text(encoding="utf-8"):
            _write(path, text)
            changed += 1
    if changed:
        typer.echo(f"wrote {changed} of {len(STAGES)} files of {FOLDER}; commit them, then `dvc repro`")
    else:
        typer.echo(f"{FOLDER} names what is installed")


def _write(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
