"""graft drift: how the data at hand differs from the data last accepted, features included."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from commands.accept import FEATURES, PROFILE, REVIEW
from stages.core.errors import ConfigError, DataRejected


def drift(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON array instead of a table.")] = False,
) -> None:
    """Compare the data of the last validation with the data last accepted. Exit 3 where something has drifted.

    The report of validate shows the same but for the features, which are extracted only after it.
    """
    from stages.core import drift as tests
    from stages.core.page import visible
    from stages.store import documents, feature_sketches, params, reviewed
    from stages.validate import ValidateParams

    settings = params.read(ValidateParams)
    accepted = reviewed.accepted(REVIEW)
    if accepted is None:
        raise ConfigError(f"{REVIEW / reviewed.ACCEPTED}: not found; `graft accept` writes it")
    if not PROFILE.is_file():
        raise ConfigError(f"{PROFILE}: not found; `dvc repro validate` writes it (run graft from the project's root)")
    current = documents.read(PROFILE)
    rate, least = settings.drift_false_alarm_rate, settings.min_drift
    found = tests.compare(accepted["profile"], current, false_alarm_rate=rate, min_effect=least)
    before = accepted["features"]
    now = feature_sketches.read(FEATURES, current["sample"]["image_id"])
    if before is None or now is None:
        why = "the data was accepted without features" if before is None else "feature_extract has not run"
    elif before["trunk"] != now["trunk"]:
        why = f"accepted with {before['trunk']}, extracted with {now['trunk']}"
    else:
        why = ""
        found.append(
            tests.compare_features(
                accepted["profile"], current, before["of"], now["of"], false_alarm_rate=rate, min_effect=least
            )
        )
    drifted = [one.quantity for one in found if one.drifted]
    if as_json:
        sys.stdout.write(json.dumps([asdict(one) for one in found], ensure_ascii=False, indent=2) + "\n")
    else:
        table = Table("quantity", "outcome", "accepted", "now", "effect", "p")
        for one in found:
            outcome = "untested" if one.test == "none" else "drifted" if one.drifted else "same"
            cells = [one.quantity, outcome, one.accepted, one.current, f"{one.effect:.3g}", f"{one.adjusted:.2g}"]
            table.add_row(*(escape(visible(cell)) for cell in cells))
        console = Console(highlight=False)
        console.print(table)
        if why:
            console.print(escape(f"features were not compared: {why}"))
    if drifted:
        raise DataRejected(f"drifted from the accepted data: {', '.join(drifted)}. Where it is meant: graft accept")
