"""graft lineage: which data, parameters, code and weights made a file."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from stages.core.errors import ConfigError, EnvironmentFault


def lineage(
    file: Annotated[Path, typer.Argument(help="A file or folder that a stage wrote, or a copy of it.")],
    images: Annotated[bool, typer.Option("--images", help="The images it was made from, as CSV.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of text.")] = False,
) -> None:
    """Say what made a file: commit, stages with parameters and hashes, code, weights, images.

    The file is told by its bytes, wherever it lies, among all that dvc.lock records now or did at any commit.
    """
    from flows.faults import Refused
    from flows.lineage import trace
    from flows.recorded import NotFound, Unknown

    if not file.exists():
        raise ConfigError(f"{file}: not found; give a file that was exported, or a copy of it")
    try:
        with trace(Path.cwd(), file) as found:
            if images:
                sys.stdout.write(_as_csv(found.images()))
            elif as_json:
                sys.stdout.write(json.dumps(found.record(), ensure_ascii=False, indent=2) + "\n")
            else:
                _show(file, found.record())
    except Unknown as error:
        raise ConfigError(str(error)) from error
    except (NotFound, Refused) as error:
        raise EnvironmentFault(str(error)) from error


def _as_csv(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _show(file: Path, record: dict[str, Any]) -> None:
    console = Console(highlight=False, soft_wrap=True)

    def line(what: str, text: str) -> None:
        console.print(f"[bold]{what:<16}[/]{escape(text)}")

    line("file", f"{file}: {record['path']}, written by {record['stage']}")
    line("recorded", record["recorded"])
    for one in record["stages"]:
        since = "" if one["recorded"] == record["recorded"] else f", recorded {one['recorded']}"
        line(one["stage"], f"{one['cmd']}{since}")
        for key, value in one["params"].items():
            console.print(f"{'':<16}{escape(f'{key}: {json.dumps(value, ensure_ascii=False)}')}")
        for path, md5 in {**one["inputs"], **one["outputs"]}.items():
            console.print(f"{'':<16}[dim]{escape(f'{md5}  {path}')}[/]")
    line("code", record["code"])
    line("weights", record["weights"])
    line("images", record["images"])
    for doubt in record["doubts"]:
        console.print(f"[yellow]{'doubt':<16}[/]{escape(doubt)}")
