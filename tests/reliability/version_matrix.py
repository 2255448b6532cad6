"""Runs telling tests with the newest or the lowest versions of the libraries that pyproject.toml allows.

    python -m tests.reliability.version_matrix newest|lowest [--folder FOLDER] [--python PYTHON] [pytest's arguments]

It makes an environment in FOLDER/newest or FOLDER/lowest, without constraints.txt, or brings the one that is there up
to date, and runs TESTS in it on this checkout's code. Newest is what pip chooses by itself; lowest has every direct
dependency, those of the tests too, at the lowest version that both the package index and its bound have. A bound that
does not resolve beside the others ends it with pip's words. The outcome goes to benchmarks/reliability.json unless
arguments for pytest are given. Needs the package index and gigabytes of disk, and takes long, so it is not part of CI.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from benchmarks import reliability
from tests.reliability import table

EXTRA = "dev"
# What installs the rest, as in the Makefile.
INSTALLERS = ("pip", "setuptools", "wheel")
TESTS = (
    "tests/test_contract.py",
    "tests/test_layers.py",
    "tests/commands/test_graft.py",
    "tests/commands/test_doctor.py",
    "tests/commands/test_memo.py",
    "tests/commands/test_predict.py",
    "tests/core/test_augmentation.py",
    "tests/core/test_backbones.py",
    "tests/core/test_drift.py",
    "tests/core/test_duplicates.py",
    "tests/core/test_expectations.py",
    "tests/core/test_golden_images.py",
    "tests/core/test_images.py",
    "tests/core/test_measurement.py",
    "tests/core/test_metrics.py",
    "tests/core/test_onnx_graph.py",
    "tests/core/test_precision.py",
    "tests/core/test_serving.py",
    "tests/core/test_training.py",
    "tests/flows/test_doctor_of_a_server.py",
    "tests/flows/test_lineage.py",
    "tests/flows/test_plan.py",
    "tests/flows/test_remote_objects.py",
    "tests/reliability/test_bad_tables.py",
    "tests/reliability/test_converters.py",
    "tests/reliability/test_damaged_params.py",
    "tests/reliability/test_integrity_cache.py",
    "tests/reliability/test_integrity_inputs.py",
    "tests/reliability/test_links.py",
    "tests/reliability/test_upgrades.py",
    "tests/stages/test_download.py",
    "tests/stages/test_evaluate.py",
    "tests/stages/test_feature_extract.py",
    "tests/stages/test_validate.py",
    "tests/store/test_archives.py",
    "tests/store/test_checkpoints.py",
    "tests/store/test_data_docs.py",
    "tests/store/test_engines.py",
    "tests/store/test_exported.py",
    "tests/store/test_features.py",
    "tests/store/test_image_shards.py",
    "tests/store/test_keras_import.py",
    "tests/store/test_measurements.py",
    "tests/store/test_memo.py",
    "tests/store/test_models.py",
    "tests/store/test_params.py",
    "tests/store/test_sources.py",
    "tests/store/test_tables.py",
    "tests/store/test_tensor_memo.py",
    "tests/store/test_weight_files.py",
)
# Bound to constraints.txt by design: its text, the licences of what it names, and bytes that its OpenCV made.
LEFT_OUT = (
    "tests/core/test_augmentation.py::test_views_made_before_colour_and_cutout_came_are_the_same_bytes",
    "tests/test_contract.py::test_constraints_pin_every_dependency_and_name_no_address",
    "tests/commands/test_graft.py::test_licences_are_listed_of_every_pinned_package_and_copyleft_is_said",
)
# Of libraries among one another: an old one calls what a new one deprecates, and Python 3.13 warns of each SQLite
# database that nobody closes; graft opens none.
FORGIVEN = ("DeprecationWarning", "ResourceWarning")
NAMED = ("tensorflow", "keras", "prefect", "dvc", "great-expectations", "pyarrow", "numpy", "pillow", "pydantic",
         "openvino", "onnx")  # fmt: skip


def bounds(project: Mapping[str, Any], extra: str) -> dict[str, SpecifierSet]:
    """What pyproject.toml's `project` table allows of each direct dependency and those of one extra, by its name."""
    found: dict[str, SpecifierSet] = {}
    for line in [*project["dependencies"], *project["optional-dependencies"][extra]]:
        one = Requirement(line)
        if one.marker is None or one.marker.evaluate():
            name = canonicalize_name(one.name)
            found[name] = found.get(name, SpecifierSet()) & one.specifier
    return found


def lowest(allowed: SpecifierSet, offered: Iterable[str]) -> Version:
    """The lowest offered version within a bound; one before its release only where there is no other.

    Raises ValueError where none is, or where the bound has no lower end, so that nothing says what was meant.
    """
    if not any(one.operator in (">=", "==", "~=", ">", "===") for one in allowed):
        raise ValueError(f"{allowed or 'no bound'} has no lower end")
    within = [Version(one) for one in allowed.filter(offered)]
    if not within:
        raise ValueError(f"no version is offered within {allowed}")
    return min(within)


def lowest_of_all(python: Path, project: Mapping[str, Any]) -> list[str]:
    """A constraint a dependency, at the lowest version that the package index has for that Python."""
    lines = []
    for name, allowed in sorted(bounds(project, EXTRA).items()):
        asked = [python, "-m", "pip", "index", "versions", "--json", name]
        answer = subprocess.run(asked, check=True, capture_output=True, text=True)
        lines.append(f"{name}=={lowest(allowed, json.loads(answer.stdout)['versions'])}")
    return lines


def installed(folder: Path, which: str, base: str) -> Path:
    """The Python of an environment in `folder` with graft and what its tests need."""
    python = folder / "bin/python"
    if not python.exists():
        subprocess.run([base, "-m", "venv", folder], check=True)
    # Uncompiled, TensorFlow takes twice as long to import.
    pip = [python, "-m", "pip", "install", "--quiet", "--compile", "--upgrade", "--upgrade-strategy", "eager"]
    subprocess.run([*pip, "-c", table.ROOT / "constraints.txt", *INSTALLERS], check=True)
    chosen = []
    if which == "lowest":
        project = tomllib.loads((table.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        constraints = folder / "lowest.txt"
        constraints.write_text("\n".join([*lowest_of_all(python, project), ""]), encoding="utf-8")
        chosen = ["-c", constraints]
    subprocess.run([*pip, *chosen, "-e", f"{table.ROOT}[{EXTRA}]"], check=True)
    return python


def versions(python: Path) -> str:
    """A sentence of what an environment has."""
    code = (
        "import platform, importlib.metadata as m;"
        f"print('Python ', platform.python_version(), *[f', {{n}} {{m.version(n)}}' for n in {NAMED!r}], sep='')"
    )
    return subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def main(arguments: Sequence[str]) -> int:
    """Exit 0 where all that was tried held."""
    parser = argparse.ArgumentParser(prog="python -m tests.reliability.version_matrix")
    parser.add_argument("which", choices=["newest", "lowest"])
    parser.add_argument("--folder", type=Path, default=Path(".graft/versions"))
    parser.add_argument("--python", default=getattr(sys, "_base_executable", sys.executable))
    asked, chosen = parser.parse_known_args(arguments)
    folder = asked.folder.absolute() / asked.which
    python = installed(folder, asked.which, asked.python)
    report = folder / "report.xml"
    report.unlink(missing_ok=True)
    environment = {**os.environ, "PATH": f"{python.parent}:{os.environ['PATH']}"}
    left_out = [f"--deselect={test}" for test in LEFT_OUT]
    forgiven = [f"-Wdefault::{warning}" for warning in FORGIVEN]
    command = [python, "-m", "pytest", "-q", f"--junitxml={report}", *forgiven, *left_out, *(chosen or TESTS)]
    begun = time.monotonic()
    code = subprocess.run(command, cwd=table.ROOT, env=environment).returncode
    if not chosen:
        ran, bad = table.tally(report)
        note = f"{len(TESTS)} test files; {versions(python)}"
        entry = reliability.entry(ran, ran - bad, time.monotonic() - begun, note)
        reliability.record({f"versions {asked.which}": entry})
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
