"""Opens DVC's project so that every object a remote sends is hashed before it is taken."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dvc.repo import Repo


def project(root: Path) -> Repo:
    """The DVC project that holds `root`, with `verify` on for each of its remotes, whatever its settings say.

    DVC takes a remote object's name for its content unless told to hash what arrives. Raises DvcException.
    """
    from dvc.config import Config
    from dvc.repo import Repo

    # Not a Repo, which takes several times as long to open.
    folder = Repo.find_dvc_dir(str(root))
    remotes = Config(folder, local_dvc_dir=folder)["remote"]
    verified = {name: {**settings, "verify": True} for name, settings in remotes.items()}
    return Repo(str(root), config={"remote": verified})
