"""What a LiteRT model says of itself: metadata in its flatbuffer, and labels.txt in a zip behind it.

The format is TensorFlow Lite's (metadata_schema.fbs 1.1 of tflite-support): a ModelMetadata table, in a buffer that
the model names TFLITE_METADATA, and the files it names in an uncompressed zip appended to the model, which the
interpreter does not read. Imports TensorFlow inside.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from typing import Any

import flatbuffers

NAME, IDENTIFIER, PARSER = "TFLITE_METADATA", b"M001", "1.0.0"
LABELS = "labels.txt"
EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest date a zip can carry
AXIS_LABELS, RGB, IMAGE, NORMALIZATION = 2, 1, 2, 1  # of the schema's enums


class Byte(int):
    """An integer of 8 bits in a flatbuffer."""


class Word(int):
    """An unsigned integer of 32 bits in a flatbuffer."""


def labelled(model: bytes, labels: str, side: int) -> bytes:
    """A classifier's LiteRT file with its labels and what its pixels are: `side` x `side`, RGB, 0-255 as they are.

    `model` has one input and one output, and says nothing of itself yet. The same arguments give the same bytes.
    """
    from tensorflow.lite.python import schema_py_generated as schema
    from tensorflow.lite.tools import flatbuffer_utils

    found = flatbuffer_utils.read_model_from_bytearray(bytearray(model))
    buffer, entry = schema.BufferT(), schema.MetadataT()
    buffer.data = list(_metadata(side))
    entry.name, entry.buffer = NAME, len(found.buffers)
    found.buffers.append(buffer)
    found.metadata = [*(found.metadata or []), entry]
    file = io.BytesIO()
    file.write(flatbuffer_utils.convert_object_to_bytearray(found))
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as appended:
        appended.writestr(zipfile.ZipInfo(LABELS, EPOCH), labels.encode())
    return file.getvalue()


def _metadata(side: int) -> bytes:
    """The ModelMetadata table. Numbers are the places of fields in the schema's tables."""
    as_they_are = {0: Byte(NORMALIZATION), 1: {0: [0.0], 1: [1.0]}}  # mean and standard deviation: all is inside
    picture = {0: Byte(IMAGE), 1: {0: Byte(RGB), 1: {0: Word(side), 1: Word(side)}}}
    taken = {0: "pixels", 1: "RGB pixels, upright, 0 to 255", 3: picture, 4: [as_they_are], 5: {0: [255.0], 1: [0.0]}}
    file = {0: LABELS, 1: "a line a class", 2: Byte(AXIS_LABELS)}
    given = {0: "probabilities", 1: "one a class", 5: {0: [1.0], 1: [0.0]}, 6: [file]}
    model = {0: "classifier", 1: "An image classifier trained by graft", 3: [{2: [taken], 3: [given]}], 7: PARSER}
    builder = flatbuffers.Builder(0)
    builder.Finish(_table(builder, model), IDENTIFIER)
    return bytes(builder.Output())


def _table(builder: Any, fields: Mapping[int, Any]) -> int:
    """Write a table of texts, numbers, tables and vectors of tables or floats; returns its offset."""
    offsets = {place: _offset(builder, value) for place, value in fields.items() if not isinstance(value, int)}
    builder.StartObject(max(fields) + 1)
    for place, value in fields.items():
        if isinstance(value, Byte):
            builder.PrependInt8Slot(place, value, 0)
        elif isinstance(value, Word):
            builder.PrependUint32Slot(place, value, 0)
        else:
            builder.PrependUOffsetTRelativeSlot(place, offsets[place], 0)
    return int(builder.EndObject())


def _offset(builder: Any, value: Any) -> int:
    if isinstance(value, str):
        return int(builder.CreateString(value))
    if isinstance(value, dict):
        return _table(builder, value)
    parts = [part if isinstance(part, float) else _table(builder, part) for part in value]
    builder.StartVector(4, len(parts), 4)
    for part in reversed(parts):
        if isinstance(part, float):
            builder.PrependFloat32(part)
        else:
            builder.PrependUOffsetTRelative(part)
    return int(builder.EndVector())
