"""After export a run shows what `graft promote` decided, and never fails by it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows import child, promotion

RECORD = {
    "verdict": "not promoted",
    "because": "better: +0.10% | p 0.4",
    "champion": {"version": "classifier@v1.0.0", "tag": "classifier#champion#1"},
    "rules": [{"name": "better", "passed": False, "said": "+0.10% | p 0.4"}],
    "warnings": ["3 models were tested"],
}


class Called:
    """Stands for the child and for Prefect; says what they got."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, code: int, printed: str) -> None:
        self.commands: list[list[str]] = []
        self.artifacts: list[str] = []
        self.lines: list[str] = []

        def run(command: list[str], cwd: Path, on_line: Callable[[str], None]) -> int:
            self.commands.append(command[2:])
            for line in printed.splitlines():
                if line.strip():
                    on_line(line)
            return code

        monkeypatch.setattr(child, "run", run)
        monkeypatch.setattr(promotion, "create_markdown_artifact", lambda text, **_: self.artifacts.append(text))

    def after(self, mode: Any, outcome: str = "Completed", failed: str | None = None) -> None:
        run = SimpleNamespace(
            wanted={"export"}, failed=lambda: failed, outcome=lambda: SimpleNamespace(name=outcome),
            root=Path.cwd(), door=SimpleNamespace(root=Path.cwd()),
        )  # fmt: skip
        promotion.after_export(run, mode, self.lines.append)  # type: ignore[arg-type]


def test_the_decision_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    called = Called(monkeypatch, 3, json.dumps(RECORD, indent=2))
    called.after("decide")
    assert called.commands == [["commands", "promote", "--json", "--held", "--dry-run"]]
    (shown,) = called.artifacts
    assert "# not promoted against classifier" in shown
    assert "| better | failed | \\+0.10% \\| p 0.4 |" in shown
    assert "Warning: 3 models" in shown
    assert called.lines == ["promotion (only decided): not promoted: better: +0.10% | p 0.4"]


def test_nothing_is_started_where_there_is_nothing_to_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    called = Called(monkeypatch, 0, "")
    called.after("off")
    called.after("decide", outcome="Unchanged")
    called.after("decide", failed="export")
    assert called.commands == []


@pytest.mark.parametrize(("code", "printed"), [(5, "graft: no remote"), (2, "Usage: graft"), (2, "{\n not json")])
def test_what_cannot_be_decided_is_said_and_fails_nothing(
    monkeypatch: pytest.MonkeyPatch, code: int, printed: str
) -> None:
    called = Called(monkeypatch, code, printed)
    called.after("promote")
    assert called.artifacts == []
    assert called.lines == [f"graft promote could not decide (exit {code}):\n{printed}"]


def test_a_record_is_found_before_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    printed = json.dumps({**RECORD, "verdict": "not tagged"}, indent=2) + "\ngraft: it passes every rule, but …"
    called = Called(monkeypatch, 2, printed)
    called.after("promote")
    assert "# not tagged" in called.artifacts[0]


def test_prefect_failing_is_only_said(monkeypatch: pytest.MonkeyPatch) -> None:
    called = Called(monkeypatch, 3, json.dumps(RECORD, indent=2))

    def down(*_: object, **__: object) -> None:
        raise ConnectionError("server is gone")

    monkeypatch.setattr(promotion, "create_markdown_artifact", down)
    called.after("decide")
    assert called.lines[-1] == "promotion could not be shown: server is gone"
