"""The exported model's graph: from the bytes of an image file to labels and probabilities.

Every step mirrors `images.decode` and `images.resize`, in TensorFlow: what is served must see the
pixels that were trained on. docs/export.md says of which kinds of file it does, tests/core/test_golden_images.py
shows it. Imports TensorFlow at the top: only export imports this module.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

JPEG_EXIF, PNG_EXIF = b"Exif\x00\x00", b"eXIf"  # what stands before the TIFF header in either
XMP = b"tiff:Orientation"  # what stands before `="6"` or `>6<`, where EXIF says nothing (XMP part 2, section 3.2)
ORIENTATION_TAG = 0x0112
LOOKED_AT = 65_536  # bytes from the start of a file, where writers put EXIF: before the pixels


class Classifier(tf.Module):
    """`serving_default` takes file bytes, `pixels` takes arrays; both return labels and probabilities."""

    def __init__(self, model: keras.Model, classes: list[str]) -> None:
        super().__init__(name="graft_classifier")
        self._model = model
        self._labels = tf.constant(classes)
        self._size = model.input_shape[1]
        self.bytes_signature = tf.function(
            self.from_bytes, input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")]
        )
        shape = [None, self._size, self._size, 3]
        self.pixels_signature = tf.function(
            self.from_pixels, input_signature=[tf.TensorSpec(shape, tf.float32, name="pixels")]
        )

    def from_bytes(self, image_bytes: Any) -> dict[str, Any]:
        """string [N], each a whole JPEG, PNG, BMP, GIF or WebP file → see `from_pixels`."""
        spec = tf.TensorSpec([self._size, self._size, 3], tf.float32)
        pixels = tf.map_fn(lambda data: picture(data, self._size), image_bytes, fn_output_signature=spec)
        return self.from_pixels(pixels)

    def from_pixels(self, pixels: Any) -> dict[str, Any]:
        """float32 [N, S, S, 3] of 0-255 → label string [N], probability float32 [N], probabilities [N, C]."""
        probabilities = self._model(pixels, training=False)
        best = tf.argmax(probabilities, axis=-1)
        return {
            "label": tf.gather(self._labels, best),
            "probability": tf.reduce_max(probabilities, axis=-1),
            "probabilities": probabilities,
        }


def picture(data: Any, size: int) -> Any:
    """One file's bytes → upright pixels, float32 [size, size, 3] of whole numbers 0-255."""
    # The accurate DCT is what Pillow uses; TensorFlow's default is a faster, rougher one.
    jpeg = tf.strings.substr(data, 0, 3) == b"\xff\xd8\xff"
    pixels = tf.cond(
        jpeg,
        lambda: tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE"),
        lambda: coloured(data, tf.io.decode_image(data, channels=3, expand_animations=False)),
    )
    pixels.set_shape([None, None, 3])
    orientation = tf.cond(jpeg, lambda: exif_orientation(data, JPEG_EXIF), lambda: exif_orientation(data, PNG_EXIF))
    pixels = upright(tf.cast(pixels, tf.float32), orientation)
    # Pillow resizes across, rounds to whole numbers, then resizes down: so does this, to the same numbers.
    across = _whole(tf.image.resize(pixels, [tf.shape(pixels)[0], size], method="bilinear", antialias=True))
    return _whole(tf.image.resize(across, [size, size], method="bilinear", antialias=True))


def _whole(pixels: Any) -> Any:
    return tf.clip_by_value(tf.floor(pixels + 0.5), 0.0, 255.0)


def coloured(data: Any, pixels: Any) -> Any:
    """Look up the colours of a bitmap of 256, which TensorFlow leaves as numbers; other pixels as they are.

    Layout: BITMAPINFOHEADER and those that begin like it; bits a pixel at 28, colours at 46, each blue, green, red, 0.
    """

    def lookup() -> Any:
        used = tf.where(number(46, 4) == 0, 256, tf.clip_by_value(number(46, 4), 0, 256))
        colours = tf.io.decode_raw(tf.strings.substr(data, 14 + number(14, 4), 4 * used), tf.uint8)
        colours = tf.concat([colours, tf.zeros([1024 - tf.shape(colours)[0]], tf.uint8)], 0)
        return tf.gather(tf.reverse(tf.reshape(colours, [256, 4])[:, :3], [1]), tf.cast(pixels[..., 0], tf.int32))

    head = tf.cast(tf.io.decode_raw(tf.strings.substr(data, 0, 64), tf.uint8), tf.int32)
    head = tf.concat([head, tf.zeros([64], tf.int32)], 0)

    def number(position: int, count: int) -> Any:
        return tf.reduce_sum(head[position : position + count] * tf.constant([256**power for power in range(count)]))

    indexed = (tf.strings.substr(data, 0, 2) == b"BM") & (number(14, 4) >= 40) & (number(28, 2) == 8)
    return tf.cond(indexed, lookup, lambda: pixels)


def exif_orientation(data: Any, header: bytes) -> Any:
    """The EXIF orientation of a file's bytes, int32 scalar 1-8; where EXIF has none XMP's, 1 where neither has.

    Layout: TIFF 6.0 inside an APP1 segment (EXIF 2.3, section 4.5): byte order, offset of the first
    directory, its entries of 12 bytes each.
    """
    head = tf.cast(tf.io.decode_raw(tf.strings.substr(data, 0, LOOKED_AT), tf.uint8), tf.int32)
    # Zeros after the end make every read below legal, and read as "no orientation".
    head = tf.concat([head, tf.zeros([4096], tf.int32)], 0)
    at = _first(head, header)
    start = tf.where(at >= 0, at + len(header), tf.shape(head)[0] - 1024)
    little = head[start] == ord("I")

    def read(position: Any, count: int) -> Any:
        weights = tf.constant([256**power for power in range(count)], tf.int32)
        position = tf.clip_by_value(position, 0, tf.shape(head)[0] - count)
        values = head[position : position + count]
        return tf.reduce_sum(tf.where(little, values, tf.reverse(values, [0])) * weights)

    directory = start + read(start + 4, 4)
    entries = tf.minimum(read(directory, 2), 64)
    positions = directory + 2 + 12 * tf.range(entries)
    tags = tf.map_fn(lambda position: read(position, 2), positions, fn_output_signature=tf.int32)
    tagged = tf.boolean_mask(positions, tags == ORIENTATION_TAG)
    value = tf.cond(tf.shape(tagged)[0] > 0, lambda: read(tagged[0] + 8, 2), lambda: _xmp_orientation(head))
    return tf.where((value >= 1) & (value <= 8), value, 1)


def _xmp_orientation(head: Any) -> Any:
    """The digit after XMP's tiff:Orientation as int32 scalar; another number where there is none."""
    at = _first(head, XMP)
    after = at + len(XMP)
    digit = head[after + tf.where(head[after] == ord("="), 2, 1)] - ord("0")
    return tf.where(at >= 0, digit, 1)


def _first(head: Any, words: bytes) -> Any:
    """Where `words` begin in int32 [n] bytes, int32 scalar; -1 where they do not."""
    last = tf.shape(head)[0] - len(words)
    matches = tf.ones([last], tf.bool)
    for offset, byte in enumerate(words):
        matches &= head[offset : last + offset] == byte
    found = tf.where(matches)
    return tf.cond(tf.shape(found)[0] > 0, lambda: tf.cast(found[0, 0], tf.int32), lambda: -1)


def upright(pixels: Any, orientation: Any) -> Any:
    """Turn float32 [H, W, 3] so that it shows as its EXIF orientation says."""
    flipped = tf.where(tf.reduce_any(orientation == tf.constant([2, 4, 5, 7])), tf.reverse(pixels, [1]), pixels)
    # Quarter turns anti-clockwise that undo what is left after mirroring.
    turns = tf.gather(tf.constant([0, 0, 0, 2, 2, 1, 3, 3, 1]), orientation)
    return tf.image.rot90(flipped, turns)
