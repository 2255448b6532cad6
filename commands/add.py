"""graft add: take a large folder of images as it is now, without DVC looking at every file of it."""

from __future__ import annotations

import gc
import hashlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stages.core.errors import Busy, ConfigError, EnvironmentFault, IntegrityError

if TYPE_CHECKING:
    from dvc.repo import Repo

MEMORY = Path(".graft/packing")


def add(
    push: Annotated[bool, typer.Option("--push", help="Push it to the default DVC remote, too.")] = False,
    held: Annotated[bool, typer.Option("--held", hidden=True, help="A flow, which holds the checkout, asks.")] = False,
) -> None:
    """Pack what changed in download.source, record it in download.watch and in dvc.lock, as `dvc repro -s download`.

    Only changed files are read and only their shards are written again. Commit download.watch and dvc.lock to git.
    """
    from stages import download
    from stages.store import documents, outputs, params, sources
    from stages.store.kept_packing import KeptPacking

    settings = params.read_alone("download")
    assert isinstance(settings, download.DownloadParams)
    if not sources.is_listing(settings.watch):
        raise ConfigError(
            f"download.watch: received {settings.watch!r}, which DVC itself looks through: `dvc repro` notices what "
            f"changes there. For `graft add` it must be a file named *{sources.LISTING}, e.g. "
            f"data/images{sources.LISTING}"
        )
    sources.check_place(settings.source, settings.watch, download.OUT)
    where = str(Path(settings.source).expanduser().resolve())
    # Of 100,000 files a few million small objects are made, none of them in a circle: looking for circles in them
    # again and again would take as long as the work.
    gc.disable()
    with nullcontext() if held else _checkout(), _project() as repo:
        kept = KeptPacking(MEMORY / hashlib.sha256(where.encode()).hexdigest()[:16], download.OUT / "images")
        with outputs.replacing(download.OUT) as (out,):
            summary, listing = download.pack(settings, out, kept)
        documents.write(Path(settings.watch).expanduser(), listing)
        # As having run just now. Without linking again: the shards are to stay the files they are, so that the next
        # run knows them.
        repo.commit("download", force=True, relink=False)
        kept.save()
        typer.echo(f"add: {summary}")
        if push:
            typer.echo(f"pushed {_push(repo):,} objects")


def _push(repo: Repo) -> int:
    """How many objects were new to the remote. Raises IntegrityError, with nothing pushed, EnvironmentFault."""
    from dvc.exceptions import DvcException

    from flows.faults import NotIntact
    from flows.intact import Inspection, refuse

    try:
        outs = [{"path": out.def_path, **out.hash_info.to_dict(), "hash": "md5"} for out in _download(repo).outs]
        refuse(Inspection(repo).look(outs), "packed and recorded, but not pushed")
        return int(repo.push(targets=["download"]))
    except NotIntact as error:
        raise IntegrityError(str(error)) from error
    except (DvcException, OSError) as error:
        raise EnvironmentFault(
            f"packed and recorded, but not pushed ({error}); look at `dvc remote list` and run `graft add --push` again"
        ) from error


def _download(repo: Repo) -> Any:
    (stage,) = repo.stage.collect("download")
    return stage


@contextmanager
def _checkout() -> Iterator[None]:
    """Hold the checkout against flows, which would find other images between two stages. Raises Busy."""
    from flows import checkout
    from flows.faults import CheckoutBusy

    try:
        with checkout.held(Path.cwd(), 0.0, "graft add", lambda _: None):
            yield
    except CheckoutBusy as busy:
        raise Busy(str(busy)) from busy


@contextmanager
def _project() -> Iterator[Repo]:
    """DVC's project, with download's output held against every other `dvc repro` and `graft add`.

    Raises Busy where it is in use, EnvironmentFault with whatever else DVC says.
    """
    from dvc.exceptions import DvcException
    from dvc.lock import LockError
    from dvc.repo import Repo
    from dvc.rwlock import rwlock

    from flows import verified
    from flows.rwlock import mend

    try:
        mend(Path.cwd())  # a killed process may have left DVC's list of locks cut off
        with Repo(".", _wait_for_lock=True, config=verified.settings(Path.cwd())) as repo:
            stage = _download(repo)
            outs, deps = ([one.fs_path for one in some] for some in (stage.outs, stage.deps))
            hardlink = repo.config["core"].get("hardlink_lock", False)
            # Under the name DVC gives this process, for it takes the lock once more when it commits the stage.
            with rwlock(repo.tmp_dir, repo.fs, " ".join(sys.argv), deps, outs, hardlink):
                yield repo
    except LockError as error:
        raise Busy(f"data/download is in use: {error}; run `graft add` again when that has ended") from error
    except DvcException as error:
        raise EnvironmentFault(f"DVC: {error}; then run it again") from error
