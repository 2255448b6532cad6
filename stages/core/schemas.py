"""The Arrow schema of every table that passes between stages, in pipeline order."""

from __future__ import annotations

import pyarrow as pa

SPLITS = ("train", "val", "test")

# download → data/download/images/*.parquet, ordered by `name` over all shards.
IMAGES = pa.schema(
    [
        pa.field("name", pa.string(), nullable=False),  # path inside the source, with "/", unique
        pa.field("label", pa.string(), nullable=False),  # class folder's name
        pa.field("given_split", pa.string()),  # train | val | test where the source came split, else null
        pa.field("image_id", pa.string(), nullable=False),  # SHA-256 of `bytes`, hex
        pa.field("bytes", pa.binary(), nullable=False),  # the file as it came, broken or not
    ]
)

# validate's memo, .graft/memo/: what was measured of an image's bytes, core.measurement.Measurement.
MEASUREMENTS = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("size_bytes", pa.int64(), nullable=False),
        pa.field("format", pa.string()),
        pa.field("reason", pa.string()),
        pa.field("detail", pa.string(), nullable=False),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("mode", pa.string()),
        pa.field("bit_depth", pa.int32()),
        pa.field("frames", pa.int32()),
        pa.field("orientation", pa.int32()),
        pa.field("trailing_bytes", pa.int64()),
        pa.field("brightness", pa.float64()),
        pa.field("contrast", pa.float64()),
        pa.field("entropy", pa.float64()),
        pa.field("sharpness", pa.float64()),
        pa.field("saturation", pa.float64()),
        pa.field("warmth", pa.float64()),
        pa.field("layout", pa.binary()),  # int16, big-endian
        pa.field("hashes", pa.binary()),  # uint64, big-endian
        pa.field("shapes", pa.binary()),  # int8
    ]
)

# validate → data/validate/facts.parquet, one row per row of IMAGES, same order.
FACTS = pa.schema(
    [
        pa.field("name", pa.string(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field("given_split", pa.string()),
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("size_bytes", pa.int64(), nullable=False),
        pa.field("format", pa.string()),  # by magic bytes: JPEG PNG GIF WEBP BMP TIFF HEIC AVIF; null: none
        pa.field("extension_matches", pa.bool_(), nullable=False),  # the name's extension is that format's
        pa.field("decodes", pa.bool_(), nullable=False),  # fully, with the decoder that trains
        pa.field("width", pa.int32()),  # pixels, upright; null where undecodable
        pa.field("height", pa.int32()),
        pa.field("aspect", pa.float64()),  # longer side / shorter side, >= 1
        pa.field("mode", pa.string()),  # Pillow's mode before conversion: L RGB CMYK …
        pa.field("bit_depth", pa.int32()),  # bits per channel in the file
        pa.field("frames", pa.int32()),
        pa.field("orientation", pa.int32()),  # EXIF 1-8
        pa.field("trailing_bytes", pa.int64()),  # behind the end of a JPEG or PNG; null: other formats, no end found
        pa.field("brightness", pa.float64()),  # mean luma, 0-1
        pa.field("contrast", pa.float64()),  # standard deviation of luma, 0-0.5
        pa.field("entropy", pa.float64()),  # of luma, bits 0-8
        pa.field("sharpness", pa.float64()),  # energy of luma's second differences / its variance; 0: blurred
        pa.field("saturation", pa.float64()),  # mean of largest - smallest channel, 0-1; 0: grey
        pa.field("warmth", pa.float64()),  # mean red - mean blue, -1 to 1
        pa.field("phash", pa.string()),  # 64-bit perceptual hash, 16 hex digits
        pa.field("nearest", pa.string()),  # image_id of the picture most alike in colour and layout
        pa.field("nearest_distance", pa.float64()),  # between the two colour layouts, grey levels
        pa.field("outlier", pa.float64()),  # distance to the fifth such picture / the median of that
        pa.field("group", pa.string(), nullable=False),  # smallest image_id among its (near-)duplicates
        pa.field("conflicts_with", pa.string()),  # a file of the same bytes under another label
        pa.field("quarantine", pa.string()),  # reason code; null: accepted
    ]
)

# validate → data/validate/quarantine.parquet, the rows of FACTS that have a `quarantine`, same order.
QUARANTINE = pa.schema(
    [
        pa.field("name", pa.string(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),  # code, one of core.quarantine.REASONS
        pa.field("detail", pa.string(), nullable=False),  # what was found, in words
    ]
)

# split → data/split/split.parquet, accepted images only, ordered by (split, name).
SPLIT = pa.schema(
    [
        pa.field("name", pa.string(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("group", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),  # train | val | test
    ]
)

# feature_extract → data/feature_extract/index.parquet, one row per stored tensor row.
FEATURES = pa.schema(
    [
        pa.field("name", pa.string(), nullable=False),
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("view", pa.int32(), nullable=False),  # 0 is the image itself, 1… augmented
        pa.field("shard", pa.int32(), nullable=False),
        pa.field("row", pa.int32(), nullable=False),  # within the shard
    ]
)

# evaluate → reports/evaluate/predictions.parquet, one row per val and test image.
PREDICTIONS = pa.schema(
    [
        pa.field("name", pa.string(), nullable=False),
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field("predicted", pa.string(), nullable=False),
        pa.field("probabilities", pa.list_(pa.float32()), nullable=False),  # one per class, in labels.txt's order
    ]
)
