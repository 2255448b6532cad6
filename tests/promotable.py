"""A checkout with a git origin and a DVC remote, whose models are made in a second: what promotion reads, for tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from stages.store import hashes

ROOT = Path(__file__).parents[1]
# Of the seven stages two write nothing of use, the others what promotion reads. A model is right on an image whose
# difficulty is below its skill, and by its own luck on one of fifty.
STAGE = """
import json, sys
from pathlib import Path

name = sys.argv[1]
if name in ("download", "feature_extract"):
    Path(f"data/{name}").mkdir(parents=True, exist_ok=True)
    Path(f"data/{name}/nothing.txt").write_text("nothing")
    sys.exit()
import numpy as np
from ruamel.yaml import YAML
from stages.core import schemas
from stages.store import tables

settings = YAML(typ="safe").load(Path("params.yaml").read_text())
classes, count = settings["validate"]["classes"], settings["validate"]["images"]
folder = Path("reports/evaluate" if name == "evaluate" else f"data/{name}")
folder.mkdir(parents=True, exist_ok=True)
kinds = {"string": "x", "int32": 32, "int64": 32, "double": 0.5, "bool": True}
images = [{"name": f"{classes[n % len(classes)]}/{n:04}.png", "label": classes[n % len(classes)],
           "image_id": f"{n:064x}", "group": f"{n:064x}"} for n in range(count)]
start, end = settings["split"]["test"]
for n, image in enumerate(images):
    image["split"] = "test" if start <= n < end else "train"
if name == "validate":
    (folder / "classes.json").write_text(json.dumps({"classes": classes}))
    rows = [{**{field.name: kinds[str(field.type)] for field in schemas.FACTS}, "given_split": None,
             "brightness": n % 7 / 7, **{key: image[key] for key in ("name", "label", "image_id", "group")}}
            for n, image in enumerate(images)]
    tables.write(folder / "facts.parquet", tables.from_rows(rows, schemas.FACTS))
if name == "split":
    tables.write(folder / "split.parquet", tables.from_rows(images, schemas.SPLIT))
if name == "fine_tune":
    (folder / "model.keras").write_text(json.dumps(settings["fine_tune"]))
if name == "evaluate":
    model = json.loads(Path("data/fine_tune/model.keras").read_text())
    right = np.random.default_rng(0).random(count) < model["skill"]
    right ^= np.random.default_rng(model["seed"]).random(count) < 0.02
    rows = []
    for n, image in enumerate(images):
        if image["split"] == "test":
            named = (n + (not right[n])) % len(classes)
            sure = [(1 - model["skill"]) / (len(classes) - 1)] * len(classes)
            sure[named] = model["skill"]
            rows.append({**{key: image[key] for key in ("name", "image_id", "split", "label")},
                         "predicted": classes[named], "probabilities": sure})
    tables.write(folder / "predictions.parquet", tables.from_rows(rows, schemas.PREDICTIONS))
if name == "export":
    how = json.dumps(settings["export"])
    (folder / "model.bin").write_text(f"exported {how} {Path('data/fine_tune/model.keras').read_text()}")
    (folder / "labels.txt").write_text("\\n".join(classes))
    if missing := settings["export"].get("missing"):
        why = {missing: {"published": False, "why": "cannot be written"}, "saved_model": {"published": True}}
        (folder / "certificate.json").write_text(json.dumps(why))
"""
NEEDS = {
    "download": [],
    "validate": ["data/download"],
    "split": ["data/validate"],
    "feature_extract": ["data/split"],
    "fine_tune": ["data/feature_extract"],
    "evaluate": ["data/fine_tune", "data/split/split.parquet"],
    "export": ["data/fine_tune/model.keras", "data/split/split.parquet", "reports/evaluate/predictions.parquet"],
}
OUT = {name: "reports/evaluate" if name == "evaluate" else f"data/{name}" for name in NEEDS}


class Project:
    """A checkout with a git origin and a DVC remote beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def make(cls, world: Path) -> Project:
        self = cls(world / "here")
        self.folder.mkdir(parents=True)
        (self.folder / "stage.py").write_text(STAGE)
        stages = {
            name: {
                "cmd": f"python stage.py {name}",
                "deps": ["stage.py", *needs],
                "params": [name],
                "outs": [OUT[name]],
            }
            for name, needs in NEEDS.items()
        }
        # Images that neither git nor DVC has, in a folder that git keeps.
        stages["download"]["deps"].append("data/images")
        artifacts = YAML(typ="safe").load(ROOT / "dvc.yaml")["artifacts"]
        YAML().dump({"stages": stages, "artifacts": artifacts}, self.folder / "dvc.yaml")
        blocks: dict[str, Any] = {name: {} for name in NEEDS}
        blocks["download"] = {"source": "data/images"}
        blocks["validate"] = {"classes": ["cat", "dog"], "images": 1000}
        blocks["split"] = {"test": [0, 600]}
        blocks["fine_tune"] = {"skill": 0.85, "seed": 1}
        YAML().dump(blocks, self.folder / "params.yaml")
        for name in (".gitkeep", "1.jpg"):
            (self.folder / "data/images").mkdir(parents=True, exist_ok=True)
            (self.folder / "data/images" / name).touch()
        (self.folder / ".gitignore").write_text(
            "/data/*\n!/data/images/\n/data/images/*\n!/data/images/.gitkeep\n/reports/\n/.graft/\n"
        )
        subprocess.run(["git", "init", "-q", "--bare", "-b", "main", str(world / "origin")], check=True)
        self.git("init", "-q", "-b", "main")
        self.git("remote", "add", "origin", str(world / "origin"))
        self.python("-m", "dvc", "init", "-q")
        self.python("-m", "dvc", "remote", "add", "-q", "-d", "store", str(world / "store"))
        self.python("-m", "dvc", "config", "core.analytics", "false")
        return self

    def git(self, *arguments: str) -> str:
        who = ["-c", "user.name=Test", "-c", "user.email=test@example.com"]
        return subprocess.run(
            ["git", *who, *arguments], cwd=self.folder, check=True, capture_output=True, text=True
        ).stdout.strip()

    def python(self, *arguments: str, code: int = 0) -> str:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            [sys.executable, "-W", "ignore", *arguments], cwd=self.folder, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, timeout=300,
            env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "DVC_NO_ANALYTICS": "1"},
        )  # fmt: skip
        assert done.returncode == code, done.stdout
        return done.stdout

    def set(self, **blocks: dict[str, Any]) -> None:
        """Change params.yaml."""
        values = YAML().load(self.folder / "params.yaml")
        for block, changes in blocks.items():
            values[block].update(changes)
        YAML().dump(values, self.folder / "params.yaml")

    def train(self, commit: str | None, **blocks: dict[str, Any]) -> None:
        """`dvc repro` after these changes, and a commit of the result where `commit` names one."""
        self.set(**blocks)
        self.python("-m", "dvc", "repro", "-q")
        if commit:
            self.commit(commit)

    def commit(self, message: str) -> None:
        self.git("add", "-A")
        self.git("commit", "-q", "-m", message)
        self.git("push", "-q", "origin", "HEAD:main")

    def promote(self, *options: str, code: int = 0) -> str:
        return self.python("-m", "commands", "promote", *options, code=code)

    def gto(self, *arguments: str) -> str:
        return self.python(str(Path(sys.executable).parent / "gto"), *arguments)

    def tags(self) -> list[str]:
        return self.git("tag", "--list").split()

    def body(self, tag: str) -> Any:
        return json.loads(self.git("for-each-ref", "--format=%(contents:body)", f"refs/tags/{tag}"))

    def fetch(self, out: Path, *which: str) -> dict[str, str]:
        """`dvc artifacts get` from the origin, with an empty cache; SHA-256 by name."""
        address = self.git("remote", "get-url", "origin")
        self.python("-m", "dvc", "artifacts", "get", address, "classifier", *which, "-o", str(out))
        return hashes.sha256_of_tree(out)

    def exported(self) -> dict[str, str]:
        return hashes.sha256_of_tree(self.folder / "data/export")
