"""benchmarks/fault_set.py: the same faults for a seed, of every kind, and each found by what it is meant for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import fault_set, validation_faults
from benchmarks.fault_set import Row
from stages import validate
from stages.core.errors import DataRejected
from stages.store import params


@pytest.fixture(scope="module")
def photographs() -> list[Row]:
    """60 coloured pictures, sharp and unlike each other: large shapes under a fine grain."""
    generator = np.random.default_rng(7)
    rows = []
    for at in range(60):
        coarse = Image.fromarray(generator.integers(30, 226, (5, 6, 3), dtype=np.uint8))
        shapes = np.asarray(coarse.resize((160, 130), Image.Resampling.BICUBIC), dtype=np.float64)
        pixels = np.clip(shapes + generator.normal(0, 12, shapes.shape), 0, 255).astype(np.uint8)
        label, split = ("cats", "dogs")[at % 2], "train" if at < 40 else "val"
        rows.append(Row(f"{split}/{label}/{at}.jpg", label, split, fault_set.encode(Image.fromarray(pixels))))
    return rows


def test_a_seed_gives_the_same_faults_and_another_one_others(photographs: list[Row]) -> None:
    first = fault_set.inject(photographs, 1, 1)
    assert fault_set.inject(photographs, 1, 1) == first
    assert fault_set.inject(photographs, 2, 1) != first


def test_every_kind_is_there_once_asked_and_no_photograph_has_two(photographs: list[Row]) -> None:
    rows, faults = fault_set.inject(photographs, 3, 2)
    names = [row.name for row in rows]
    assert len(set(names)) == len(names)
    assert [fault.kind for fault in faults] == [kind for kind in fault_set.KINDS for _ in range(2)]
    assert {fault.name for fault in faults} <= set(names)
    originals = [fault.original for fault in faults if fault.original]
    assert len(set(originals)) == len(originals) == len(rows) - len(photographs)
    assert set(originals) <= {row.name for row in photographs if row in rows}
    assert not set(originals) & {fault.name for fault in faults}


def test_too_few_photographs_are_refused(photographs: list[Row]) -> None:
    with pytest.raises(ValueError, match="81 are needed"):
        fault_set.inject(photographs, 1, 3)


def test_every_fault_is_found_by_its_own_reason_or_rule(
    photographs: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(params, "STAGES", ("validate",))  # other stages' parameters are tested with them
    rows, faults = fault_set.inject(photographs, 1, 1)
    validation_faults.prepare(tmp_path, rows)
    with pytest.raises(DataRejected):
        validate.main()
    found = validation_faults.findings(tmp_path)
    assert [fault.kind for fault in faults if not found.has(fault)] == []
    good = {row.name for row in photographs} - {fault.name for fault in faults} - {fault.original for fault in faults}
    assert not good & found.flagged("critical")
