"""A stage's file of libraries is held against what is installed; `graft versions` brings it up to date."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from commands.__main__ import application
from commands.checks import installed
from commands.versions import HEAD
from stages.core.errors import ConfigError, EnvironmentFault, IntegrityError
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


def work(main: Callable[[], object] = lambda: None) -> None:
    """The stage `work`."""
    with versions.held("work"):
        main()


def graft(*options: str) -> str:
    """What `graft versions` says here."""
    done = CliRunner().invoke(application(["versions"]), ["versions", *options])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.output


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where distributions are put; the work folder has a stage `work` that uses toy-decoder 1.0, as DVC starts it."""
    folder = tmp_path / "site"
    install(folder, "toy_decoder", "1.0")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_STAGE", "work")
    FILE.parent.mkdir(parents=True)
    FILE.write_text("# why\ntoy-decoder==1.0\ntyper==0.0.1 ; python_full_version < '3'\n")
    return folder


@pytest.fixture
def split(tmp_path: Path, site: Path) -> Path:
    """The file of the stage split in a copy of the project, which is the work folder; it names toy-decoder 0.9, too."""
    for stage in STAGES:
        shutil.copy(ROOT / versions.FOLDER / f"{stage}.txt", versions.FOLDER)
    for name in ("constraints.txt", "dvc.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    FILE.unlink()
    path = versions.FOLDER / "split.txt"
    with path.open("a") as file:
        file.write("toy-decoder==0.9\n")
    return path


def test_as_recorded_it_runs(site: Path) -> None:
    work()
    FILE.write_text("toy-decoder==1.0.0\n")  # the same version in other words
    work()


def test_another_version_is_refused_with_both_and_what_to_do(site: Path) -> None:
    install(site, "toy_decoder", "1.1")
    with pytest.raises(EnvironmentFault, match=r"work\.txt .*toy-decoder 1\.1 \(recorded: 1\.0\).*graft versions"):
        work()


def test_a_version_is_not_that_of_another_build(site: Path) -> None:
    install(site, "toy_decoder", "1.0+cuda")
    with pytest.raises(EnvironmentFault, match=r"1\.0\+cuda"):
        work()


def test_what_is_missing_is_refused_unless_it_is_an_extra(site: Path) -> None:
    FILE.write_text("toy-decoder==1.0\nno-such-library==3\n")
    with pytest.raises(EnvironmentFault, match=r"no-such-library not installed \(recorded: 3\)"):
        work()
    extras = {name: versions.installed_version(name) or "1" for name in versions.OPTIONAL}
    FILE.write_text("".join(f"{name}=={version}\n" for name, version in extras.items()))
    work()


def test_a_second_distribution_of_the_same_module_is_refused(site: Path) -> None:
    FILE.write_text(f"opencv-python-headless=={versions.installed_version('opencv-python-headless')}\n")
    work()
    install(site, "opencv_python", "4.12.0.88")
    with pytest.raises(EnvironmentFault, match=r"beside opencv-python 4\.12\.0\.88"):
        work()


def test_what_changes_while_it_runs_is_not_recorded(site: Path) -> None:
    """DVC hashes dependencies when a stage has ended."""

    def both() -> None:
        install(site, "toy_decoder", "2.0")
        FILE.write_text("toy-decoder==2.0\n")

    with pytest.raises(EnvironmentFault, match=r"work\.txt was changed while work ran"):
        work(both)
    with pytest.raises(EnvironmentFault, match=r"toy-decoder 3\.0 \(recorded: 2\.0\)"):
        work(lambda: install(site, "toy_decoder", "3.0"))


def test_only_what_dvc_records_is_held_to_it(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(site, "toy_decoder", "1.1")
    monkeypatch.delenv("DVC_STAGE")
    work()


@pytest.mark.parametrize("line", ["toy-decoder", "toy-decoder>=1", "toy-decoder==1.*", "<<<<<<< HEAD", "a b", "\xff"])
def test_another_kind_of_line_is_named(site: Path, line: str) -> None:
    FILE.write_bytes(f"toy-decoder==1.0\n{line}\n".encode("latin-1"))
    with pytest.raises(IntegrityError, match=r"work\.txt, line 2: received .* no name==version"):
        work()


def test_a_file_that_names_nothing_is_refused(site: Path) -> None:
    FILE.write_text(HEAD)
    with pytest.raises(IntegrityError, match="names no library; get the last committed one back"):
        work()


def test_graft_versions_records_what_is_installed(tmp_path: Path, split: Path) -> None:
    whole = (ROOT / split).read_text()
    (finding,) = installed.recorded(tmp_path)
    assert (finding.level, finding.code) == ("problem", 5)
    assert "toy-decoder 1.0 (split recorded 0.9)" in finding.found

    said = graft()
    assert "split: toy-decoder 0.9 → 1.0" in said
    assert f"wrote 1 of {len(STAGES)} files" in said
    assert split.read_text() == whole + "toy-decoder==1.0\n"
    (finding,) = installed.recorded(tmp_path)
    assert finding.level == "ok"
    assert "names what is installed" in graft()
    assert sorted(path.name for path in versions.FOLDER.iterdir()) == sorted(f"{stage}.txt" for stage in STAGES)


def test_pinned_as_installed_the_lines_of_constraints_are_taken(tmp_path: Path, site: Path, split: Path) -> None:
    pins = "toy-decoder==1.0 ; python_full_version >= '3'\ntoy-decoder==0.5 ; python_full_version < '3'\n"
    with (tmp_path / "constraints.txt").open("a") as file:
        file.write("-r others.txt\nprefect>=3  # both are for pip alone\n" + pins.replace("toy-decoder", "Toy_Decoder"))
    graft()
    expected = (ROOT / split).read_text() + pins.replace("'", '"')
    assert split.read_text() == expected
    # make setup records the pins, also beside an extra that it leaves as it is.
    install(site, "toy_decoder", "0.7")
    assert "names what is pinned" in graft("--pinned")
    assert "toy-decoder 1.0 → 0.7" in graft()
    assert "toy-decoder 0.7 → 1.0" in graft("--pinned")
    assert split.read_text() == expected


def test_graft_versions_mends_what_a_merge_left(split: Path) -> None:
    whole = split.read_text()
    ours, theirs = whole.replace("pyarrow==", "pyarrow==1.0"), whole.replace("pyarrow==", "pyarrow==2.0")
    split.write_bytes(f"<<<<<<< HEAD\n{ours}=======\n{theirs}>>>>>>> other\n".replace("\n", "\r\n").encode())
    graft()
    assert split.read_bytes().decode() == (ROOT / split).read_text() + "toy-decoder==1.0\n"


def test_what_graft_versions_cannot_know_is_said(tmp_path: Path, split: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = (versions.FOLDER / "download.txt").read_text()
    for text in ("", HEAD):
        split.write_text(text)
        with pytest.raises(ConfigError, match=r"split\.txt: it names no library; git checkout"):
            graft()
    split.unlink()
    with pytest.raises(ConfigError, match=r"split\.txt: not found.*git checkout"):
        graft()
    assert (versions.FOLDER / "download.txt").read_text() == whole
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="from the project's root"):
        graft()


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
