"""Which files of this repository a module imports, directly or not. `python -m tests.import_closure` prints them."""

from __future__ import annotations

import ast
import sys
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
STAGES = ("download", "validate", "split", "feature_extract", "fine_tune", "evaluate", "export")


@cache
def imports_of(path: Path) -> frozenset[str]:
    """Repository files that a file names in an import at any depth; typing-only imports do not run."""
    found: set[str] = set()
    nodes = _running(ast.parse(path.read_text()))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    for name in names:
        file = ROOT / (name.replace(".", "/") + ".py")
        if file.is_file():
            found.add(file.relative_to(ROOT).as_posix())
    return frozenset(found)


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
        sys.stdout.write(f"{stage}:\n" + "".join(f"      - {name}\n" for name in closure(ROOT / f"stages/{stage}.py")))
