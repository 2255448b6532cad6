"""How much does the accuracy depend on the seed? Runs params.yaml's recipe once per seed.

    python -m benchmarks.seeds 1 2 3

Seeds of the augmented views and of the training change together; the split stays. params.yaml is put
back afterwards. Prints one JSON line per seed and the means, as the recipes' expected results are stated.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

PARAMS = Path("params.yaml")
METRICS = Path("reports/evaluate/metrics.json")


def run(seed: int) -> dict[str, Any]:
    """One `dvc repro` with this seed; accuracies 0-1 and seconds of wall time."""
    yaml = YAML()
    params = yaml.load(PARAMS)
    params["feature_extract"]["seed"] = seed
    params["fine_tune"]["seed"] = seed
    yaml.dump(params, PARAMS)
    start = time.monotonic()
    subprocess.run([sys.executable, "-m", "dvc", "repro"], check=True, stdout=subprocess.DEVNULL)
    metrics = json.loads(METRICS.read_text())
    baselines = {name: both["test"]["accuracy"] for name, both in metrics["baselines"].items()}
    return {
        "seed": seed,
        "val": metrics["val"]["accuracy"],
        "test": metrics["test"]["accuracy"],
        **baselines,
        "seconds": round(time.monotonic() - start, 1),
    }


def main(seeds: list[int]) -> None:
    """Measure, print, and leave params.yaml as it was."""
    before = PARAMS.read_bytes()
    try:
        rows = []
        for seed in seeds:
            rows.append(run(seed))
            sys.stdout.write(json.dumps(rows[-1]) + "\n")
            sys.stdout.flush()
    finally:
        PARAMS.write_bytes(before)
    means = {key: round(statistics.mean(row[key] for row in rows), 4) for key in rows[0] if key != "seed"}
    sys.stdout.write(json.dumps({"mean of": len(rows), **means}) + "\n")


if __name__ == "__main__":
    main([int(text) for text in sys.argv[1:]] or [1, 2, 3])
