"""The files that people edit and merge: what accept wrote comes back, and what they broke is told, not guessed."""

from __future__ import annotations

import hashlib
import json
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stages.core import profile
from stages.core.errors import ConfigError
from stages.core.facts import Facts
from stages.core.feature_sketch import DIMENSIONS
from stages.core.measurement import LAYOUT, Measurement
from stages.store import reviewed

SKETCH = {"trunk": "abc", "of": {"0123456789abcdef": [0.25] * DIMENSIONS, "fedcba9876543210": [-1] * DIMENSIONS}}
RESULTS = {"rules": [{"id": "dark", "failing": 3, "severity": "info"}, {"id": "class_count", "failing": 0}]}


def current(count: int = 30, label: str = "cats") -> dict[str, Any]:
    facts = []
    for at in range(count):
        measured = Measurement(
            1000 + at, "PNG", width=90, height=60, mode="RGB", bit_depth=8, frames=1, orientation=1,
            brightness=at / count, contrast=0.2, entropy=7.0, sharpness=None, saturation=0.1, warmth=-0.25,
            layout=tuple(range(at, at + LAYOUT)),
        )  # fmt: skip
        facts.append(Facts(f"{at}.png", label, None, hashlib.sha256(b"%d" % at).hexdigest(), measured))
    return profile.profile(facts, [fact.image_id for fact in facts], [None] * count)


def accepted(folder: Path) -> str:
    """The message of the refusal."""
    with pytest.raises(ConfigError) as caught:
        reviewed.accepted(folder)
    return str(caught.value)


def test_without_files_there_is_nothing_decided_and_nothing_accepted(tmp_path: Path) -> None:
    assert reviewed.decisions(tmp_path / "absent") == []
    assert reviewed.accepted(tmp_path / "absent") is None
    assert reviewed.decisions(tmp_path) == []
    assert reviewed.accepted(tmp_path) is None


def test_what_was_accepted_comes_back(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "review"
    for label in ("cats", '日本 "cats"\n\u2028 \\ {}'):
        for features in (SKETCH, None):
            path = reviewed.accept(folder, current(label=label), ["cats", "dogs"], RESULTS, features)
            assert path == folder / reviewed.ACCEPTED
            assert reviewed.accepted(folder) == {
                "profile": current(label=label), "classes": ["cats", "dogs"],
                "rules": {"dark": 3, "class_count": 0}, "features": features,
            }  # fmt: skip
            assert list(folder.iterdir()) == [path]


def test_the_same_data_gives_the_same_bytes_and_little_changes_few_lines(tmp_path: Path) -> None:
    first = reviewed.accept(tmp_path, current(), ["cats", "dogs"], RESULTS, SKETCH).read_bytes()
    turned = {"rules": RESULTS["rules"][::-1]}
    assert (
        reviewed.accept(tmp_path, dict(reversed(current().items())), ["cats", "dogs"], turned, SKETCH).read_bytes()
        == first
    )
    other = {"rules": [{"id": "dark", "failing": 4}, RESULTS["rules"][1]]}
    second = reviewed.accept(tmp_path, current(), ["cats", "dogs"], other, SKETCH).read_bytes()
    lines, others = first.splitlines(), second.splitlines()
    assert sum(line != after for line, after in zip(lines, others, strict=True)) == 1
    assert first.endswith(b"}\n")


def text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def conflict(path: Path) -> bytes:
    """What a merge leaves where two branches accepted different data."""
    return text(path).replace('"dark": 3', '<<<<<<< HEAD\n"dark": 3\n=======\n"dark": 4\n>>>>>>> other').encode()


def edited(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], bytes]:
    def edit(path: Path) -> bytes:
        value = json.loads(text(path))
        change(value)
        return json.dumps(value).encode()

    return edit


BROKEN: dict[str, Callable[[Path], bytes]] = {
    "a merge conflict": conflict,
    "cut short": lambda path: path.read_bytes()[:2000],
    "empty": lambda path: b"",
    "no UTF-8": lambda path: path.read_bytes().replace(b"cats", b"c\xe4ts"),
    "a byte order mark": lambda path: b"\xef\xbb\xbf" + path.read_bytes(),
    "two values": lambda path: path.read_bytes() * 2,
    "a list": lambda path: b"[]",
    "null": lambda path: b"null",
    "not a number": lambda path: path.read_bytes().replace(b"1000", b"NaN"),
    "no rules": edited(lambda value: value.pop("rules")),
    "no profile": edited(lambda value: value.pop("profile")),
    "something else": edited(lambda value: value.update(more=1)),
    "rules as a list": edited(lambda value: value.update(rules=[])),
    "a rule without a number": edited(lambda value: value["rules"].update(dark="many")),
    "a rule with null": edited(lambda value: value["rules"].update(dark=None)),
    "a rule with less than none": edited(lambda value: value["rules"].update(dark=-1)),
    "a rule with half a row": edited(lambda value: value["rules"].update(dark=0.5)),
    "a rule with true": edited(lambda value: value["rules"].update(dark=True)),
    "no features": edited(lambda value: value.pop("features")),
    "features of nothing": edited(lambda value: value.update(features={})),
    "features as a list": edited(lambda value: value["features"].update(of=[])),
    "features of another length": edited(lambda value: value["features"]["of"]["0123456789abcdef"].pop()),
    "features as text": edited(lambda value: value["features"]["of"].update(fedcba9876543210=["1"] * DIMENSIONS)),
    "features that are no numbers": edited(
        lambda value: value["features"]["of"].update(fedcba9876543210=[float("nan")] * DIMENSIONS)
    ),
    "another version": edited(lambda value: value["profile"].update(version=99)),
    "other counts": edited(lambda value: value["profile"].update(accepted=29)),
    "classes that do not add up": edited(lambda value: value["profile"]["classes"].update(dogs=2)),
    "a shorter column": edited(lambda value: value["profile"]["sample"]["label"].pop()),
    "text for a number": edited(lambda value: value["profile"]["sample"]["brightness"].__setitem__(0, "dark")),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_file_is_named_with_what_to_do(tmp_path: Path, fault: str) -> None:
    path = reviewed.accept(tmp_path, current(), ["cats", "dogs"], RESULTS, SKETCH)
    before = path.read_bytes()
    after = BROKEN[fault](path)
    assert after != before
    path.write_bytes(after)
    message = accepted(tmp_path)
    assert message.startswith(f"{path}: ")
    assert "graft accept" in message
    assert path.read_bytes() == after


def test_accepting_again_mends_a_broken_file(tmp_path: Path) -> None:
    path = reviewed.accept(tmp_path, current(), ["cats", "dogs"], RESULTS, SKETCH)
    path.write_bytes(conflict(path))
    reviewed.accept(tmp_path, current(), ["cats", "dogs"], RESULTS, SKETCH)
    assert reviewed.accepted(tmp_path) is not None


def test_what_cannot_be_written_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = reviewed.accept(tmp_path, current(), ["cats", "dogs"], RESULTS, SKETCH)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="JSON"):
        reviewed.accept(tmp_path, current() | {"images": float("nan")}, ["cats", "dogs"], RESULTS, SKETCH)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))  # as a full disk: the first bytes go through
    try:
        with pytest.raises(OSError, match="too large"):
            reviewed.accept(tmp_path, current(40), ["cats", "dogs"], RESULTS, SKETCH)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_decisions_are_read_as_people_saved_them(tmp_path: Path) -> None:
    path = tmp_path / reviewed.DECISIONS
    path.write_bytes("\ufeffdecision,name,image_id,why\r\ndeny,猫.png,,zeichnung\r\n".encode())
    (decision,) = reviewed.decisions(tmp_path)
    assert (decision.line, decision.decision, decision.name, decision.why) == (2, "deny", "猫.png", "zeichnung")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("decision,name,image_id,why\ndeny,kätzchen,,x\n".encode("latin-1"), "byte 33 is no UTF-8"),
        ("decision,name,image_id,why\n".encode("utf-16"), "is no UTF-8"),
        (b"", "line 1"),
        (b"decision,name,image_id,why\ndeny\n", "line 2"),
    ],
)
def test_wrong_decisions_are_refused_with_the_file(tmp_path: Path, data: bytes, said: str) -> None:
    path = tmp_path / reviewed.DECISIONS
    path.write_bytes(data)
    with pytest.raises(ConfigError) as caught:
        reviewed.decisions(tmp_path)
    assert str(caught.value).startswith(f"{path}: ")
    assert said in str(caught.value)
