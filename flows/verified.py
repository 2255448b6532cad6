"""Opens DVC's project so that every object a remote sends is hashed, and no remote is waited for for ever."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dvc.repo import Repo

# DVC takes a remote object's name for its content unless told to hash what arrives.
VERIFIED = {"verify": True}
# Seconds of silence; the libraries then try again, S3's up to 25 times. DVC refuses keys that a kind of remote does not
# have, so others get none; flows/transfer.py sets an end to all.
PATIENCE = {"connect_timeout": 10, "read_timeout": 20}
PATIENT = ("s3", "http", "https", "webdav", "webdavs")


def project(root: Path) -> Repo:
    """The DVC project that holds `root`, its remotes set as `settings` says. Raises DvcException."""
    from dvc.repo import Repo

    return Repo(str(root), config=settings(root))


def settings(root: Path) -> dict[str, Any]:
    """Settings for `Repo(config=...)`: the project's own remotes, with every object hashed and no wait for ever.

    What the project sets itself stays, but for `verify`. Raises DvcException where there is no project.
    """
    from dvc.config import Config
    from dvc.repo import Repo

    # Not a Repo, which takes several times as long to open.
    folder = Repo.find_dvc_dir(str(root))
    remotes = Config(folder, local_dvc_dir=folder)["remote"]
    return {"remote": {name: {**_patience(given), **given, **VERIFIED} for name, given in remotes.items()}}


def _patience(given: dict[str, Any]) -> dict[str, Any]:
    scheme = str(given.get("url", "")).partition("://")[0].lower()
    if scheme.startswith("webdav"):
        return {"timeout": PATIENCE["read_timeout"]}
    return PATIENCE if scheme in PATIENT else {}
