"""SavedModel folders: written byte-deterministically, tried in a process that knows nothing of graft."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from stages.core.errors import IntegrityError
from stages.store import clean_process

DEADLINE = 300  # seconds for one smoke run; loading TensorFlow takes about 5

# For a clean process.
SMOKE = """
import base64, json, sys
import tensorflow as tf
model = tf.saved_model.load(sys.argv[1])
images = [base64.b64decode(text) for text in json.load(sys.stdin)]
answer = model.signatures["serving_default"](image_bytes=tf.constant(images))
json.dump({"label": [label.decode() for label in answer["label"].numpy().tolist()],
           "probabilities": answer["probabilities"].numpy().tolist()}, sys.stdout)
"""


def write(module: Any, folder: Path) -> None:
    """Save a serving.Classifier with its two signatures.

    In a fresh process the same model gives the same bytes; TensorFlow numbers functions as it traces them.
    """
    import tensorflow as tf

    signatures = {"serving_default": module.bytes_signature, "pixels": module.pixels_signature}
    tf.saved_model.save(module, str(folder), signatures=signatures)
    # The fingerprint carries a random identifier; TensorFlow loads a model without one.
    (folder / "fingerprint.pb").unlink(missing_ok=True)


def smoke(folder: Path, classes: list[str], expected: list[tuple[bytes, list[float]]], tolerance: float) -> float:
    """Classify real images with the saved model in a clean process; returns the largest difference.

    `expected` pairs file bytes with the probabilities that evaluate found. Raises IntegrityError where a
    probability is off by more than `tolerance` or the label of a clear case differs, EnvironmentFault
    where it does not run.
    """
    request = json.dumps([base64.b64encode(data).decode() for data, _ in expected])
    done = clean_process.run(SMOKE, [str(folder.resolve())], model=folder, seconds=DEADLINE, given=request)
    answer = json.loads(done)
    largest = 0.0
    for number, (_, wanted) in enumerate(expected):
        named, got = answer["label"][number], answer["probabilities"][number]
        if len(got) != len(wanted):
            raise IntegrityError(f"{folder}: it answers {len(got)} probabilities for {len(wanted)} classes")
        differences = [abs(a - b) for a, b in zip(wanted, got, strict=True)]
        best = classes[max(range(len(wanted)), key=wanted.__getitem__)]
        first, second = sorted(wanted, reverse=True)[:2]
        # "not <=" so that NaN, which is neither above nor below, is refused too.
        if not all(difference <= tolerance for difference in differences):
            raise IntegrityError(
                f"{folder}: on test image {number} the exported model differs from the evaluated one by "
                f"{max(differences):.3f} (evaluated {best!r}, exported {named!r}); export.tolerance is {tolerance:g}"
            )
        if named != best and first - second > 2 * tolerance:
            raise IntegrityError(f"{folder}: on test image {number} it names {named!r}, evaluated was {best!r}")
        largest = max([largest, *differences])
    return largest
