"""Row 65: the lowest versions that pyproject.toml allows are computed from its bounds and what is offered."""

from __future__ import annotations

import tomllib

import pytest
from packaging.specifiers import SpecifierSet

from tests.reliability import table, version_matrix

PROJECT = tomllib.loads((table.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.mark.parametrize(
    ("bound", "offered", "lowest"),
    [
        (">=3.12", ["3.16.0", "3.12.1", "3.11.0"], "3.12.1"),
        (">=2.10,<3", ["3.0", "2.9", "2.10.0", "2.11"], "2.10.0"),
        (">=1,!=1.0", ["1.0.0", "1.0.1"], "1.0.1"),
        ("~=2.4", ["2.5", "3.0", "2.3"], "2.5"),
        (">=1", ["2.0", "1.5rc1"], "2.0"),
    ],
)
def test_the_lowest_offered_version_within_a_bound(bound: str, offered: list[str], lowest: str) -> None:
    assert str(version_matrix.lowest(SpecifierSet(bound), offered)) == lowest


@pytest.mark.parametrize(("bound", "said"), [("<2", "no lower end"), ("", "no lower end"), (">=3", "is offered")])
def test_a_bound_that_says_no_lowest_version_is_refused(bound: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        version_matrix.lowest(SpecifierSet(bound), ["1.0", "2.0"])


def test_bounds_of_a_dependency_and_of_an_extra_both_hold_and_other_platforms_do_not_count() -> None:
    project = {
        "dependencies": ["Ruamel.YAML>=0.18", "a[b]>=1", "c>=1; python_version < '3'"],
        "optional-dependencies": {"dev": ["a<2"], "other": ["d>=1"]},
    }
    found = version_matrix.bounds(project, "dev")
    assert found == {"ruamel-yaml": SpecifierSet(">=0.18"), "a": SpecifierSet(">=1,<2")}


def test_every_dependency_of_the_project_has_a_lower_end() -> None:
    found = version_matrix.bounds(PROJECT, version_matrix.EXTRA)
    assert {"tensorflow", "ruamel-yaml", "pytest"} <= found.keys()
    for name, allowed in found.items():
        ends = [one.version for one in allowed]
        assert str(version_matrix.lowest(allowed, ends)) in ends, name


def test_the_files_that_are_run_and_the_tests_that_are_left_out_exist() -> None:
    for file in version_matrix.TESTS:
        assert (table.ROOT / file).is_file(), file
    for left_out in version_matrix.LEFT_OUT:
        file, _, name = left_out.partition("::")
        assert file in version_matrix.TESTS
        assert f"def {name}(" in (table.ROOT / file).read_text(encoding="utf-8"), left_out
