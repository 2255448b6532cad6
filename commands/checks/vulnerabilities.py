"""Known vulnerabilities of the pinned packages, as a package index tells them in its JSON."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx

from commands.checks.finding import Finding, ok, warning
from commands.checks.installed import pins
from flows.redact import redact

NAME = "vulnerabilities"


def known(code: Path, index: str, patience: float) -> Iterator[Finding]:
    """One request a package, `<index>/<name>/<version>/json`, after whose first failure no other is made.

    An advisory is a warning: whether it matters depends on what of the package is used.
    """
    pinned = pins(code)
    clean, unknown = 0, 0
    with httpx.Client(timeout=patience, follow_redirects=True) as http:
        for name, version in pinned.items():
            try:
                answer = http.get(f"{index.rstrip('/')}/{name}/{version}/json")
                advisories = answer.json().get("vulnerabilities") if answer.status_code == 200 else None
            except (httpx.HTTPError, httpx.InvalidURL, ValueError, AttributeError) as error:
                yield warning(
                    NAME,
                    f"not checked: {redact(index)} gives no usable answer "
                    f"({type(error).__name__}: {redact(str(error))}); {clean} of {len(pinned)} were clean so far",
                    "try again with a network, or pip-audit -r constraints.txt --no-deps",
                )
                return
            if not isinstance(advisories, list):
                unknown += 1
                continue
            open_ones = [one for one in advisories if isinstance(one, dict) and not one.get("withdrawn")]
            clean += not open_ones
            for one in open_ones:
                fixed = ", ".join(map(str, one.get("fixed_in") or [])) or "no release yet"
                named = " ".join(map(str, [one.get("id"), *(one.get("aliases") or [])]))
                yield warning(
                    NAME,
                    f"{name} {version}: {named}: {one.get('summary') or one.get('details') or ''}"[:300],
                    f"fixed in {fixed}",
                )
    if unknown:
        yield warning(
            NAME, f"{redact(index)} does not know {unknown} of {len(pinned)} packages", "is that the right index?"
        )
    if clean:
        yield ok(NAME, f"{clean} of {len(pinned)} pinned packages have no known vulnerability")
