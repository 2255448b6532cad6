"""GPUs, as their driver tells them: TensorFlow, which takes seconds to import, is not asked."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

from commands.checks.finding import Finding, ok, problem, warning
from stages.core.errors import EnvironmentFault

QUERY = ("--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")
# What `tensorflow[and-cuda]` brings; nvidia's packages carry CUDA's number in their names.
CUDA = ("nvidia-cudnn-cu12", "nvidia-cudnn-cu13")


def seen(patience: float) -> Iterator[Finding]:
    """What nvidia-smi lists. No GPU is as it should be: training runs on the CPU then."""
    command = shutil.which("nvidia-smi")
    if command is None:
        yield ok("gpus", "none: there is no NVIDIA driver here; training runs on the CPU")
        return
    try:
        done = subprocess.run([command, *QUERY], capture_output=True, text=True, timeout=patience, check=False)
    except subprocess.TimeoutExpired:
        yield problem(
            "gpus",
            EnvironmentFault,
            f"nvidia-smi has not answered for {patience:g} s",
            "the driver hangs: look at the kernel's log, restart the machine",
        )
        return
    lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    if done.returncode or not lines:
        said = " ".join((done.stderr or done.stdout).split()) or "it lists none"
        yield problem(
            "gpus",
            EnvironmentFault,
            f"nvidia-smi: {said}",
            "mend the driver, or remove it: training would run on the CPU",
        )
        return
    if any(_installed(name) for name in CUDA):
        yield ok("gpus", "; ".join(lines))
    else:
        yield warning(
            "gpus",
            f"{'; '.join(lines)}; CUDA's libraries are not among this environment's packages",
            "TensorFlow uses the system's, or none: pip install -c constraints.txt 'tensorflow[and-cuda]'",
        )


def _installed(name: str) -> bool:
    try:
        return bool(version(name))
    except PackageNotFoundError:
        return False
