"""A stage's file of libraries is held against what is installed; `graft versions` brings it up to date."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from commands import doctor
from commands.__main__ import application
from commands.checks import installed
from stages.core.errors import EnvironmentFault, IntegrityError
from stages.store import versions
from stages.store.params import STAGES

ROOT = Path(__file__).parents[2]
FILE = versions.FOLDER / "work.txt"


def install(folder: Path, name: str, version: str) -> None:
    """A distribution of nothing but a name, where Python looks for distributions."""
    for old in folder.glob(f"{name}-*.dist-info"):
        shutil.rmtree(old)
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where distributions are put; the work folder has a stage `work` that uses toy-decoder 1.0, as DVC starts it."""
    folder = tmp_path / "site"
    install(folder, "toy_decoder", "1.0")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_STAGE", "work")
    FILE.parent.mkdir(parents=True)
    FILE.write_text("# why\ntoy-decoder==1.0\nno-such-extra==3\ntyper==0.0.1 ; python_full_version < '3'\n")
    return folder


def test_as_recorded_it_starts(site: Path) -> None:
    versions.check("work")


def test_another_version_is_refused_with_both_and_what_to_do(site: Path) -> None:
    install(site, "toy_decoder", "1.1")
    with pytest.raises(EnvironmentFault, match=r"work\.txt .*toy-decoder 1\.1 \(recorded: 1\.0\).*graft versions"):
        versions.check("work")


def test_only_what_dvc_records_is_held_to_it(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(site, "toy_decoder", "1.1")
    monkeypatch.delenv("DVC_STAGE")
    versions.check("work")


@pytest.mark.parametrize("line", ["toy-decoder", "toy-decoder>=1", "toy-decoder==1,<2", "<<<<<<< HEAD", "a b"])
def test_another_kind_of_line_is_named(site: Path, line: str) -> None:
    FILE.write_text(f"toy-decoder==1.0\n{line}\n")
    with pytest.raises(IntegrityError, match=r"work\.txt, line 2: received .* no name==version"):
        versions.check("work")


def test_graft_versions_records_what_is_installed(tmp_path: Path, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = tmp_path / "code"
    shutil.copytree(ROOT / versions.FOLDER, code / versions.FOLDER)
    shutil.copy(ROOT / "constraints.txt", code)
    split = code / versions.FOLDER / "split.txt"
    whole = split.read_text()
    split.write_text(whole + "toy-decoder==0.9\n")
    monkeypatch.setattr(doctor, "CODE", code)
    (finding,) = installed.recorded(code)
    assert (finding.level, finding.code) == ("problem", 5)
    assert "toy-decoder 1.0 (recorded 0.9)" in finding.found

    said = CliRunner().invoke(application(["versions"]), ["versions"]).output
    assert "split: toy-decoder 0.9 → 1.0" in said
    assert f"wrote 1 of {len(STAGES)} files" in said
    assert split.read_text() == whole + "toy-decoder==1.0\n"
    (finding,) = installed.recorded(code)
    assert finding.level == "ok"
    assert "names what is installed" in CliRunner().invoke(application(["versions"]), ["versions"]).output
    assert not list(code.rglob("*.partial"))

    # Pinned as installed, the lines of constraints.txt are taken, those for other Pythons too.
    pins = "toy-decoder==1.0 ; python_full_version >= '3'\ntoy-decoder==0.5 ; python_full_version < '3'\n"
    with (code / "constraints.txt").open("a") as file:
        file.write(pins)
    CliRunner().invoke(application(["versions"]), ["versions"])
    assert split.read_text() == whole + pins.replace("'", '"')


def test_dvc_runs_a_stage_again_for_another_version_and_not_with_one_that_is_not_recorded(
    tmp_path: Path, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{site}")
    (tmp_path / "work.py").write_text(
        "from pathlib import Path\n"
        "from importlib.metadata import version\n"
        "from stages.store import process\n"
        "process.run('work', lambda: str(Path('out').write_text(version('toy-decoder'))))\n"
    )
    (tmp_path / "dvc.yaml").write_text(
        f"stages:\n  work:\n    cmd: {sys.executable} work.py\n    deps: [work.py, {FILE}]\n    outs: [out]\n"
    )

    def dvc(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "dvc", *arguments], capture_output=True, text=True)

    assert dvc("init", "--no-scm", "-q").returncode == 0
    assert dvc("repro").returncode == 0
    out = tmp_path / "out"
    assert out.read_text() == "1.0"

    # Installed but not recorded: what is there is the old version's, and nothing new comes of the new one.
    install(site, "toy_decoder", "2.0")
    assert "up to date" in dvc("repro").stdout
    forced = dvc("repro", "--force")
    assert forced.returncode
    assert "toy-decoder 2.0 (recorded: 1.0)" in forced.stderr
    assert not out.exists() or out.read_text() == "1.0"

    FILE.write_text(FILE.read_text().replace("1.0", "2.0"))
    assert dvc("repro").returncode == 0
    assert out.read_text() == "2.0"
    # Back again, the output comes out of DVC's cache by its hash.
    install(site, "toy_decoder", "1.0")
    FILE.write_text(FILE.read_text().replace("2.0", "1.0"))
    assert "cached" in dvc("repro").stdout
    assert out.read_text() == "1.0"
