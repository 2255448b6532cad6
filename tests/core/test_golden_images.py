"""Of which kinds of file the served graph sees the pixels that were trained on: the table in docs/export.md."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from stages.core import images
from tests.golden_images import every_kind

pytestmark = pytest.mark.usefixtures("tensorflow")

KINDS = every_kind()
# Kinds the graph does not take as training does. Each is said in docs/export.md.
DIFFERENT = {
    "GIF, transparent": "its transparent pixels are black",
    "WebP, EXIF 8": "not turned",
}
REFUSED = {
    "BMP, 1-bit": "Number of channels",
    "WebP, alpha": "Number of channels",
    "TIFF": "Unknown image file format",
}
SIDES = (24, 96)  # smaller and larger than the pictures


def served(data: bytes, side: int) -> np.ndarray:
    import tensorflow as tf

    from stages.core import serving

    return np.asarray(serving.picture(tf.constant(data), side)).astype(int)


def trained(data: bytes, side: int) -> np.ndarray:
    return images.decode_resized(data, side).astype(int)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in {**DIFFERENT, **REFUSED}])
def test_training_and_the_served_graph_see_the_same_pixels(kind: str) -> None:
    for side in SIDES:
        difference = np.abs(served(KINDS[kind], side) - trained(KINDS[kind], side))
        assert difference.max() <= 1  # TensorFlow and Pillow weigh neighbours in another order
        assert difference.mean() < 0.2


@pytest.mark.parametrize("kind", DIFFERENT)
def test_what_is_said_to_differ_does(kind: str) -> None:
    assert np.abs(served(KINDS[kind], 24) - trained(KINDS[kind], 24)).max() > 100


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_said_to_be_refused_is(kind: str) -> None:
    import tensorflow as tf

    assert trained(KINDS[kind], 24).shape == (24, 24, 3)
    with pytest.raises(tf.errors.InvalidArgumentError, match=REFUSED[kind]):
        served(KINDS[kind], 24)


def test_the_kinds_are_kinds() -> None:
    """Each file is what its name says, so that a kind that decodes alike did not slip past."""
    for kind, data in KINDS.items():
        found = images.examine(data)
        assert found.format.lower() == kind.split(",")[0].lower(), kind
        if turned := re.search(r"EXIF (\d)", kind):
            assert found.orientation == int(turned[1]), kind
    examined = {kind: images.examine(data) for kind, data in KINDS.items()}
    assert examined["JPEG, turned by XMP alone"].orientation == 6
    assert examined["JPEG, CMYK"].mode == "CMYK"
    assert examined["PNG, palette with transparency"].mode == "P"
    assert b"tRNS" in KINDS["PNG, palette with transparency"]
    assert {examined[f"PNG, 16-bit {mode}"].bit_depth for mode in ("grey", "RGB", "grey and alpha", "RGBA")} == {16}
    assert (examined["PNG, 1-bit"].bit_depth, examined["PNG, palette of 4 bits"].bit_depth) == (1, 4)
    assert (examined["PNG, RGBA"].mode, examined["PNG, grey and alpha"].mode) == ("RGBA", "LA")
    assert examined["GIF, animated"].frames == 2


def test_every_kind_stands_in_the_documentation() -> None:
    text = (Path(__file__).parents[2] / "docs/export.md").read_text(encoding="utf-8")
    text = text.split("## The same pixels")[1].split("\n## ")[0]
    rows = dict(re.findall(r"^\| `([^`]+)` \| ([^|]+?) \|", text, re.MULTILINE))
    grouped = {re.sub(r"EXIF [1-8]$", "EXIF 1 to 8", kind) if "WebP" not in kind else kind for kind in KINDS}
    assert set(rows) == grouped
    said = {kind: "no" if kind in REFUSED else "differs" if kind in DIFFERENT else "yes" for kind in rows}
    assert {kind: answer.split(":")[0] for kind, answer in rows.items()} == said
