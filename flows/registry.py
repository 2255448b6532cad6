"""Which model is the champion: GTO's tags on git, which `dvc artifacts get --stage champion` and `gto show` read.

`classifier@v1.2.0` names a version, `classifier#champion#3` makes the commit it points at the champion; the last by
time counts, so nothing is ever moved or deleted. Tags are annotated; the message is the record of the decision.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows import git
from flows.git import TagTaken

ARTIFACT = "classifier"  # as dvc.yaml's `artifacts` names it
STAGE = "champion"
RECORDS = Path(".graft/promotions")  # every decision here, also where it tagged nothing
VERSION = re.compile(rf"^{ARTIFACT}@v(\d+)\.(\d+)\.(\d+)$")
ASSIGNED = re.compile(rf"^{ARTIFACT}#([A-Za-z0-9][A-Za-z0-9/_-]*?)(!?)(?:#(\d+))?$")


@dataclass(frozen=True)
class Champion:
    """The tag that made it so, its version's tag where it has one, and the record where a promotion made it."""

    tag: str
    version: str | None
    commit: str
    record: dict[str, Any]


class Registry:
    """The tags as they were when this was made; `promote` fails where another promotion came since."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._versions: dict[tuple[int, ...], git.Tag] = {}
        assigned: list[tuple[int, int, git.Tag, bool]] = []
        self._last, self._time = 0, 0
        for tag in git.tags(root, f"{ARTIFACT}@*", f"{ARTIFACT}#*"):
            if found := VERSION.match(tag.name):
                self._versions[tuple(map(int, found.groups()))] = tag
            elif found := ASSIGNED.match(tag.name):
                number = int(found[3] or 0)
                self._last = max(self._last, number)  # GTO counts over all stages
                if found[1] == STAGE:
                    self._time = max(self._time, tag.time)
                    assigned.append((tag.time, number, tag, found[2] == "!"))
        self._assigned = max(assigned, key=lambda one: one[:2], default=None)

    def champion(self) -> Champion | None:
        """None where none was ever assigned, or the last was withdrawn (`gto deprecate`)."""
        if self._assigned is None or self._assigned[3]:
            return None
        tag = self._assigned[2]
        try:
            record = json.loads(tag.message)
        except ValueError:
            record = None
        return Champion(tag.name, self._version_of(tag.commit), tag.commit, record if isinstance(record, dict) else {})

    def next_names(self, commit: str, classes_changed: bool) -> list[str]:
        """The tags that a promotion of a commit would make: the stage's, after the version's where it has none yet.

        Another set of classes is another major version, for it breaks whoever uses the model; all else a minor one.
        """
        names = [f"{ARTIFACT}#{STAGE}#{self._last + 1}"]
        if self._version_of(commit) is None:
            major, minor, _ = max(self._versions, default=(0, 0, 0))
            new = (major + 1, 0) if classes_changed or not self._versions else (major, minor + 1)
            names.insert(0, f"{ARTIFACT}@v{new[0]}.{new[1]}.0")
        return names

    def promote(self, commit: str, names: list[str], subject: str, record: Mapping[str, Any]) -> dict[str, str]:
        """Make the tags, both or none; each with its tag object's SHA, for git.delete_tags.

        Raises TagTaken where another promotion came first: then another champion is to be compared with.
        """
        message = f"{subject}\n\n{json.dumps(record, ensure_ascii=False, indent=1, sort_keys=True)}"
        # Tags know whole seconds. One of the same second as the last would leave open which came later.
        moment = max(int(time.time()), self._time + 1)
        try:
            return git.create_tags(self._root, commit, names, message, moment)
        except TagTaken as taken:
            raise lost(Registry(self._root).champion(), taken) from taken

    def _version_of(self, commit: str) -> str | None:
        return next((tag.name for _, tag in sorted(self._versions.items(), reverse=True) if tag.commit == commit), None)


def lost(now: Champion | None, taken: TagTaken) -> TagTaken:
    """What the slower of two promotions is told."""
    who = f"; the champion is now {now.version or now.tag} ({now.commit[:12]})" if now else ""
    return TagTaken(
        f"another promotion came first{who}. No tag was made: run `graft promote` again to compare with it ({taken})"
    )
