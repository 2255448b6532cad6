"""Who may import whom, which names are not used, and what may not be imported lightly."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from stages.store import params
from tests.import_closure import closure, imports_of

ROOT = Path(__file__).parent.parent
MODULES = sorted(path for folder in ("stages", "commands", "flows", "pretraining")
                 for path in (ROOT / folder).rglob("*.py"))  # fmt: skip
HEAVY = ("tensorflow", "keras", "great_expectations", "sklearn", "scipy")


def layer(path: str) -> str:
    """stages | core | store | commands | flows | pretraining."""
    folders = Path(path).parts[:-1]
    return folders[-1] if len(folders) > 1 else folders[0]


ALLOWED = {
    "core": {"core"},
    "store": {"core", "store"},
    "stages": {"core", "store"},
    "commands": {"core", "store", "stages", "commands", "checks", "flows"},
    "checks": {"core", "store", "stages", "commands", "checks", "flows"},
    "flows": {"flows"},
    "pretraining": {"core", "store", "pretraining"},
}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_point_down(path: Path) -> None:
    own = layer(path.relative_to(ROOT).as_posix())
    for imported in imports_of(path):
        if not imported.endswith("__init__.py"):
            assert layer(imported) in ALLOWED[own], f"{path.name} ({own}) imports {imported}"


@pytest.mark.parametrize("path", [path for path in MODULES if layer(path.relative_to(ROOT).as_posix()) == "core"],
                         ids=lambda path: path.stem)  # fmt: skip
def test_core_opens_nothing(path: Path) -> None:
    tree = ast.parse(path.read_text())
    nodes = list(ast.walk(tree))
    names = {alias.name.split(".")[0] for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {(node.module or "").split(".")[0] for node in nodes if isinstance(node, ast.ImportFrom)}
    classes = {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert "Path" not in classes  # PurePosixPath is arithmetic on names
    assert not names & {"os", "shutil", "tempfile", "socket", "urllib", "requests", "subprocess"}
    assert not names & {"dvc", "prefect", "great_expectations"}
    calls = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert "open" not in calls


@pytest.mark.parametrize("path", [path for path in MODULES if layer(path.relative_to(ROOT).as_posix()) == "flows"],
                         ids=lambda path: path.stem)  # fmt: skip
def test_flows_know_nothing_of_the_stages(path: Path) -> None:
    """They run where no model is trained: a worker starts in a second, and a stage can change without them."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    names = {alias.name.split(".")[0] for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {(node.module or "").split(".")[0] for node in nodes if isinstance(node, ast.ImportFrom)}
    assert not names & {*HEAVY, "pandas", "stages", "commands"}


def test_no_circle() -> None:
    for path in MODULES:
        for imported in imports_of(path):
            others = set(closure(ROOT / imported)) - {imported}
            assert path.relative_to(ROOT).as_posix() not in others, f"{path.name} and {imported} are in a circle"


def test_no_module_is_a_drawer() -> None:
    assert not {path.stem for path in MODULES} & {"utils", "util", "helpers", "helper", "common", "misc"}


@pytest.mark.parametrize("module", [*(f"stages.{name}" for name in params.STAGES), "commands.__main__"])
def test_importing_a_stage_or_the_command_is_light(module: str) -> None:
    """Checking parameters imports every stage; it may not cost TensorFlow's five seconds."""
    code = f"import sys, {module}; getattr({module}, 'application', str)(); print(set({HEAVY!r}) & set(sys.modules))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=True)
    assert done.stdout.strip() == "set()"
