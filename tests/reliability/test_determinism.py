"""Two clean runs of the real stages, everything around them changed at once: the same dvc.lock.

Changed: folder, its depth, locale, time zone, clock (a day ahead, as the stages see it), user where the system lets it
be, umask, hash seed, number of visible cores, home, temporary folder. The number of threads is a parameter.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from stages.store.hashes import sha256_of_tree
from tests.flows.test_real_pipeline import small
from tests.test_pipeline import STAGES

pytestmark = pytest.mark.slow
NOBODY = 65534
# Put where Python imports it first in every process: time.time and what reads it are a day ahead.
CLOCK = """
import time
_now, _now_ns = time.time, time.time_ns
time.time = lambda: _now() + 86400.0
time.time_ns = lambda: _now_ns() + 86400 * 10**9
"""


def other_surroundings(folder: Path) -> dict[str, str]:
    (folder / "clock").mkdir()
    (folder / "clock/sitecustomize.py").write_text(CLOCK)
    for name in ("home", "tmp"):
        (folder / name).mkdir()
    return {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(folder / "clock"),
        "LC_ALL": "C.UTF-8" if os.environ.get("LC_ALL") != "C.UTF-8" else "C",
        "LANG": "tr_TR.UTF-8",
        "TZ": "Pacific/Kiritimati",
        "PYTHONHASHSEED": "12345",
        "HOME": str(folder / "home"),
        "TMPDIR": str(folder / "tmp"),
        "DVC_SITE_CACHE_DIR": str(folder / "home/dvc"),
    }


def as_somebody_else(folder: Path) -> list[str]:
    """A command's beginning that makes it another user's, in a folder of that user's; empty where that cannot be."""
    real = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    if os.geteuid() == 0 and _starts_python(real):
        for path in (folder, *folder.rglob("*")):
            os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
        return real
    # Where nobody may not even read this Python, as below /root: the kernel calls this user by another number, and the
    # run sees another user, who owns what this one owns.
    seen = ["unshare", "--user", f"--map-user={NOBODY}", f"--map-group={NOBODY}"]
    return seen if _starts_python(seen) else []


def _starts_python(command: list[str]) -> bool:
    """Whether DVC can be imported behind `command`, by what a process there starts too, and as another user."""
    program = f"import os, dvc; assert os.getuid() != {os.getuid()}"
    program = f"import subprocess, sys; sys.exit(subprocess.run([sys.executable, '-c', {program!r}]).returncode)"
    try:
        return subprocess.run([*command, sys.executable, "-c", program], capture_output=True).returncode == 0
    except OSError:  # not installed, or not for this user
        return False


@pytest.fixture
def elsewhere() -> Iterator[Path]:
    """A folder that others may enter: pytest's own are closed to them."""
    with tempfile.TemporaryDirectory(prefix="graft a longer way ") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def test_nothing_around_a_run_changes_its_bytes(tmp_path: Path, elsewhere: Path) -> None:
    here, there = small(tmp_path / "here"), small(elsewhere / "zu Grüßen" / "there")
    for checkout in (here, there):
        checkout.set_params(export={"formats": ["litert"]})  # all of them take twice as long
    surroundings = other_surroundings(elsewhere)
    # Older and in the future: no decision may go by a file's time.
    for number, picture in enumerate(sorted((there.folder / "data/images").rglob("*.png"))):
        os.utime(picture, (0, 4_000_000_000 if number % 2 else 1_000_000_000))
    somebody = as_somebody_else(elsewhere)
    sys.stdout.write(f"as another user: {' '.join(somebody) or 'no, the system lets nobody be one'}\n")
    command = [*somebody, sys.executable, "-m", "dvc", "repro"]
    cores = sorted(os.sched_getaffinity(0))
    with ThreadPoolExecutor(1) as pool:
        usual = pool.submit(here.repro)  # at the same time: they share nothing
        done = subprocess.run(
            command, cwd=there.folder, env=surroundings, capture_output=True, text=True, timeout=900, umask=0o077,
            preexec_fn=lambda: os.sched_setaffinity(0, cores[-1:]),
        )  # fmt: skip
        assert usual.result() == STAGES
    assert done.returncode == 0, done.stdout + done.stderr
    assert (here.folder / "dvc.lock").read_text() == (there.folder / "dvc.lock").read_text()
    for folder in ("data/export", "data/fine_tune", "reports"):
        assert sha256_of_tree(here.folder / folder) == sha256_of_tree(there.folder / folder)
