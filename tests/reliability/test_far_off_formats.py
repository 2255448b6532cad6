"""A format that names the evaluated classes with other probabilities is not published, by the bound of its kind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stages import export
from stages.core.errors import ConfigError, IntegrityError
from stages.store import documents, exported_files
from tests import exportable


def doubting(right: Any) -> Any:
    """The same classes, all but a coin's."""
    return 0.5 + (right - 0.5) / 100


@pytest.mark.parametrize("optional", [True, False])
def test_a_format_that_is_far_off_is_not_published_though_it_names_the_same_classes(
    project: Path, scripted: Callable[..., None], optional: bool
) -> None:
    scripted(ask={"litert": doubting, "litert_int8": doubting})
    chosen = {"formats": ["litert", "litert_int8", "keras"], "optional": ["litert"] if optional else []}
    exportable.choose(project, chosen)
    summary = export.main()
    found = documents.read(project / "data/export/certificate.json")
    gap = found["litert"]["largest_gap"]
    for name, key, allowed in (("litert", "tolerance", 0.02), ("litert_int8", "tolerance_int8", 0.2)):
        assert f"{name} not published, " in summary
        assert (found[name]["agreement"], found[name]["largest_gap"], found[name]["published"]) == (1.0, gap, False)
        assert f"up to {gap} off in a probability, and export.{key} allows {allowed} (" in found[name]["why"]
        assert f"- `{name}` is up to {gap} off" in (project / "data/export/MODEL_CARD.md").read_text()
        with pytest.raises(ConfigError, match=rf"it is up to {gap} off .*leave it out of export\.formats, or raise "):
            exported_files.check(project / "data/export", name)
    assert not [name for name in exportable.published(project) if name.endswith("tflite")]
    assert "model.keras" in exportable.published(project)
    # Each bound is its own kind's, and the figure of the refusal is the bound that would do.
    exportable.choose(project, {**chosen, "tolerance": gap})
    export.main()
    found = documents.read(project / "data/export/certificate.json")
    assert (found["litert"]["published"], found["litert_int8"]["published"]) == (True, False)
    exportable.choose(project, {**chosen, "tolerance": gap, "tolerance_int8": gap})
    export.main()
    assert {"model.tflite", "model_int8.tflite"} < set(exportable.published(project))


def test_a_savedmodel_that_is_far_off_ends_the_stage_and_keeps_the_export_of_before(
    project: Path, scripted: Callable[..., None]
) -> None:
    scripted(ask={"saved_model": doubting})
    exportable.choose(project, {"formats": ["keras"]})
    with pytest.raises(IntegrityError, match=r"saved_model is up to 0\.\d+ off .* \(raise export\.tol") as caught:
        export.main()
    assert caught.value.exit_code == 4
    assert exportable.published(project) == ["model.keras"]
    assert (project / "data/export/model.keras").read_bytes() == b"the model before"
