"""params.yaml, and the pretrained weights it names: is the file there, and the one that was pinned?"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from commands.checks.finding import Finding, ok, problem, warning
from stages.core import catalogue
from stages.core.errors import ConfigError, GraftError, IntegrityError
from stages.store import hashes, params

NAME = "weights"


def named(root: Path) -> Iterator[Finding]:
    """The base's weights. Raises ConfigError where params.yaml is not legal."""
    settings = params.read_all(root / "params.yaml")["feature_extract"].model_dump()
    backbone, weights, pin = (settings[key] for key in ("backbone", "weights", "weights_sha256"))
    given = backbone if catalogue.is_local(backbone) else weights
    if given == "imagenet":
        yield _imagenet(backbone, settings["alpha"], settings["image_size"])
        return
    path = root / Path(given).expanduser()
    if not path.is_file():
        yield problem(
            NAME, ConfigError, f"{given} is no file", "put it there, or change feature_extract in params.yaml"
        )
        return
    try:
        hashes.check_pin(path, pin, "feature_extract.weights_sha256")
    except GraftError as error:
        yield problem(
            NAME, IntegrityError, str(error), "get the file again from where it came, or pin what you mean to use"
        )
    else:
        yield ok(NAME, f"{given} is the pinned file")


def _imagenet(backbone: str, alpha: float, side: int) -> Finding:
    """Keras keeps what it downloaded under KERAS_HOME, ~/.keras by default."""
    folder = Path(os.environ.get("KERAS_HOME") or "~/.keras").expanduser() / "models"
    names = [path.name for path in folder.glob("*.h5")] if folder.is_dir() else []
    found = [name for name in names if _is_for(name, backbone, alpha, side)]
    if found:
        return ok(NAME, f"ImageNet's for {backbone}: {folder / found[0]}")
    return warning(
        NAME,
        f"no ImageNet weights for {backbone} in {folder}: Keras downloads them at the first run",
        "without a network, set KERAS_HOME to a folder with them under models/",
    )


def _is_for(name: str, backbone: str, alpha: float, side: int) -> bool:
    """By the names that Keras gives; of MobileNets there is a file for each width and side."""
    rows = side if side in (96, 128, 160, 192, 224) else 224
    if backbone == "MobileNetV2":
        return name == f"mobilenet_v2_weights_tf_dim_ordering_tf_kernels_{float(alpha)}_{rows}_no_top.h5"
    if backbone == "MobileNet":
        return name == f"mobilenet_{'1_0' if alpha == 1 else f'{alpha * 10:.1f}'.replace('.', '_')}_{rows}_tf_no_top.h5"
    bare = name.lower().replace("_", "")
    return backbone.lower() in bare and "notop" in bare
