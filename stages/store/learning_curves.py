"""Metrics per epoch in DVCLive's files, so that `dvc plots show` and editors draw the curves."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import Progress

log = logging.getLogger(__name__)
# Where in the whole work a phase starts and ends, 0 to 1.
Share = tuple[Fraction, Fraction]


def shares(epochs: Mapping[str, int]) -> dict[str, Share]:
    """Phase → its share of the work, one after the other, by the most epochs each can have."""
    total, before = max(1, sum(epochs.values())), 0
    spans = {}
    for phase, count in epochs.items():
        spans[phase] = (Fraction(before, total), Fraction(before + count, total))
        before += count
    return spans


class LearningCurves:
    """Logs each epoch under `folder`/plots/metrics/; moves a bar on a terminal, writes lines elsewhere.

    A line is `<stage>: 30 % head epoch 9 of 20, val accuracy 0.9642`, at most one per tenth of the
    whole work. A phase that stops early leaves its share, so the figure jumps but never falls.
    """

    def __init__(self, folder: Path) -> None:
        self._console = Console(stderr=True)
        self._bar = Progress(console=self._console, transient=True, disable=not self._console.is_terminal)
        self._task = self._bar.add_task("", total=100)
        # Not before it is needed: every stage imports every stage's parameters, and with them this module.
        from dvclive.live import Live

        # Quiet and inert: no experiment is saved, no dvc.yaml written, nothing sent anywhere.
        self._live = Live(str(folder), save_dvc_exp=False, dvcyaml=None, report=None, monitor_system=False)
        self._label, self._epochs, self._epoch, self._share = "", 1, 0, (Fraction(0), Fraction(1))

    def __enter__(self) -> LearningCurves:
        self._bar.start()
        return self

    def phase(self, label: str, epochs: int, share: Share) -> None:
        """Start a phase of at most `epochs` epochs; its curves continue those of the one before."""
        self._label, self._epochs, self._epoch, self._share = label, max(1, epochs), 0, share

    def epoch(self, logs: Mapping[str, float], replayed: bool = False) -> None:
        """`logs` are Keras's: loss, accuracy, val_loss, val_accuracy, learning_rate.

        `replayed` is an epoch that an earlier run trained: it is in the curves, but is not news.
        """
        for name, value in logs.items():
            split, _, metric = name.partition("_") if name.startswith("val_") else ("train", "", name)
            self._live.log_metric("learning_rate" if metric == "learning_rate" else f"{split}/{metric}", float(value))
        self._live.next_step()
        before = self._percent()
        self._epoch += 1
        line = f"{self._label} epoch {self._epoch} of {self._epochs}, val accuracy {logs['val_accuracy']:.4f}"
        self._bar.update(self._task, completed=self._percent(), description=line)
        if not replayed and not self._console.is_terminal and self._percent() // 10 > before // 10:
            log.info("%d %% %s", self._percent(), line)

    def _percent(self) -> int:
        start, end = self._share
        return int(100 * (start + (end - start) * Fraction(self._epoch, self._epochs)))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.end()
        self._bar.stop()
