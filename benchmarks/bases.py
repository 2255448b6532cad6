"""How accurate is each base whose ImageNet weights are at hand, on the tutorial's cats and dogs?

    cp recipes/cats_and_dogs.yaml params.yaml       # set download.source and KERAS_HOME without a network
    python -m benchmarks.bases 1 2 3                # the seeds

Runs params.yaml once for each base and seed with the same share of layers frozen, 0.65, which for MobileNetV2 is
the tutorial's layer 100. Everything else is the recipe's. params.yaml is put back afterwards. Prints one JSON line
for each run and a line of means for each base; a base whose run fails is named and left out.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from typing import Any

from ruamel.yaml import YAML

from benchmarks import seeds

FROZEN = 0.65
BASES: tuple[dict[str, Any], ...] = (
    {"backbone": "MobileNetV2", "alpha": 1.0, "image_size": 160},
    {"backbone": "MobileNet", "alpha": 0.75, "image_size": 192},
    {"backbone": "MobileNet", "alpha": 0.5, "image_size": 160},
    {"backbone": "MobileNet", "alpha": 0.25, "image_size": 128},
)


def set_base(base: dict[str, Any]) -> None:
    """Have params.yaml fine-tune this base."""
    yaml = YAML()
    params = yaml.load(seeds.PARAMS)
    params["feature_extract"] |= {**base, "cut_at": FROZEN}
    params["fine_tune"]["fine_tune_at"] = FROZEN
    yaml.dump(params, seeds.PARAMS)


def main(numbers: list[int]) -> None:
    """Measure, print, and leave params.yaml as it was."""
    before = seeds.PARAMS.read_bytes()
    try:
        for base in BASES:
            rows = []
            for number in numbers:
                set_base(base)
                try:
                    rows.append(seeds.run(number))
                except subprocess.CalledProcessError as error:
                    sys.stdout.write(json.dumps({**base, "seed": number, "failed": str(error)}) + "\n")
                    break
                sys.stdout.write(json.dumps({**base, **rows[-1]}) + "\n")
                sys.stdout.flush()
            if rows:
                means = {key: round(statistics.mean(row[key] for row in rows), 4) for key in rows[0] if key != "seed"}
                sys.stdout.write(json.dumps({**base, "mean of": len(rows), **means}) + "\n")
                sys.stdout.flush()
    finally:
        seeds.PARAMS.write_bytes(before)


if __name__ == "__main__":
    main([int(text) for text in sys.argv[1:]] or [1, 2, 3])
