"""Both engines compute the same network; batch sizes and thread counts change no stored bit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.store import engines

ROOT = Path(__file__).parents[2]
RUN = """
import json, sys
from pathlib import Path
import numpy as np
from stages.core import backbones
from stages.store import engines, models
name, threads, sizes, cut, architecture, alpha, weights, out = json.loads(sys.argv[1])
engine = engines.start(name, threads, 0)
base = backbones.build(architecture, 64, alpha)
if weights:
    models.load_weights(base, Path(weights), "the test")
trunk = backbones.trunk(base, backbones.CATALOGUE[architecture].preprocessing, cut)
pixels = np.random.default_rng(0).integers(0, 256, (21, 64, 64, 3)).astype(np.uint8)
found = {}
for size in sizes:
    batches = [pixels[start : start + size] for start in range(0, len(pixels), size)]
    results = list(engine.run(trunk, iter(batches), size, np.float16))
    for number, output in enumerate(zip(*results)):
        found[f"{size}-{number}"] = np.concatenate(output)
np.savez(out, **found)
Path(out + ".json").write_text(json.dumps({
    "engine": engine.name, "device": engine.device, "versions": sorted(engine.versions),
    "tensorflow": "tensorflow" in sys.modules,
    "telemetry": [name for name in sys.modules if name.startswith("openvino_telemetry.")],
    "digest": models.weights_digest(base),
}))
base.save_weights(out + ".weights.h5")
"""
LETTERS = str(ROOT / "pretraining/mobilenet_v2_0.35_96_letters.weights.h5")


def run(
    tmp_path: Path, engine: str, threads: int = 2, sizes: tuple[int, ...] = (8,), cut: int = 97,
    architecture: str = "MobileNetV2", alpha: float = 0.35, weights: str | None = LETTERS,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:  # fmt: skip
    out = str(tmp_path / f"{engine}-{threads}.npz")
    what = json.dumps([engine, threads, sizes, cut, architecture, alpha, weights, out])
    # OpenVINO sends nothing where CI is set, which would hide what it does elsewhere.
    environment = {key: value for key, value in os.environ.items() if key not in ("KERAS_BACKEND", "CI")}
    environment |= {"PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", RUN, what], check=True, env=environment, timeout=400)
    with np.load(out) as found:
        return json.loads(Path(out + ".json").read_text()), dict(found)


def test_openvino_and_tensorflow_agree_and_write_the_same_weights(tmp_path: Path) -> None:
    told, found = run(tmp_path, "openvino", sizes=(8, 21, 1))
    told_too, found_too = run(tmp_path, "tensorflow")
    assert (told["engine"], told["tensorflow"]) == ("openvino", False)
    assert (told_too["engine"], told_too["tensorflow"]) == ("tensorflow", True)
    assert told["digest"] == told_too["digest"]
    assert told["telemetry"] == []
    assert not (tmp_path / "intel").exists()  # where it would keep the user's number
    weights = [(tmp_path / f"{name}-2.npz.weights.h5").read_bytes() for name in ("openvino", "tensorflow")]
    assert weights[0] == weights[1]
    assert found["8-0"].shape == (21, 4, 4, 32)
    assert found["8-1"].shape == (21, 1280)
    for number in (0, 1):
        ours, other = found[f"8-{number}"], found_too[f"8-{number}"]
        assert ours.dtype == np.float16
        assert np.abs(ours.astype(float)).max() > 0.5
        # A value that lies between two halves may be rounded either way.
        np.testing.assert_allclose(ours.astype(float), other.astype(float), rtol=2e-3, atol=2e-3)
        assert (ours != other).mean() < 0.05
        assert np.array_equal(found[f"21-{number}"], ours)
        assert np.array_equal(found[f"1-{number}"], ours)


def test_the_thread_count_changes_no_bit(tmp_path: Path) -> None:
    _, two = run(tmp_path, "openvino", threads=2)
    _, other = run(tmp_path, "openvino", threads=3)
    assert all(np.array_equal(other[name], two[name]) for name in two)


@pytest.mark.parametrize(
    ("architecture", "alpha", "cut"),
    [
        ("MobileNet", 0.25, 60),
        ("MobileNetV2", 0.35, 0),
        ("EfficientNetB0", 1.0, 118),
        ("DenseNet121", 1.0, 140),  # channels last in OpenVINO too
        ("ConvNeXtTiny", 1.0, 60),
        ("ResNet50", 1.0, 80),  # swaps the channels
    ],
)
def test_other_networks_and_cuts_agree(tmp_path: Path, architecture: str, alpha: float, cut: int) -> None:
    network = {"architecture": architecture, "alpha": alpha, "cut": cut}
    weights = LETTERS if architecture == "MobileNetV2" else None
    _, other = run(tmp_path, "tensorflow", weights=weights, **network)
    # The very weights, the random ones too.
    _, ours = run(tmp_path, "openvino", weights=str(tmp_path / "tensorflow-2.npz.weights.h5"), **network)
    assert ours.keys() == other.keys()
    found = [ours, other]
    for name in found[0]:
        np.testing.assert_allclose(found[0][name].astype(float), found[1][name].astype(float), rtol=4e-3, atol=4e-3)


def test_auto_is_tensorflow_only_with_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(engines, "GPU_DEVICES", (str(tmp_path / "gpu"),))
    assert engines.choose("auto") == "openvino"
    (tmp_path / "gpu").touch()
    assert engines.choose("auto") == "tensorflow"
    assert engines.choose("openvino") == "openvino"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert engines.choose("auto") == "openvino"
    assert engines.choose("tensorflow") == "tensorflow"


@pytest.mark.usefixtures("tensorflow")
def test_a_process_whose_keras_runs_on_tensorflow_is_refused() -> None:
    import keras

    assert keras.config.backend() == "tensorflow"
    with pytest.raises(RuntimeError, match="another backend"):
        engines.start("openvino", 2, 0)
