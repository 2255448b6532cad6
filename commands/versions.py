"""graft versions: record the libraries that are installed, so that the stages that use them run again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stages.core.errors import ConfigError

HEAD = (
    "# The libraries that this stage's modules import, a dependency of it in dvc.yaml: with another version it runs\n"
    "# again, and where another is installed it does not start. `graft versions` writes this file.\n"
)


def versions(
    pinned: Annotated[
        bool, typer.Option("--pinned", help="Record what constraints.txt pins, whatever is installed.")
    ] = False,
) -> None:
    """Bring stages/versions/ up to the installed libraries; a stage whose file changes is stale.

    Where constraints.txt pins what is installed, its lines are taken, those for other Pythons too, so that the file is
    the same on all of them. `make setup` does it with --pinned after each change of packages.
    """
    from packaging.utils import canonicalize_name

    from commands.checks.installed import constraints
    from stages.store.outputs import replacing
    from stages.store.params import STAGES
    from stages.store.versions import FOLDER, applies, installed_version, pin, same

    root = Path.cwd()
    if not (root / "dvc.yaml").is_file() or not (root / "constraints.txt").is_file():
        raise ConfigError(f"no dvc.yaml and constraints.txt in {root}: run graft from the project's root")
    pins: dict[str, list[str]] = {}
    here: dict[str, str] = {}
    for one in constraints(root):
        library, marker = canonicalize_name(one.name), f" ; {one.marker}" if one.marker else ""
        pins.setdefault(library, []).append(f"{library}=={pin(one)}{marker}")
        if applies(one):
            here[library] = pin(one)
    texts: dict[str, bytes] = {}
    changed = 0
    for stage in STAGES:
        path = FOLDER / f"{stage}.txt"
        before, named = _named(path)
        written: list[str] = []
        for name in sorted(named):
            pin_here, installed = here.get(name), installed_version(name)
            wanted = (pin_here or installed if pinned else installed or pin_here) or named[name]
            written += pins[name] if name in here and same(wanted, here[name]) else [f"{name}=={wanted}"]
            if not same(wanted, named[name]):
                typer.echo(f"{stage}: {name} {named[name]} → {wanted}")
        texts[path.name] = (HEAD + "".join(f"{line}\n" for line in written)).encode()
        changed += texts[path.name] != before
    if changed:
        with replacing(FOLDER) as (partial,):
            for name, text in texts.items():
                (partial / name).write_bytes(text)
        typer.echo(f"wrote {changed} of {len(STAGES)} files of {FOLDER}; commit them, then `dvc repro`")
    else:
        typer.echo(f"{FOLDER} names what is {'pinned' if pinned else 'installed'}")


def _named(path: Path) -> tuple[bytes, dict[str, str]]:
    """A file's bytes, and the versions of the libraries it names, whatever else stands in it."""
    from packaging.utils import canonicalize_name

    from stages.store.versions import applies, pin, pinning

    if not path.is_file():
        raise ConfigError(f"{path}: not found; it names what {path.stem} depends on. git checkout -- {path}")
    before = path.read_bytes()
    named: dict[str, str] = {}
    for line in before.decode(errors="replace").splitlines():
        one = pinning(line)
        if one is not None and (applies(one) or canonicalize_name(one.name) not in named):
            named[canonicalize_name(one.name)] = pin(one)
    if not named:
        raise ConfigError(f"{path}: it names no library; git checkout -- {path}")
    return before, named
