"""graft accept: bless the data of the last validation; later ones are compared with it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stages.core.errors import ConfigError, DataRejected

CLASSES = Path("data/validate/classes.json")
PROFILE = Path("data/validate/profile.json")
RESULTS = Path("reports/validate/results.json")
FEATURES = Path("data/feature_extract")
REVIEW = Path("data/review")
# Rules that compare with the data accepted before: what they object to is what is being accepted.
COMPARING = ("class_set", "drift")


def accept(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be accepted and write nothing.")] = False,
) -> None:
    """Accept the data of the last validation as the data to compare with. Writes data/review/accepted.json."""
    from stages.store import documents, feature_sketches, reviewed

    if not PROFILE.is_file() or not RESULTS.is_file():
        raise ConfigError(f"{PROFILE}: not found; `dvc repro validate` writes it (run graft from the project's root)")
    profile, results = documents.read(PROFILE), documents.read(RESULTS)
    if profile["images"] != results["images"] or profile["accepted"] != results["accepted"]:
        raise ConfigError(f"{PROFILE} and {RESULTS} are of two runs; run `dvc repro validate`")
    broken = [rule["id"] for rule in results["rules"] if rule["severity"] == "critical" and not rule["success"]]
    faults = [rule for rule in broken if rule not in COMPARING]
    if faults:
        raise DataRejected(
            f"this data is rejected by {', '.join(faults)}, which no acceptance changes; see "
            "reports/validate/index.html (graft report validate)"
        )
    before = reviewed.accepted(REVIEW)
    typer.echo(_summary(profile, before and before["profile"]))
    if dry_run:
        return
    features = feature_sketches.read(FEATURES, profile["sample"]["image_id"])
    path = reviewed.accept(REVIEW, profile, documents.read_classes(CLASSES), results, features)
    typer.echo(f"wrote {path}; commit it, then `dvc repro`")
    if features is None:
        typer.echo(
            "without features: none were extracted yet; accept again after feature_extract to have them compared"
        )


def _summary(profile: dict[str, object], before: dict[str, object] | None) -> str:
    from stages.core.profile import overlap

    classes = profile["classes"]
    assert isinstance(classes, dict)
    said = f"{profile['accepted']:,} images in {len(classes)} classes"
    if before is None:
        return f"{said}, the first to be accepted"
    found = overlap(before, profile)
    about = "" if found.exact else "about "
    return f"{said}; since the last acceptance {about}{found.added:,} pictures came and {found.removed:,} went"
