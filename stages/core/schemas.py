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
        pa.field("frames", pa.int32()),
        pa.field("orientation", pa.int32()),  # EXIF 1-8
        pa.field("brightness", pa.float64()),  # mean luma, 0-1
        pa.field("contrast", pa.float64()),  # standard deviation of luma, 0-0.5
        pa.field("sharpness", pa.float64()),  # variance of the luma's Laplacian at 64 x 64, 0-1 scale squared
        pa.field("dhash", pa.string()),  # 64-bit difference hash, 16 hex digits
        pa.field("group", pa.string(), nullable=False),  # smallest image_id among its (near-)duplicates
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
