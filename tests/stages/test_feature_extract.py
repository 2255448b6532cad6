"""feature_extract costs what changed: known views are taken from the memo, and no output shows where they came from."""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from ruamel.yaml import YAML

from stages.core.schemas import FEATURES, IMAGES, SPLIT
from stages.store import documents, hashes, tables
from stages.store.features import FeatureReader

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
SETTINGS = {
    "backbone": "MobileNetV2",
    "alpha": 0.35,
    "image_size": 32,
    "cut_at": 100,
    "views": 3,
    "pixels": True,
    "batch_size": 8,
}


def picture(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 36, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


class Workspace:
    """A folder with stored images, a split and parameters, in which feature_extract runs as a process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "data/download/images").mkdir(parents=True)
        (folder / "data/split").mkdir()
        (folder / "data/validate").mkdir()
        weights = ROOT / "pretraining/mobilenet_v2_0.35_96_letters.weights.h5"
        self.values = YAML(typ="safe").load(ROOT / "recipes/digits.yaml")
        self.values["feature_extract"] = {
            **SETTINGS, "weights": str(weights), "weights_sha256": hashes.sha256_of_file(weights)
        }  # fmt: skip
        self.images = {f"{number:03}.png": picture(number) for number in range(40)}
        documents.write(folder / "data/validate/classes.json", {"classes": ["a", "b"]})

    def run(self, **settings: Any) -> str:
        """Store images, split and parameters and run; returns the summary line."""
        process = self.start(**settings)
        _, printed = process.communicate(timeout=300)
        assert process.returncode == 0, printed
        return " ".join(printed.split())

    def start(self, **settings: Any) -> subprocess.Popen[str]:
        rows = [
            {"name": name, "label": "ab"[int(name[:3]) % 2], "given_split": None,
             "image_id": hashlib.sha256(data).hexdigest(), "bytes": data}
            for name, data in sorted(self.images.items())
        ]  # fmt: skip
        for old in (self.folder / "data/download/images").glob("*"):
            old.unlink()
        for number, half in enumerate((rows[:15], rows[15:])):
            tables.write(self.folder / f"data/download/images/{number}.parquet", tables.from_rows(half, IMAGES))
        kept = [{key: row[key] for key in ("name", "label", "image_id")} for row in rows]
        for row in kept:
            last = int(row["name"][2])
            row |= {"group": row["image_id"], "split": "test" if last == 0 else "val" if last == 1 else "train"}
        kept.sort(key=lambda row: (row["split"], row["name"]))
        tables.write(self.folder / "data/split/split.parquet", tables.from_rows(kept, SPLIT))
        with (self.folder / "params.yaml").open("w") as file:
            YAML().dump({**self.values, "feature_extract": self.values["feature_extract"] | settings}, file)
        environment = {key: value for key, value in os.environ.items() if key != "KERAS_BACKEND"}
        return subprocess.Popen(
            [sys.executable, "-m", "stages.feature_extract"], cwd=self.folder, stderr=subprocess.PIPE, text=True,
            env=environment | {"PYTHONPATH": str(ROOT)},
        )  # fmt: skip

    @property
    def memo(self) -> Path:
        return self.folder / ".graft/memo"

    def outputs(self) -> dict[str, str]:
        return hashes.sha256_of_tree(self.folder / "data/feature_extract")

    def cold(self, **settings: Any) -> dict[str, str]:
        """The outputs of a run with an empty memo; the memo is put back."""
        kept = self.memo.rename(self.folder / "kept") if self.memo.exists() else None
        self.run(**settings)
        found = self.outputs()
        shutil.rmtree(self.memo)
        if kept is not None:
            kept.rename(self.memo)
        return found


def computed(summary: str) -> int:
    found = re.search(r": ([\d,]+) through the frozen trunk", summary)
    assert found, summary
    return int(found[1].replace(",", ""))


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    made = Workspace(tmp_path_factory.mktemp("extract"))
    # 4 test, 4 val and 32 training images of 3 views.
    assert computed(made.run()) == 8 + 3 * 32
    return made


def test_an_unchanged_run_computes_nothing_and_gives_the_same_bytes(workspace: Workspace) -> None:
    before = workspace.outputs()
    assert computed(workspace.run()) == 0
    assert workspace.outputs() == before
    assert workspace.cold() == before


def test_only_new_and_changed_images_are_computed_and_deleted_ones_vanish(workspace: Workspace) -> None:
    workspace.images["005.png"] = picture(1005)  # train
    workspace.images["101.png"] = picture(1101)  # val, new
    del workspace.images["007.png"], workspace.images["010.png"]
    assert computed(workspace.run()) == 3 + 1
    warm = workspace.outputs()
    names = set(tables.read(workspace.folder / "data/feature_extract/index.parquet", FEATURES)["name"].to_pylist())
    assert names == set(workspace.images)
    assert warm == workspace.cold()


def test_a_row_is_where_the_index_says(workspace: Workspace) -> None:
    workspace.run(rows_per_shard=7)
    stored = FeatureReader(workspace.folder / "data/feature_extract")
    small = {split: stored.examples("pooled", split) for split in ("train", "val", "test")}
    rows = {
        (split, name): small[split].take(np.array([number]), np.array([0]))[0]
        for split in small
        for number, name in enumerate(small[split].names)
    }
    pixels = stored.examples("pixels", "val")
    shown = pixels.take(np.arange(len(pixels.names)), np.zeros(len(pixels.names), np.intp))
    for name, found in zip(pixels.names, shown, strict=True):
        resized = Image.open(io.BytesIO(workspace.images[name])).resize((32, 32), Image.Resampling.BILINEAR)
        assert np.array_equal(found, np.asarray(resized))
    workspace.run()
    whole = FeatureReader(workspace.folder / "data/feature_extract")
    for split in small:
        examples = whole.examples("pooled", split)
        for number, name in enumerate(examples.names):
            assert np.array_equal(examples.take(np.array([number]), np.array([0]))[0], rows[split, name])


def test_another_augmentation_keeps_the_images_themselves(workspace: Workspace) -> None:
    train = sum(name[2] not in "01" for name in workspace.images)
    assert computed(workspace.run(seed=5)) == 2 * train
    assert computed(workspace.run(augmentation={"flip": False})) == 2 * train
    assert computed(workspace.run(views=2)) == 0
    assert computed(workspace.run()) == 0


def test_another_cut_or_size_is_computed_anew(workspace: Workspace) -> None:
    every = int(re.search(r"([\d,]+) views", workspace.run())[1])  # type: ignore[index]
    assert computed(workspace.run(cut_at=60)) == every
    assert computed(workspace.run(image_size=48)) == every
    assert computed(workspace.run()) == 0


def test_damage_in_the_memo_is_computed_anew(workspace: Workspace) -> None:
    good = workspace.outputs()
    packs = sorted(workspace.memo.glob("*/*/*.rows"))
    assert packs
    for pack in packs:
        data = bytearray(pack.read_bytes())
        data[len(data) * 3 // 4] ^= 1
        pack.write_bytes(data)
    assert computed(workspace.run()) >= 1
    assert workspace.outputs() == good
    assert computed(workspace.run()) == 0
    for pack in workspace.memo.glob("*/*/*.rows"):
        pack.write_bytes(pack.read_bytes()[:-100])
    workspace.run()
    assert workspace.outputs() == good


def test_a_killed_run_goes_on_where_it_was(workspace: Workspace) -> None:
    """With more views than one pack of the memo holds, a kill late in the run loses the last pack at most."""
    settings = {"views": 64, "seed": 77, "image_size": 96}
    process = workspace.start(**settings)
    assert process.stderr is not None
    for line in process.stderr:
        if " 90 % running" in line:
            process.send_signal(signal.SIGKILL)
            break
    process.wait(timeout=60)
    process.stderr.close()
    assert process.returncode == -signal.SIGKILL
    left = workspace.outputs()
    again = computed(workspace.run(**settings))
    every = int(re.search(r"([\d,]+) views", workspace.run(**settings))[1].replace(",", ""))  # type: ignore[index]
    assert 0 < again < every * 0.6
    assert workspace.outputs() != left
    assert not list((workspace.folder / "data").glob(".*partial"))
    assert workspace.outputs() == workspace.cold(**settings)


def test_the_memo_may_be_lost_or_unusable(workspace: Workspace) -> None:
    good = workspace.cold()
    shutil.rmtree(workspace.memo)
    workspace.memo.parent.mkdir(exist_ok=True)
    workspace.memo.write_text("a file in the folder's place")
    workspace.run()
    assert workspace.outputs() == good
    workspace.memo.unlink()
