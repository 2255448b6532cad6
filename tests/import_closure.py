"""Which files of this repository and which libraries a module imports, directly or not.

`python -m tests.import_closure [stage ...]` prints what dvc.yaml and stages/versions/ have to list.
"""

from __future__ import annotations

import ast
import sys
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
STAGES = ("download", "validate", "split", "feature_extract", "fine_tune", "evaluate", "export")

# Extras that may be absent where the tests run.
EXTRAS = {
    **{"huggingface_hub": "huggingface-hub", "kagglehub": "kagglehub", "keras_hub": "keras-hub"},
    **{"onnx": "onnx", "onnxruntime": "onnxruntime", "tf2onnx": "tf2onnx"},
}
# Imported by Keras's exporter and by the script that export has an exported model run in.
BY_NAME = {"stages/export.py": {"onnxruntime", "tf2onnx"}}
# They parse parameters, print progress or fetch what is held against a hash: another version changes no output.
CHANGES_NOTHING = {"huggingface-hub", "kagglehub", "packaging", "pydantic", "rich", "ruamel-yaml", "ruamel-yaml-clib"}


@cache
def imports_of(path: Path) -> frozenset[str]:
    """Repository files that a file names in an import at any depth; typing-only imports do not run."""
    files = (ROOT / (name.replace(".", "/") + ".py") for name in _names(path))
    return frozenset(file.relative_to(ROOT).as_posix() for file in files if file.is_file())


def closure(path: Path) -> list[str]:
    """The file itself and everything it imports from this repository, sorted; package `__init__`s hold no code."""
    seen: set[str] = set()
    todo = [path.relative_to(ROOT).as_posix()]
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            todo += imports_of(ROOT / name)
    return sorted(seen)


def libraries(path: Path) -> list[str]:
    """Distributions that the files of the closure import and that change what a stage writes, by name, sorted.

    What only these import in turn is not among them. Raises KeyError naming a module that is not installed.
    """
    distributions = packages_distributions()
    modules = {name.split(".")[0] for file in closure(path) for name in _names(ROOT / file)}
    names = {
        canonicalize_name(distribution)
        for module in modules - {"stages"} - set(sys.stdlib_module_names) - set(EXTRAS)
        for distribution in distributions[module]
    }
    names |= {EXTRAS[module] for module in modules & set(EXTRAS)}
    names |= BY_NAME.get(path.relative_to(ROOT).as_posix(), set())
    return sorted(names - CHANGES_NOTHING)


@cache
def _names(path: Path) -> frozenset[str]:
    """Every module that a file names in an import that can run, and everything it takes from one."""
    nodes = _running(ast.parse(path.read_text()))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(names)


def _running(tree: ast.AST) -> list[ast.AST]:
    """Every node but those under `if TYPE_CHECKING:`."""
    nodes: list[ast.AST] = []
    todo = [tree]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            todo += node.orelse
            continue
        nodes.append(node)
        todo += ast.iter_child_nodes(node)
    return nodes


if __name__ == "__main__":
    for stage in sys.argv[1:] or STAGES:
        path = ROOT / f"stages/{stage}.py"
        sys.stdout.write(f"{stage}:\n" + "".join(f"      - {name}\n" for name in closure(path)))
        sys.stdout.write(f"stages/versions/{stage}.txt:\n" + "".join(f"      {name}\n" for name in libraries(path)))
