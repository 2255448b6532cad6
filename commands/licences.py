"""graft licences: the licence of every pinned package, as its own metadata tells it."""

from __future__ import annotations

import re
import sys
from importlib.metadata import PackageNotFoundError, metadata

# Licences that ask more of who passes the package on than to name its authors.
COPYLEFT = re.compile(r"GPL|General Public|MPL|Mozilla|EPL|Eclipse|EUPL|CDDL|CeCILL", re.IGNORECASE)
LONGEST = 60  # letters; some packages put the whole licence there
UNKNOWN = "not stated"
ABSENT = "not installed here"


def licences() -> None:
    """List name, version and licence of what constraints.txt pins, copyleft ones first, as Markdown.

    docs/licences.md is this list; `graft licences > docs/licences.md` makes it anew after a change of packages.
    """
    from commands.checks.installed import pinned
    from commands.doctor import CODE

    rows = [(name, version, _licence(name)) for name, version in pinned(CODE)]
    copyleft = [row for row in rows if COPYLEFT.search(row[2])]
    lines = [
        "# Licences",
        "",
        "Made by `graft licences` from the installed packages' own metadata. graft is distributed with none of them;",
        "`make setup` installs them.",
        "",
        f"## Copyleft: {len(copyleft)} of {len(rows)}",
        "",
        *_table(copyleft),
        "",
        "## All",
        "",
        *_table(rows),
    ]
    sys.stdout.write("\n".join(lines) + "\n")


def _table(rows: list[tuple[str, str, str]]) -> list[str]:
    cells = [" | ".join(cell.replace("|", "\\|") for cell in row) for row in rows]
    return ["| package | version | licence |", "|---|---|---|", *(f"| {row} |" for row in cells)]


def _licence(name: str) -> str:
    """The SPDX expression where there is one, else the classifiers, else the first line of the free text."""
    try:
        found = metadata(name)
    except PackageNotFoundError:
        return ABSENT
    if "License-Expression" in found:
        return " ".join(found["License-Expression"].split())
    named = [one.rpartition(" :: ")[2] for one in found.get_all("Classifier") or [] if one.startswith("License :: ")]
    named = [one for one in named if one not in ("OSI Approved", "License")]
    if named:
        return ", ".join(sorted(named))
    lines = found["License"].strip().splitlines() if "License" in found else []
    return lines[0].strip()[:LONGEST] if lines and lines[0].strip() not in ("", "UNKNOWN") else UNKNOWN
