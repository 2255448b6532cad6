"""Params files that fuzzing kept, and numbers that are legal nowhere: legal parameters, or one short error."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import fuzz, fuzz_targets
from stages.core.errors import ConfigError
from stages.store import params
from stages.store.isolation import map_isolated


def test_the_kept_corpus_of_params() -> None:
    files = fuzz.corpus("params")
    assert len(files) > 20
    judge = fuzz_targets.judge_params
    answers = list(map_isolated(judge, files, workers=1, cpu_seconds=30, memory_bytes=2**30))
    assert not [answer for answer in answers if not isinstance(answer, str) or answer.startswith(fuzz_targets.DEFECT)]
    assert answers.count("legal") >= 4  # the recipes among them
    assert any("not readable as YAML" in str(answer) for answer in answers)


def test_a_defect_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def raises(path: Path) -> None:
        raise KeyError("x")

    monkeypatch.setattr(params, "read_all", raises)
    assert "KeyError" in fuzz_targets.judge_params([b"{}"])[0]

    def talks(path: Path) -> None:
        raise ConfigError("x" * 100_000)

    monkeypatch.setattr(params, "read_all", talks)
    assert fuzz_targets.judge_params([b"{}"]) == ["DEFECT an error of 100000 characters"]


@pytest.mark.parametrize("epochs", ["1e9", "1000000000", "1_000_000_000", "9" * 400])
def test_a_billion_epochs_are_told_with_line_and_range(epochs: str, tmp_path: Path) -> None:
    blocks = "".join(f"{stage}: {{}}\n" for stage in params.STAGES if stage not in ("download", "fine_tune"))
    text = f"download: {{watch: x}}\nfine_tune:\n  head:\n    epochs: {epochs}\n{blocks}"
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        params.read_all(tmp_path / "params.yaml")
    assert "line 4: fine_tune.head.epochs: received " in str(caught.value)
    if len(epochs) < 400:
        assert "must be an integer >= 0 and <= 10000" in str(caught.value)
