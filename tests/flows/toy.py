"""A git + DVC checkout with the seven stages' names and a second's worth of work, for tests of the flows."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

STAGES = ("download", "validate", "split", "feature_extract", "fine_tune", "evaluate", "export")
NEEDS = {
    "download": (),
    "validate": ("download",),
    "split": ("validate",),
    "feature_extract": ("download", "split"),
    "fine_tune": ("feature_extract",),
    "evaluate": ("fine_tune", "split"),
    "export": ("fine_tune", "evaluate"),
}
# Adds its inputs' words and its own parameters. `sleep` is seconds of work; `exit` an exit code to fail with;
# `epochs` work that is resumed where a kill cut it. Each run is noted with its start and end, outside DVC's sight.
STAGE = """
import fcntl, hashlib, json, os, sys, time
from pathlib import Path
from ruamel.yaml import YAML

name = sys.argv[1]
settings = YAML(typ="safe").load(Path("params.yaml").read_text())[name] or {}
needs = sys.argv[2:]
journal = Path(os.environ.get("TOY_JOURNAL") or "journal.log")

def note(word, **more):
    with journal.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(json.dumps({"stage": name, "what": word, "pid": os.getpid(), "at": time.time(),
                               "value": settings.get("value"), "root": os.getcwd(), **more}) + "\\n")

note("start")
words = [Path(f"data/{need}/out.txt").read_text() for need in needs]
epochs, kept = settings.get("epochs", 0), Path(".graft/toy-epochs")
done, model = kept.read_text().split() if epochs and kept.exists() else (0, "untrained")
for epoch in range(int(done), epochs):
    time.sleep(settings.get("sleep", 0) / epochs)
    kept.parent.mkdir(exist_ok=True)
    model = hashlib.sha256(f"{model} {epoch}".encode()).hexdigest()
    kept.with_suffix(".tmp").write_text(f"{epoch + 1} {model}")
    kept.with_suffix(".tmp").rename(kept)
    note("epoch", epoch=epoch + 1)
    print(f"{name}: {100 * (epoch + 1) // epochs} % epoch {epoch + 1} of {epochs}", flush=True)
kept.unlink(missing_ok=True)
if not epochs:
    time.sleep(settings.get("sleep", 0))
if settings.get("exit", 0) < 0:
    os.kill(os.getpid(), -settings["exit"])
if settings.get("exit"):
    print(f"{name} failed (exit {settings['exit']}): the toy was told to fail", file=sys.stderr)
    sys.exit(settings["exit"])
out = Path(f"data/{name}")
out.mkdir(parents=True, exist_ok=True)
trained = f" trained to {model}" if epochs else ""
(out / "out.txt").write_text("".join(words) + f"{name} {settings.get('value', 0)}{trained}\\n")
note("end")
print(f"{name}: done")
"""


def trained_to(epochs: int) -> str:
    """What an uninterrupted training of so many epochs makes: each depends on the one before."""
    model = "untrained"
    for epoch in range(epochs):
        model = hashlib.sha256(f"{model} {epoch}".encode()).hexdigest()
    return model


class Toy:
    """A checkout to run flows in. `journal` tells what really ran."""

    def __init__(self, folder: Path, **params: dict[str, Any]) -> None:
        self.folder = folder
        self.journal = folder / "journal.log"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "stage.py").write_text(STAGE)
        stages: dict[str, Any] = {}
        for name, needs in NEEDS.items():
            stages[name] = {
                "cmd": f"python stage.py {name} {' '.join(needs)}".strip(),
                "params": [name],
                "deps": ["stage.py", *(f"data/{need}" for need in needs)],
                "outs": [f"data/{name}"],
            }
        stages["fine_tune"]["meta"] = {"resource": "gpu"}
        YAML().dump({"stages": stages}, folder / "dvc.yaml")
        blocks = {name: {"value": 0, **params.get(name, {})} for name in STAGES}
        YAML().dump(blocks, folder / "params.yaml")
        (folder / ".gitignore").write_text("/data/\n/journal.log\n/.graft/\n/reports/\n")
        self.git("init", "-q", "-b", "main")
        self.run("-m", "dvc", "init", "-q")
        self.run("-m", "dvc", "config", "core.analytics", "false")
        self.commit("Start")

    def git(self, *arguments: str) -> str:
        who = ["-c", "user.name=Test", "-c", "user.email=test@example.com"]
        done = subprocess.run(["git", *who, *arguments], cwd=self.folder, check=True, capture_output=True, text=True)
        return done.stdout

    def commit(self, message: str) -> None:
        self.git("add", "-A")
        self.git("commit", "-q", "-m", message)

    def run(self, *arguments: str, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
        """This environment's Python in the checkout."""
        done = subprocess.run(
            [sys.executable, *arguments], cwd=self.folder, env={**self.environment(), **environment},
            capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    def environment(self) -> dict[str, str]:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return {**os.environ, "PATH": path, "TOY_JOURNAL": str(self.journal)}

    def repro(self, *arguments: str) -> list[str]:
        """`dvc repro`; returns what it ran."""
        return re.findall(r"Running stage '(\w+)'", self.run("-m", "dvc", "repro", *arguments).stdout)

    def ran(self, what: str = "end") -> list[str]:
        """The stages in the journal, in order, by a word of it: start, epoch, end."""
        return [entry["stage"] for entry in self.entries() if entry["what"] == what]

    def entries(self) -> list[dict[str, Any]]:
        import json

        return [json.loads(line) for line in self.journal.read_text().splitlines()] if self.journal.exists() else []

    def forget(self) -> None:
        """Empty the journal."""
        self.journal.unlink(missing_ok=True)

    def set(self, **blocks: dict[str, Any]) -> None:
        """Change params.yaml."""
        yaml = YAML()
        values = yaml.load(self.folder / "params.yaml")
        for block, changes in blocks.items():
            values[block].update(changes)
        yaml.dump(values, self.folder / "params.yaml")

    def lock(self) -> str:
        return (self.folder / "dvc.lock").read_text()

    def out(self, stage: str) -> str:
        return (self.folder / "data" / stage / "out.txt").read_text()

    def copy(self, folder: Path) -> Toy:
        """The same checkout, data and cache included, elsewhere."""
        shutil.copytree(self.folder, folder, symlinks=True)
        other = object.__new__(Toy)
        other.folder, other.journal = folder, folder / "journal.log"
        return other
