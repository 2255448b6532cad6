"""One name everywhere: dvc.yaml, params.yaml, the recipes, the stages and their folders agree."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path
from typing import Any, get_args

import pytest
from ruamel.yaml import YAML

from flows import listing
from stages.core.parameters import StageParams
from stages.store import params, sources
from tests.import_closure import closure, libraries

ROOT = Path(__file__).parent.parent
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
DVC: dict[str, Any] = YAML(typ="safe").load(ROOT / "dvc.yaml")
LIBRARIES = "stages/versions/"
STAGES: dict[str, Any] = DVC["stages"]


def parts(stage: dict[str, Any]) -> tuple[list[str], list[str]]:
    """(modules, other dependencies but the file of libraries) of a stage in dvc.yaml."""
    modules = [path for path in stage["deps"] if path.endswith(".py")]
    return modules, [path for path in stage["deps"] if not path.endswith(".py") and not path.startswith(LIBRARIES)]


def test_the_seven_stages_in_order() -> None:
    assert tuple(STAGES) == params.STAGES
    modules = {path.stem for path in (ROOT / "stages").glob("*.py")} - {"__init__"}
    assert modules == set(params.STAGES)


@pytest.mark.parametrize("name", params.STAGES)
def test_a_stage_is_one_name(name: str) -> None:
    stage = STAGES[name]
    assert stage["cmd"] == f"python -m stages.{name}"
    assert stage["params"] == [name]
    assert set(stage["outs"]) <= {f"data/{name}", f"reports/{name}"}
    assert issubclass(params.params_type_of(name), StageParams)
    source = (ROOT / "stages" / f"{name}.py").read_text()
    assert f'process.run("{name}", main)' in source
    assert (ast.get_docstring(ast.parse(source)) or "").startswith(f"{name}: ")


def test_the_flow_calls_each_stage_once_in_order() -> None:
    from flows import pipeline, run

    assert params.STAGES == run.STAGES == get_args(pipeline.Stage)
    tree = ast.parse((ROOT / "flows" / "pipeline.py").read_text())
    flow = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "pipeline")
    calls = [node.func.id for node in ast.walk(flow) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    assert tuple(name for name in calls if name in params.STAGES) == params.STAGES
    made = {
        node.targets[0].id: node.value.args[0].value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call) and isinstance(node.targets[0], ast.Name)
        if isinstance(node.value.args[0], ast.Constant)
    }
    assert made == {name: name for name in params.STAGES}


@pytest.mark.parametrize("name", params.STAGES)
def test_dvc_yaml_lists_exactly_what_a_stage_imports(name: str) -> None:
    modules, _ = parts(STAGES[name])
    assert modules == closure(ROOT / "stages" / f"{name}.py")


@pytest.mark.parametrize("name", params.STAGES)
def test_a_stage_depends_on_the_versions_of_exactly_the_libraries_it_imports(name: str) -> None:
    path = f"{LIBRARIES}{name}.txt"
    assert [dep for dep in STAGES[name]["deps"] if dep.startswith(LIBRARIES)] == [path]
    lines = [line for line in (ROOT / path).read_text().splitlines() if not line.startswith("#")]
    assert sorted({line.split("==")[0] for line in lines}) == libraries(ROOT / "stages" / f"{name}.py")
    pinned = (ROOT / "constraints.txt").read_text().replace("'", '"').splitlines()
    assert lines == [one for one in pinned if one.split("==")[0] in {line.split("==")[0] for line in lines}]


def test_package_inits_hold_no_code() -> None:
    for path in (ROOT / "stages").rglob("__init__.py"):
        (only,) = ast.parse(path.read_text()).body
        assert isinstance(only, ast.Expr), path


@pytest.mark.parametrize("name", params.STAGES)
def test_paths_a_stage_names_are_its_dependencies_and_outputs(name: str) -> None:
    """Every path among a stage's constants is declared in dvc.yaml, and the other way round."""
    _, declared = parts(STAGES[name])
    outs = STAGES[name]["outs"]
    module = importlib.import_module(f"stages.{name}")
    constants = [value for key, value in vars(module).items() if key.isupper()]
    named = {path.as_posix() for value in constants for path in (value.values() if isinstance(value, dict) else [value])
             if isinstance(path, Path)}  # fmt: skip
    if "stages/store/pictures.py" in closure(ROOT / f"stages/{name}.py"):
        named.add("data/download/images")
    for path in named:
        assert any(path == other or path.startswith(f"{other}/") for other in [*declared, *outs]), path
    for path in [*declared, *outs]:
        if path != "${download.watch}":
            assert any(one == path or one.startswith(f"{path}/") or path.startswith(f"{one}/") for one in named), path


def test_dependencies_are_outputs_of_earlier_stages_or_kept_in_git() -> None:
    written = ["data/review"]
    for name, stage in STAGES.items():
        for path in parts(stage)[1]:
            if path != "${download.watch}":
                assert any(path == out or path.startswith(f"{out}/") for out in written), (name, path)
        written += stage["outs"]
    assert len(written) == len(set(written))
    assert (ROOT / "data/review/decisions.csv").is_file()


def test_only_fine_tune_asks_for_a_gpu() -> None:
    assert {name: stage.get("meta") for name, stage in STAGES.items() if "meta" in stage} == {
        "fine_tune": {"resource": "gpu"}
    }


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_loads_against_the_real_types(recipe: Path) -> None:
    blocks = params.read_all(recipe)
    assert set(blocks) == set(params.STAGES)
    written = YAML(typ="safe").load(recipe)
    for stage, values in written.items():
        for key in values:
            assert key in type(blocks[stage]).model_fields


def test_the_default_is_the_digits_recipe() -> None:
    assert (ROOT / "params.yaml").read_bytes() == (ROOT / "recipes" / "digits.yaml").read_bytes()
    assert {path.stem for path in RECIPES} == {"digits", "cats_and_dogs", "your_images"}


@pytest.mark.parametrize("stage", params.STAGES)
def test_every_parameter_says_what_it_is(stage: str) -> None:
    schema = params.params_type_of(stage).model_json_schema()
    for owner, part in {stage: schema, **schema.get("$defs", {})}.items():
        for name, field in part["properties"].items():
            assert field.get("description") or "$ref" in field, f"{owner}.{name} has no description"


def test_constraints_pin_every_dependency_and_name_no_address() -> None:
    text = (ROOT / "constraints.txt").read_text()
    assert "://" not in text
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert all(re.match(r"^[a-z0-9._-]+==[^ ;]+( ; .+)?$", line) for line in lines)
    pinned = {line.split("==")[0] for line in lines}
    declared = re.findall(r'^    "([A-Za-z0-9._-]+)[><=]', (ROOT / "pyproject.toml").read_text(), re.M)
    assert len(declared) > 15
    assert {re.sub(r"[-_.]+", "-", name).lower() for name in declared} <= pinned
    versions = {line.split("==")[0]: line.split("==")[1].split()[0] for line in lines}
    assert tuple(map(int, versions["fastapi"].split(".")[:2])) < (0, 151)
    assert tuple(map(int, versions["sqlalchemy"].split(".")[:2])) < (2, 1)


def test_flows_know_a_listing_by_the_name_that_download_gives_it() -> None:
    # Flows import no stage.
    assert listing.SUFFIX == sources.LISTING
    assert listing.STAGE in params.STAGES
