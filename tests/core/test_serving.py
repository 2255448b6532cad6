"""What is served sees the pixels that were trained on: TensorFlow's path against Pillow's."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stages.core import images

pytestmark = pytest.mark.usefixtures("tensorflow")


def encoded(format_: str, orientation: int = 1, mode: str = "RGB", size: tuple[int, int] = (61, 40)) -> bytes:
    """A smooth picture that no turn or mirroring leaves as it was."""
    down, across = np.mgrid[0 : size[1], 0 : size[0]]
    pixels = np.stack([across * 4, down * 6, (across + 2 * down) * 2], -1).clip(0, 255).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, format_, exif=exif.tobytes())
    return buffer.getvalue()


def served(data: bytes, size: int) -> np.ndarray:
    import tensorflow as tf

    from stages.core import serving

    return np.asarray(serving.picture(tf.constant(data), size))


def trained(data: bytes, size: int) -> np.ndarray:
    return images.resize(images.decode(data), size).astype(np.float32)


@pytest.mark.parametrize("format_", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_turned_upright(format_: str, orientation: int) -> None:
    data = encoded(format_, orientation)
    expected = trained(data, 32)
    if orientation != 1:  # the turn matters: unturned, the pictures differ
        assert np.abs(expected - trained(encoded(format_), 32)).mean() > 5
    difference = np.abs(served(data, 32) - expected)
    assert difference.max() <= 1
    assert difference.mean() < 0.1


MODES = [("JPEG", "L"), ("PNG", "L"), ("PNG", "RGBA"), ("PNG", "LA"), ("PNG", "P")]


@pytest.mark.parametrize(("format_", "mode"), MODES)
def test_other_modes_agree(format_: str, mode: str) -> None:
    data = encoded(format_, mode=mode)
    assert np.abs(served(data, 48) - trained(data, 48)).max() <= 1


@pytest.mark.parametrize("size", [(8, 8), (96, 96), (300, 17)])
def test_up_and_down_scaling_agree(size: tuple[int, int]) -> None:
    data = encoded("PNG", size=size)
    assert np.abs(served(data, 96) - trained(data, 96)).max() <= 1


@pytest.mark.parametrize("cut", [4, 20, 30, 40])
def test_broken_exif_reads_as_upright(cut: int) -> None:
    import tensorflow as tf

    from stages.core import serving

    good = encoded("JPEG", 6)
    start = good.index(b"Exif\x00\x00")
    assert int(serving.exif_orientation(tf.constant(good), b"Exif\x00\x00")) == 6
    assert int(serving.exif_orientation(tf.constant(good[: start + cut // 4]), b"Exif\x00\x00")) == 1
    huge_offset = good[: start + 10] + b"\xff\xff\xff\xff" + good[start + 14 :]
    assert int(serving.exif_orientation(tf.constant(huge_offset), b"Exif\x00\x00")) == 1


def test_the_module_names_the_likeliest_class_from_bytes_and_from_pixels() -> None:
    import keras
    import tensorflow as tf

    from stages.core import serving

    inputs = keras.Input((16, 16, 3))
    channels = keras.layers.GlobalAveragePooling2D()(inputs)
    model = keras.Model(inputs, keras.layers.Softmax()(channels))
    module = serving.Classifier(model, ["red", "green", "blue"])
    pictures: list[Any] = []
    for colour in ((200, 30, 30), (30, 30, 200)):
        buffer = io.BytesIO()
        Image.new("RGB", (20, 10), colour).save(buffer, "PNG")
        pictures.append(buffer.getvalue())
    answer = module.bytes_signature(tf.constant(pictures))
    assert answer["label"].numpy().tolist() == [b"red", b"blue"]
    assert answer["probabilities"].shape == (2, 3)
    np.testing.assert_allclose(answer["probability"], np.max(answer["probabilities"], axis=1))
    pixels = np.stack([trained(data, 16) for data in pictures])
    np.testing.assert_allclose(module.pixels_signature(pixels)["probabilities"], answer["probabilities"], atol=1e-6)
