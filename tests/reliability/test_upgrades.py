"""Row 65: what is kept is kept under the versions that change its bytes, and what older versions wrote is readable."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from flows.intact import Inspection
from flows.recorded import stages_of
from stages.core import measurement
from stages.core.augmentation import Augmentation
from stages.store import checkpoints, inputs, measurements, view_memo
from tests import import_closure

OLD_LOCK = """
schema: '2.0'
stages:
  split:
    cmd: python -m stages.split
    deps:
    - path: data/validate
      md5: 0123456789abcdef0123456789abcdef.dir
    outs:
    - path: data/split
      md5: 8d777f385d3dfec8815d20f7496026dc.dir
      size: 12
      nfiles: 1
"""


def kept_at(**changed: str) -> tuple[Path, Path]:
    """Where the memo of activations and that of pixels lie."""
    engine = SimpleNamespace(name="openvino", device="CPU", versions={"openvino": changed.get("openvino", "1")})
    trunk = {
        "activation_shape": [2, 2, 4], "pooled_features": 8, "cut": 97, "preprocessing": "tf", "weights_digest": "00",
        "settings": {"image_size": 32, "backbone": "MobileNetV2", "alpha": 0.35},
    }  # fmt: skip
    table = pa.table({"image_id": pa.array(["0" * 64])})
    store: Any = None
    memo = view_memo.ViewMemo(store, table, engine, trunk, Augmentation(), 1)  # type: ignore[arg-type]
    return memo._features._files.path, memo._pixels._files.path


def test_memos_of_pictures_and_activations_lie_under_the_versions_that_make_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    features, pixels = kept_at()
    assert kept_at() == (features, pixels)
    assert kept_at(openvino="2")[0] != features
    assert kept_at(openvino="2")[1] == pixels
    for name in ("numpy", "pillow"):
        with monkeypatch.context() as patched:
            patched.setitem(view_memo.PIXEL_VERSIONS, name, "0")
            assert kept_at()[0] != features
            assert kept_at()[1] != pixels
    with monkeypatch.context() as patched:
        patched.setattr(view_memo, "version", lambda name: f"another {name}")
        assert kept_at()[0] != features


@pytest.mark.parametrize("name", measurement.VERSIONS)
def test_facts_are_kept_under_the_decoders_versions(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Path] = []

    class Recorded(Exception):
        """Enough is known."""

    def memo(folder: Path, schema: pa.Schema) -> Any:
        made.append(folder)
        raise Recorded

    monkeypatch.setattr(measurements, "Memo", memo)
    limits = measurements.Limits(1, 1.0, 2**30)
    for _ in range(2):
        with pytest.raises(Recorded):
            measurements.of_shards(Path("nowhere"), 0, limits)
        monkeypatch.setitem(measurement.VERSIONS, name, "0")
    assert made[0] != made[1]
    assert {"pillow", "numpy", "libjpeg_turbo", "zlib"} <= measurement.VERSIONS.keys()


def test_facts_are_kept_under_every_source_that_makes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """So what was kept before a fact was measured is not read as if it had been."""
    asked: list[str] = []

    class Recorded(Exception):
        """Enough is known."""

    def fingerprint(modules: Any, versions: Any) -> str:
        asked.extend(module.__name__ for module in modules)
        raise Recorded

    monkeypatch.setattr(measurements, "fingerprint", fingerprint)
    with pytest.raises(Recorded):
        measurements.of_shards(Path("nowhere"), 0, measurements.Limits(1, 1.0, 2**30))
    sources = import_closure.closure(import_closure.ROOT / "stages/core/measurement.py")
    assert sorted(asked) == [source.removesuffix(".py").replace("/", ".") for source in sources]


def test_checkpoints_name_the_packages_that_train() -> None:
    """That each counts: tests/store/test_checkpoints.py."""
    made_of = {"tensorflow", "keras", "numpy", "pillow", "opencv-python-headless", "openvino"}
    assert made_of <= set(checkpoints.PACKAGES)


def test_a_lock_of_dvc_2_is_read_and_its_other_kind_of_hash_is_let_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DVC 2 hashed text with its line ends changed, and said so by having no `hash` key."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data/split").mkdir(parents=True)
    (tmp_path / "data/split/split.json").write_text("{}\r\n")
    Path("dvc.lock").write_text(OLD_LOCK)
    Path("dvc.yaml").write_text("stages:\n  feature_extract:\n    cmd: x\n    deps: [data/split]\n")
    monkeypatch.setenv("DVC_STAGE", "feature_extract")
    inputs.check("feature_extract")
    (out,) = stages_of(OLD_LOCK)["split"]["outs"]
    repo = SimpleNamespace(
        root_dir=str(tmp_path), cache=SimpleNamespace(local=SimpleNamespace(path=tmp_path)), config={"core": {}}
    )
    assert Inspection(repo, thorough=True).look([out]) == []
