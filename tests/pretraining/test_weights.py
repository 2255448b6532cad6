"""The committed weights: the recorded file, small, loadable, and worth having."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest

from pretraining import digits
from pretraining.network import build_base, save_compact
from pretraining.probe import cross_validated
from pretraining.record import read_record, sha256
from pretraining.settings import ROOT, Settings, load_settings

MAX_BYTES = 2_000_000
PROBE_BOUND = 0.96  # clearly under the recorded probe, clearly over that of random weights
ERROR_SHARE = 1 / 3  # of the error over random weights' features, measured in the same test, that may be left


@pytest.fixture(scope="module")
def settings() -> Settings:
    return load_settings()


@pytest.fixture(scope="module")
def path(settings: Settings) -> Path:
    return ROOT / settings.network.weights


def test_record_describes_the_file(settings: Settings, path: Path) -> None:
    facts = read_record(settings)["weights"]
    assert facts == {"file": path.name, "bytes": path.stat().st_size, "sha256": sha256(path)}
    assert facts["bytes"] <= MAX_BYTES


def test_record_holds_the_settings_that_made_the_weights(settings: Settings) -> None:
    recorded = read_record(settings)["settings"]
    current = settings.model_dump(mode="json")
    for group in ("seed", "network", "letters", "augment", "train", "probe"):
        assert recorded[group] == current[group], group


def test_weights_load_into_a_plainly_built_base(settings: Settings, path: Path) -> None:
    side = settings.network.size
    base = keras.applications.MobileNetV2(
        input_shape=(side, side, 3), alpha=settings.network.alpha, include_top=False, weights=None
    )
    before = [weight.copy() for weight in base.get_weights()]
    base.load_weights(path)
    after = base.get_weights()
    assert all(np.isfinite(weight).all() for weight in after)
    assert all(weight.dtype == np.float32 for weight in after)
    assert all((old != new).any() for old, new in zip(before, after, strict=True))


def test_saving_again_gives_the_same_bytes(settings: Settings, path: Path, tmp_path: Path) -> None:
    base = build_base(settings.network)
    base.load_weights(path)
    save_compact(base, tmp_path / path.name)
    assert sha256(tmp_path / path.name) == sha256(path)


@pytest.mark.slow
def test_features_separate_digits_far_better_than_random_ones(settings: Settings, path: Path) -> None:
    part = digits.load(settings.network.size).train
    keras.utils.set_random_seed(settings.seed)
    base = build_base(settings.network)
    random = cross_validated(base, part, settings.probe, settings.seed)
    base.load_weights(path)
    pretrained = cross_validated(base, part, settings.probe, settings.seed)
    assert pretrained >= PROBE_BOUND
    assert 1 - pretrained <= ERROR_SHARE * (1 - random)
