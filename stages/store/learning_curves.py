"""Metrics per epoch in DVCLive's files, so that `dvc plots show` and editors draw the curves."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

from dvclive.live import Live
from rich.console import Console
from rich.progress import Progress


class LearningCurves:
    """Logs each epoch under `folder`/plots/metrics/ and moves a progress bar."""

    def __init__(self, folder: Path, epochs: int, label: str) -> None:
        """`epochs` is the most there can be; early stopping ends the bar sooner."""
        console = Console(stderr=True)
        self._bar = Progress(console=console, transient=True, disable=not console.is_terminal)
        self._task = self._bar.add_task(label, total=epochs)
        # Quiet and inert: no experiment is saved, no dvc.yaml written, nothing sent anywhere.
        self._live = Live(str(folder), save_dvc_exp=False, dvcyaml=None, report=None, monitor_system=False)

    def __enter__(self) -> LearningCurves:
        self._bar.start()
        return self

    def epoch(self, logs: dict[str, float]) -> None:
        """`logs` are Keras's: loss, accuracy, val_loss, val_accuracy, learning_rate."""
        for name, value in logs.items():
            split, _, metric = name.partition("_") if name.startswith("val_") else ("train", "", name)
            self._live.log_metric("learning_rate" if metric == "learning_rate" else f"{split}/{metric}", float(value))
        self._live.next_step()
        self._bar.update(self._task, advance=1, description=f"val accuracy {logs['val_accuracy']:.4f}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.end()
        self._bar.stop()
