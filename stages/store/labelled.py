"""Labels inside exported models, for formats whose files can hold them; their size and answers stay as they were."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

from stages.core import labels, litert_metadata
from stages.store.models import EPOCH


def keras(path: Path, classes: list[str]) -> None:
    """`labels` in metadata.json of a `.keras` file, which Keras itself does not read."""
    with zipfile.ZipFile(path) as source:
        parts = {name: source.read(name) for name in source.namelist()}
    parts["metadata.json"] = json.dumps(json.loads(parts["metadata.json"]) | {"labels": classes}).encode()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as target:
        for name, data in parts.items():
            target.writestr(zipfile.ZipInfo(name, EPOCH), data)


def litert(path: Path, classes: list[str], side: int) -> None:
    """labels.txt and metadata where MediaPipe and TensorFlow Lite's task library look for them."""
    path.write_bytes(litert_metadata.labelled(path.read_bytes(), labels.text(classes), side))


def openvino(path: Path, classes: list[str]) -> None:
    """model_info/labels of an OpenVINO model, where its own tools look for them."""
    import openvino

    model = openvino.Core().read_model(path)
    # Blanks part the labels there, so those within one are underscores, as in OpenVINO's own models.
    model.set_rt_info(" ".join("_".join(label.split()) for label in classes), ["model_info", "labels"])
    model.set_rt_info("Classification", ["model_info", "model_type"])
    whole = path.with_name("labelled.xml")
    openvino.save_model(model, whole, compress_to_fp16=False)
    for suffix in (".xml", ".bin"):
        whole.with_suffix(suffix).replace(path.with_suffix(suffix))
