"""The stage as a whole on small data sets: files written, verdict, quarantine, report, determinism."""

from __future__ import annotations

import csv
import hashlib
import html
import io
import json
import re
import shutil
import zipfile
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from commands import accept as accepting
from stages import validate
from stages.core import measurement, validation_report, verdict
from stages.core.errors import ConfigError, DataRejected, IntegrityError
from stages.core.page_script import SCRIPT
from stages.core.schemas import FACTS, IMAGES, QUARANTINE
from stages.store import documents, params, tables
from tests.store import decoders_that_fail

PHOTOS = Path(__file__).parents[2].parent / "shared/data/cats_and_dogs_filtered.zip"
Row = tuple[str, str, str | None, bytes]
RNG = np.random.default_rng(11)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(params, "STAGES", ("validate",))  # other stages' parameters are tested with them
    return tmp_path


def encode(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def picture(side: int = 40) -> Image.Image:
    coarse = RNG.integers(40, 216, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)


def clean() -> list[Row]:
    labels = ["cats"] * 6 + ["dogs"] * 6
    return [(f"{label}/{at % 6}.png", label, None, encode(picture())) for at, label in enumerate(labels)]


def pack(rows: list[Row], found: list[str] | None = None, **settings: Any) -> None:
    """What download would have written, in two shards, and a params.yaml."""
    records = [
        {"name": name, "label": label, "given_split": split, "image_id": hashlib.sha256(data).hexdigest(),
         "bytes": data}
        for name, label, split, data in sorted(rows, key=lambda row: row[0])
    ]  # fmt: skip
    validate.SHARDS.mkdir(parents=True)
    half = len(records) // 2
    for number, part in enumerate((records[:half], records[half:])):
        tables.write(validate.SHARDS / f"{number}.parquet", tables.from_rows(part, IMAGES))
    documents.write(
        validate.DATASET,
        {
            "classes": found or sorted({row[1] for row in rows}),
            "images": len(rows),
            "bytes": sum(len(row[3]) for row in rows),
            "skipped": [{"name": "<i>link</i>", "reason": "not_regular_file"}],
        },
    )
    Path("params.yaml").write_text(json.dumps({"validate": {"min_images_per_class": 2, **settings}}))


def results() -> dict[str, Any]:
    record: dict[str, Any] = documents.read(validate.REPORT / "results.json")
    return record


def broken(severity: str) -> set[str]:
    return {rule["id"] for rule in results()["rules"] if not rule["success"] and rule["severity"] == severity}


def facts() -> dict[str, dict[str, Any]]:
    rows = tables.read(validate.OUT / "facts.parquet", FACTS).to_pylist()
    return {row["name"]: row for row in rows}


def written() -> dict[str, bytes]:
    folders = (validate.OUT, validate.REPORT)
    paths = (path for folder in folders for path in folder.rglob("*") if path.is_file())
    return {str(path): path.read_bytes() for path in paths}


TAGS = {
    "html", "head", "meta", "title", "style", "body", "main", "h1", "h2", "h3", "p", "a", "div", "strong", "nav", "ul",
    "li", "dl", "dt", "dd", "table", "caption", "thead", "tbody", "tr", "th", "td", "span", "figure", "figcaption",
    "img", "svg", "rect", "line", "text", "path", "polyline", "details", "summary", "script", "br", "hr", "small",
}  # fmt: skip
ATTRIBUTES = {
    "lang", "charset", "http-equiv", "content", "name", "id", "class", "href", "download", "data-filter", "data-tags",
    "data-sort", "data-sortable", "data-filterable", "tabindex", "role", "aria-label", "aria-hidden", "scope",
    "alt", "src", "hidden",
    "viewbox", "preserveaspectratio", "width", "height", "x", "y", "x1", "x2", "y1", "y2", "d", "points", "text-anchor",
}  # fmt: skip


class Parsed(HTMLParser):
    """What a page says: tags and attributes it is made of, its text, tiles and tables by id."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.source = source
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.scripts: list[str] = []
        self.texts: list[str] = []
        self.tiles: dict[str, str] = {}
        self.tables: dict[str, list[list[str]]] = {}
        self._table: list[list[str]] = []
        self._open: list[str] = []
        self._id: str | None = None
        self.feed(source)
        self.text = "".join(self.texts)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        values = dict(attrs)
        self._open.append(tag)
        if values.get("class") == "listing":
            self._id = values.get("id")
        elif tag == "table":
            self._table = self.tables[str(self._id)] = []
            self._id = None
        elif tag == "tr" and "thead" not in self._open:
            self._table.append([])
        elif tag == "td":
            self._table[-1].append("")
        if tag in ("meta", "img", "rect", "line", "br", "hr", "path", "polyline"):
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self._open[-1:] == ["script"]:
            self.scripts.append(data)
            return
        self.texts.append(data)
        if "dt" in self._open:
            self._tile = data
        elif "dd" in self._open:
            self.tiles[self._tile] = data
        elif "td" in self._open and "small" not in self._open and self._table and self._table[-1]:
            self._table[-1][-1] += data


def accept(rows: list[Row], **settings: Any) -> None:
    """Validate these rows and bless them; the shards and outputs are gone afterwards, the acceptance stays."""
    pack(rows, **settings)
    validate.main()
    accepting.accept(dry_run=False)
    for folder in ("data/download", "data/validate", "reports"):
        shutil.rmtree(folder)


def test_clean_images_are_accepted(root: Path) -> None:
    pack(clean())
    assert validate.main() == "12 of 12 images accepted in 2 classes, 0 quarantined, 0 warnings"
    assert results()["verdict"] == "accepted"
    assert set(written()) == {
        "data/validate/facts.parquet", "data/validate/quarantine.parquet", "data/validate/classes.json",
        "data/validate/profile.json",
        "reports/validate/index.html", "reports/validate/results.json", "reports/validate/expectations.json",
        "reports/validate/results.md", "reports/validate/failing.csv",
        "reports/validate/tables/images.parquet", "reports/validate/tables/classes.parquet",
        *(f"reports/validate/data_docs/{name}.html"
          for name in ("index", "images", "images_rules", "classes", "classes_rules")),
    }  # fmt: skip
    assert documents.read(validate.OUT / "classes.json") == {"classes": ["cats", "dogs"]}
    row = facts()["cats/0.png"]
    assert (row["width"], row["mode"], row["group"], row["quarantine"]) == (40, "RGB", row["image_id"], None)
    assert list(facts()) == sorted(facts())


def test_every_kind_of_bad_file_is_listed_and_none_dropped(root: Path) -> None:
    whole = encode(picture(), "JPEG")
    animation = encode(picture(), "GIF", save_all=True, append_images=[picture()])
    bad = {
        "empty.jpg": (b"", "empty"),
        "cut.jpg": (whole[: len(whole) // 2], "truncated"),
        "page.jpg": (b"<!doctype html><h1>404</h1>", "not_an_image"),
        "web.jpg": (encode(picture(), "WEBP"), "format"),
        "heic.jpg": (b"\0\0\0\x18ftypheic" + bytes(40), "format"),
        "tiny.png": (encode(picture(4)), "too_small"),
        "long.png": (encode(picture(80).resize((80, 9))), "aspect"),
        "float.tif": (encode(Image.fromarray(np.ones((9, 9), np.float32)), "TIFF"), "format"),
        "anim.gif": (animation, None),
    }
    pack(
        [*clean(), *((f"cats/{name}", "cats", None, data) for name, (data, _) in bad.items())],
        max_bad_fraction=0.5,
        formats=["JPEG", "PNG", "GIF", "BMP"],
    )
    assert "8 quarantined" in validate.main()
    found = {name: facts()[f"cats/{name}"]["quarantine"] for name in bad}
    assert found == {name: reason for name, (_, reason) in bad.items()}
    quarantine = tables.read(validate.OUT / "quarantine.parquet", QUARANTINE).to_pylist()
    assert {row["name"].removeprefix("cats/"): row["reason"] for row in quarantine} == {
        name: reason for name, reason in found.items() if reason
    }
    assert all(row["detail"] for row in quarantine)
    page = html.unescape((validate.REPORT / "index.html").read_text())
    for row in quarantine:
        assert row["name"] in page
        assert row["detail"] in page
    assert len(facts()) == 12 + len(bad)
    assert sum(results()["quarantined"].values()) == 8
    assert {"extensions", "size", "aspect"} <= broken("warning")
    assert "multi_frame" in broken("info")


def test_bytes_behind_a_pictures_end_are_counted_and_warned_of_and_cost_no_picture(root: Path) -> None:
    garbage = encode(picture(), "JPEG") + b"garbage" * 9
    two = encode(picture(), "MPO", save_all=True, append_images=[picture()])
    whole = encode(picture(), "JPEG")
    pack([*clean(), ("cats/behind.jpg", "cats", None, garbage), ("dogs/phone.jpg", "dogs", None, two),
          ("dogs/whole.jpg", "dogs", None, whole)])  # fmt: skip
    assert validate.main() == "15 of 15 images accepted in 2 classes, 0 quarantined, 1 warning"
    counted = {name: row["trailing_bytes"] for name, row in facts().items()}
    second = counted["dogs/phone.jpg"]
    assert 0 < second < len(two)
    assert counted == dict.fromkeys(counted, 0) | {"cats/behind.jpg": 63, "dogs/phone.jpg": second}
    assert results()["verdict"] == "accepted_with_warnings"
    assert broken("warning") == {"trailing_bytes"}
    (rule,) = (rule for rule in results()["rules"] if rule["id"] == "trailing_bytes")
    assert (rule["failing"], rule["failing_names"]) == (2, ["cats/behind.jpg", "dogs/phone.jpg"])
    with (validate.REPORT / "failing.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["rule"] == "trailing_bytes"]
    assert [(row["severity"], row["rule_kept"], row["name"], row["value"]) for row in rows] == [
        ("warning", "no", "cats/behind.jpg", "63"), ("warning", "no", "dogs/phone.jpg", str(second)),
    ]  # fmt: skip
    assert "bytes behind its end: 63" in Parsed((validate.REPORT / "index.html").read_text()).text
    for name in ("index.html", "results.md", "data_docs/images.html", "data_docs/images_rules.html"):
        assert "No JPEG or PNG has bytes behind the end of its picture." in (validate.REPORT / name).read_text(), name


@pytest.mark.parametrize(
    ("change", "settings", "rule", "named"),
    [
        ("none", {}, None, ""),
        ("cut", {}, "bad_files", "cats/0.png"),
        ("conflict", {}, "label_conflicts", "dogs/same.png"),
        ("empty class", {}, "images_per_class", "birds"),
        ("none", {"min_images_per_class": 7}, "images_per_class", "cats"),
        ("none", {"classes": ["cats", "wolves"]}, "labels_known", "dogs/0.png"),
        ("one class", {}, "class_count", ""),
        ("lost file", {}, "file_count", ""),
    ],
)
def test_critical_rules_reject_with_the_report_written(
    root: Path, change: str, settings: dict[str, Any], rule: str | None, named: str
) -> None:
    rows, classes = clean(), ["cats", "dogs"]
    if change == "cut":
        rows[0] = (*rows[0][:3], rows[0][3][:90])
    elif change == "conflict":
        rows.append(("dogs/same.png", "dogs", None, rows[0][3]))
        settings = {"max_bad_fraction": 0.5}
    elif change == "empty class":
        classes.append("birds")
    elif change == "one class":
        rows, classes = rows[:6], ["cats"]
    pack(rows, classes, **settings)
    if change == "lost file":
        dataset = documents.read(validate.DATASET)
        documents.write(validate.DATASET, {**dataset, "images": 13})
    if rule is None:
        validate.main()
        assert results()["verdict"] == "accepted"
        return
    with pytest.raises(DataRejected) as caught:
        validate.main()
    assert rule in str(caught.value)
    assert named in str(caught.value)
    assert "reports/validate/index.html" in str(caught.value)
    assert rule in broken("critical")
    assert results()["verdict"] == "rejected"
    assert "Rejected" in (validate.REPORT / "index.html").read_text()
    assert facts()


def test_duplicates_are_grouped_and_leakage_counted(root: Path) -> None:
    base = picture(64)
    rows = [
        *((name, label, "train", data) for name, label, _, data in clean()),
        ("cats/base.png", "cats", "train", encode(base)),
        ("cats/copy.png", "cats", "train", encode(base)),
        ("cats/near.png", "cats", "val", encode(base.resize((50, 50)))),
    ]
    pack(rows)
    assert "warning" in validate.main()
    groups = {name: row["group"] for name, row in facts().items()}
    assert len({groups[f"cats/{name}.png"] for name in ("base", "copy", "near")}) == 1
    assert len(set(groups.values())) == 13
    assert groups["cats/base.png"] == min(facts()[f"cats/{name}.png"]["image_id"] for name in ("base", "near"))
    record = results()
    assert record["leakage"]["groups"] == 1
    assert record["leakage"]["listed"][0]["names"] == ["cats/base.png", "cats/copy.png", "cats/near.png"]
    assert "leakage" in broken("warning")


NASTY_NAME = "cats/<script>alert('x')</script>\"&\n\u202egpj 🐈 <img src=x onerror=alert(1)>.png"
NASTY_LABEL = "<b onclick=alert(2)>dogs</b> & $co {{ x }} </script>"


def test_no_value_becomes_a_tag_in_any_page(root: Path) -> None:
    labels = {"cats": "cats", "dogs": NASTY_LABEL}
    rows = [(name, labels[label], "train", data) for name, label, _, data in clean()]
    twin = rows[0][3]
    rows += [
        (NASTY_NAME, "cats", "train", b"<html><script>alert(3)</script>"),
        (NASTY_NAME + "2", "cats", "val", twin),
        (NASTY_NAME + "3", NASTY_LABEL, "train", twin),
        (NASTY_NAME + "4", NASTY_LABEL, "val", rows[7][3]),
    ]
    pack(rows, max_bad_fraction=0.01)
    Path("data/review").mkdir()
    Path("data/review/decisions.csv").write_text(
        f'decision,name,image_id,why\ndeny,"{NASTY_LABEL}",,<script>alert(4)</script>\ndeny,cats/1.png,,=cmd()\n'
    )
    with pytest.raises(DataRejected):
        validate.main()
    pages = {name: data.decode() for name, data in written().items() if name.endswith(".html")}
    for name, text in pages.items():
        parsed = Parsed(text)
        assert parsed.tags <= TAGS, name
        assert parsed.attributes <= ATTRIBUTES, name
        assert parsed.scripts == (["\n" + SCRIPT.strip() + "\n"] if name.endswith("validate/index.html") else []), name
        assert "&amp;lt;" not in text, name
        assert not re.search(r"https?://", text), name
    shown = "cats/<script>alert('x')</script>\"&⟨U+000A⟩⟨U+202E⟩gpj 🐈 <img src=x onerror=alert(1)>.png"
    page = Parsed(pages["reports/validate/index.html"]).text
    assert shown in page
    assert shown in html.unescape(pages["reports/validate/data_docs/images.html"])
    assert NASTY_LABEL in page
    assert "<i>link</i>" in page
    assert "<script>alert(4)</script>" in page
    assert NASTY_NAME + "3" in next(r["failing_names"] for r in results()["rules"] if r["id"] == "bad_files")
    comment = (validate.REPORT / "results.md").read_text()
    assert "<script" not in comment
    assert "<b " not in comment
    with (validate.REPORT / "failing.csv").open(newline="") as file:
        assert {row["name"] for row in csv.DictReader(file)} >= {NASTY_NAME, NASTY_NAME + "3"}


def test_page_and_results_state_the_same(root: Path) -> None:
    """Every number and every list that both show, and failing.csv and results.md beside them."""
    rows = clean()
    accept(rows)
    rows[0] = (*rows[0][:3], b"")
    pack([*rows, ("dogs/copy.png", "dogs", None, rows[7][3])], max_bad_fraction=0.2)
    validate.main()
    record = results()
    page = Parsed((validate.REPORT / "index.html").read_text())
    kept = sum(rule["success"] for rule in record["rules"])
    assert page.tiles == {
        "images": "13", "accepted": "12", "quarantined": "1", "classes": "2",
        "rules kept": f"{kept} of {len(record['rules'])}",
    }  # fmt: skip
    assert (record["images"], record["accepted"], record["quarantined"]) == (13, 12, {"empty": 1})
    assert [row[:4] for row in page.tables["all-rules"]] == [
        [rule["id"], rule["severity"], "kept" if rule["success"] else "broken", verdict.observation(rule)]
        for rule in record["rules"]
    ]
    assert dict(re.findall(r"<th scope='row'>(.*?)</th>.*?aria-label='(\d+)'", page.source)) == {
        "cats": "5", "dogs": "7", "empty": "1",
    }  # fmt: skip
    assert {label: row["accepted"] for label, row in record["classes"].items()} == {"cats": 5, "dogs": 7}
    assert "1 group of exact copies" in page.text
    assert [row[:5] for row in page.tables["duplicate-groups"]] == [
        ["exact", "2", "dogs", "", "dogs/1.png, dogs/copy.png"]
    ]
    listed = record["duplicate_groups"]["listed"]
    assert [(group["kind"], group["files"], group["names"]) for group in listed] == [
        ("exact", 2, ["dogs/1.png", "dogs/copy.png"])
    ]
    assert [row[1:4] for row in page.tables["quarantined"]] == [["cats/0.png", "cats", "empty"]]
    assert [row[:2] for row in page.tables["drifts"]] == [
        [one["quantity"], "untested" if one["test"] == "none" else "drifted" if one["drifted"] else "same"]
        for one in record["drift"]
    ]
    changed = {(row[0], row[1]): row[2:4] for row in page.tables["changed"]}
    assert changed[("classes", "cats")] == [str(number) for number in record["changes"]["classes"]["cats"]]
    assert {row[0]: row[3] for row in page.tables["rows"]} == {
        name: row["quarantine"] or "accepted" for name, row in facts().items()
    }
    with (validate.REPORT / "failing.csv").open(newline="") as file:
        failing = list(csv.DictReader(file))
    for rule in record["rules"]:
        of_rule = [row for row in failing if row["rule"] == rule["id"]]
        assert len(of_rule) == rule["failing"]
        if rule["table"] == "images":
            assert [row["image_id"] for row in of_rule] == rule["failing_ids"]
    listed_as_failing = {
        (row[0], rule) for row in page.tables["rows"] for rule in row[4].split(", ") if rule not in ("", "–")
    }
    assert listed_as_failing == {(row["name"], row["rule"]) for row in failing if row["image_id"]}
    assert broken("warning") == {"exact_duplicates"}
    comment = (validate.REPORT / "results.md").read_text()
    assert "12 of 13 images accepted in 2 classes, 1 quarantined" in comment
    assert "dogs/copy.png" in comment


def test_same_data_gives_the_same_bytes_and_thresholds_leave_the_data_alone(root: Path) -> None:
    pack([*clean(), ("cats/bad.png", "cats", None, b"x")], max_bad_fraction=0.2)
    validate.main()
    first = written()
    validate.main()
    assert written() == first
    settings = {"validate": {"min_images_per_class": 1, "max_bad_fraction": 0.5, "workers": 1}}
    Path("params.yaml").write_text(json.dumps(settings))
    validate.main()
    again = written()
    assert again["reports/validate/results.json"] != first["reports/validate/results.json"]
    data = [name for name in first if name.startswith("data/")]
    assert {name: again[name] for name in data} == {name: first[name] for name in data}


def test_damaged_bytes_stop_the_stage_and_leave_the_old_outputs(root: Path) -> None:
    pack(clean())
    validate.main()
    before = written()
    shard = validate.SHARDS / "0.parquet"
    rows = tables.read(shard, IMAGES).to_pylist()
    rows[0]["bytes"] = rows[0]["bytes"] + b"!"
    tables.write(shard, tables.from_rows(rows, IMAGES))
    with pytest.raises(IntegrityError, match=r"cats/0\.png"):
        validate.main()
    assert written() == before
    assert not list(root.rglob("*.partial"))


def test_digits_are_accepted_and_not_glued_together(root: Path) -> None:
    """The default data set: 8 x 8 grey pictures that all look alike to a perceptual hash."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    rows: list[Row] = [
        (f"{label}/{at:03}.png", str(label), None, encode(Image.fromarray(grey)))
        for at, (grey, label) in enumerate(
            zip((digits.images[:400] * 15.9375).astype(np.uint8), digits.target[:400], strict=True)
        )
    ]
    pack(rows)
    assert validate.main() == "400 of 400 images accepted in 10 classes, 0 quarantined, 0 warnings"
    assert len({row["group"] for row in facts().values()}) == 400


@pytest.mark.skipif(not PHOTOS.exists(), reason="../shared/data/cats_and_dogs_filtered.zip is absent")
def test_clean_photographs_are_accepted(root: Path) -> None:
    rows: list[Row] = []
    with zipfile.ZipFile(PHOTOS) as archive:
        for name in sorted(name for name in archive.namelist() if name.endswith(".jpg"))[::6]:
            split = "train" if "/train/" in name else "val"
            rows.append((name, name.split("/")[-2], split, archive.read(name)))
    pack(rows)
    validate.main()
    assert len(rows) == 500
    assert results()["accepted"] >= 495
    assert not broken("critical")


def test_decisions_of_people_override_the_rules(root: Path) -> None:
    rows = clean()
    whole = encode(picture(), "JPEG")
    rows += [
        ("cats/long.png", "cats", None, encode(picture(120).resize((120, 15)))),
        ("cats/cut.jpg", "cats", None, whole[: len(whole) // 2]),
        ("dogs/same.png", "dogs", None, rows[0][3]),
    ]
    Path("data/review").mkdir(parents=True)
    cut = hashlib.sha256(whole[: len(whole) // 2]).hexdigest()
    Path("data/review/decisions.csv").write_text(
        "decision,name,image_id,why\n"
        "allow,cats/long.png,,a panorama\n"
        f"allow,,{cut},please\n"
        "deny,dogs/same.png,,is a cat\n"
        "deny,dogs/gone.png,,was moved\n"
    )
    pack(rows, max_bad_fraction=0.1)
    assert "13 of 15 images accepted" in validate.main()
    found = {name: row["quarantine"] for name, row in facts().items() if row["quarantine"]}
    assert found == {"cats/cut.jpg": "truncated", "dogs/same.png": "denied"}
    assert broken("critical") == set()
    assert broken("warning") == {"decisions"}
    rule = next(rule for rule in results()["rules"] if rule["id"] == "decisions")
    assert rule["failing_names"] == [f"line 3: allow {cut}", "line 5: deny dogs/gone.png"]


def test_a_wrong_line_of_decisions_is_refused_before_anything_is_written(root: Path) -> None:
    pack(clean())
    Path("data/review").mkdir(parents=True)
    Path("data/review/decisions.csv").write_text("decision,name,image_id,why\nmaybe,cats/0.png,,x\n")
    with pytest.raises(ConfigError, match=r"decisions\.csv(.|\n)*line 2: decision 'maybe'"):
        validate.main()
    assert not validate.REPORT.exists()


@pytest.mark.parametrize(
    ("become", "settings", "said"),
    [
        ({"dogs": "Dogs"}, {}, "Dogs"),
        ({"dogs": "wolves"}, {}, "wolves"),
        ({"dogs": "Dogs"}, {"classes": ["Dogs", "cats"]}, None),
        ({}, {}, None),
    ],
)
def test_another_class_set_than_the_accepted_is_refused_until_somebody_names_it(
    root: Path, become: dict[str, str], settings: dict[str, Any], said: str | None
) -> None:
    accept(clean())
    pack([(name, become.get(label, label), split, data) for name, label, split, data in clean()], **settings)
    if said is None:
        validate.main()
        return
    with pytest.raises(DataRejected, match=rf"class_set(.|\n)*{said}"):
        validate.main()
    # What is refused can be blessed, and then passes.
    accepting.accept(dry_run=True)
    with pytest.raises(DataRejected):
        validate.main()
    accepting.accept(dry_run=False)
    validate.main()
    assert results()["changes"]["classes"] == {}


def test_a_class_that_is_gone_is_named(root: Path) -> None:
    accept(clean())
    pack([row for row in clean() if row[1] == "cats"] + [("birds/1.png", "birds", None, encode(picture()))] * 1)
    with pytest.raises(DataRejected, match=r"class_set(.|\n)*'birds', 'dogs'"):
        validate.main()


def test_nothing_rejected_can_be_accepted(root: Path) -> None:
    with pytest.raises(ConfigError, match="dvc repro validate"):
        accepting.accept(dry_run=False)
    pack(clean(), min_images_per_class=7)
    with pytest.raises(DataRejected):
        validate.main()
    with pytest.raises(DataRejected, match="images_per_class"):
        accepting.accept(dry_run=False)
    assert not (validate.REVIEW / "accepted.json").exists()


def test_drift_is_a_warning_with_its_quantity(root: Path) -> None:
    def many(darker: float, more: int) -> list[Row]:
        drawn = [picture() for _ in range(60 + more)]
        drawn[60:] = [image.point(lambda value: int(value * darker)) for image in drawn[60:]]
        return [(f"{label}/{at}.png", label, None, encode(image))
                for at, image in enumerate(drawn) for label in ["cats" if at % 2 else "dogs"]]  # fmt: skip

    rows = many(1.0, 0)
    accept(rows)
    pack([*rows, *((f"{name[:4]}/n{name[5:]}", *rest) for name, *rest in many(0.5, 40)[60:])])
    assert "1 warning" in validate.main()
    assert "brightness" in next(rule["failing_names"] for rule in results()["rules"] if rule["id"] == "drift")
    assert "brightness" in Parsed((validate.REPORT / "index.html").read_text()).text


def test_a_severity_can_be_set_and_a_rule_left_out(root: Path) -> None:
    rows = [*clean(), ("dogs/copy.png", "dogs", None, clean()[7][3])]
    rows.append(("dogs/copy2.png", "dogs", None, rows[-1][3]))
    pack(rows, severity={"exact_duplicates": "critical", "size": "off"})
    with pytest.raises(DataRejected, match="exact_duplicates"):
        validate.main()
    assert "size" not in {rule["id"] for rule in results()["rules"]}
    Path("params.yaml").write_text(json.dumps({"validate": {"severity": {"file_count": "off"}}}))
    with pytest.raises(ConfigError, match=r"validate\.severity\.file_count"):
        validate.main()


def test_what_ends_the_decoding_process_costs_one_row(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measurement, "measure", decoders_that_fail.measure)
    rows = [*clean(), ("cats/evil.png", "cats", None, clean()[0][3] + decoders_that_fail.SEGFAULT)]
    pack(rows, max_bad_fraction=0.1)
    assert "12 of 13" in validate.main()
    assert facts()["cats/evil.png"]["quarantine"] == "decoder_crash"
    quarantined = tables.read(validate.OUT / "quarantine.parquet", QUARANTINE).to_pylist()
    assert "SIGSEGV" in quarantined[0]["detail"]


def test_an_image_may_take_so_much_time_and_memory(root: Path) -> None:
    large = Image.new("RGB", (8000, 8000))
    rows = [*clean(), ("cats/large.png", "cats", None, encode(large, compress_level=1))]
    pack(rows, max_bad_fraction=0.1, decode_megabytes=64)
    assert "12 of 13" in validate.main()
    assert facts()["cats/large.png"]["quarantine"] == "memory"
    settings = {"min_images_per_class": 2, "max_bad_fraction": 0.1, "decode_seconds": 0.1}
    Path("params.yaml").write_text(json.dumps({"validate": settings}))
    validate.main()
    assert facts()["cats/large.png"]["quarantine"] == "timeout"


def test_the_memo_changes_no_byte_and_neither_does_damage_to_it(root: Path) -> None:
    pack([*clean(), ("cats/bad.png", "cats", None, b"x")], max_bad_fraction=0.2)
    validate.main()
    cold = written()
    (kept,) = Path(".graft/memo").rglob("*.parquet")
    validate.main()
    assert written() == cold
    data = bytearray(kept.read_bytes())
    data[len(data) // 2] ^= 1
    kept.write_bytes(data)
    validate.main()
    assert written() == cold


def test_the_suite_can_be_taken_along(root: Path) -> None:
    """Great Expectations alone, on the tables' own columns, gives the same answers from expectations.json."""
    rows = [(name, {"dogs": "R&D <b>"}.get(label, label), split, data) for name, label, split, data in clean()]
    pack([*rows, ("dogs/copy.png", "cats", None, rows[2][3])])
    validate.main()
    import great_expectations as gx

    suites = documents.read(validate.REPORT / "expectations.json")
    assert set(suites) == {"images", "classes"}
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    source = context.data_sources.add_pandas("taken along")
    outcomes = {rule["id"]: rule["success"] for rule in results()["rules"]}
    asked = 0
    for suite in suites.values():
        loaded = gx.ExpectationSuite(name=suite["name"], expectations=suite["expectations"])
        frame = pq.read_table(validate.REPORT / "tables" / f"{suite['name']}.parquet").to_pandas()
        batch = source.add_dataframe_asset(suite["name"]).add_batch_definition_whole_dataframe("all")
        for answer in batch.get_batch({"dataframe": frame}).validate(loaded).results:
            assert answer.success == outcomes[answer.expectation_config.meta["rule"]]
        asked += len(loaded.expectations)
        assert {expectation.severity.value for expectation in loaded.expectations} <= {"critical", "warning", "info"}
    assert asked == len(results()["rules"])


def test_junk_that_is_alike_is_no_label_conflict(root: Path) -> None:
    pack([*clean(), ("cats/e.jpg", "cats", None, b""), ("dogs/e.jpg", "dogs", None, b"")], max_bad_fraction=0.2)
    assert "12 of 14 images accepted" in validate.main()
    assert results()["label_conflicts"]["groups"] == 0


def test_two_names_that_look_alike_once_spelt_out_are_two(root: Path) -> None:
    pack([*clean(), ("cats/x\ny.png", "cats", None, encode(picture())),
          ("cats/x⟨U+000A⟩y.png", "cats", None, encode(picture()))])  # fmt: skip
    assert "14 of 14 images accepted" in validate.main()


def test_a_class_that_is_remembered_is_not_counted(root: Path) -> None:
    accept(clean())
    pack([row for row in clean() if row[1] == "cats"], severity={"class_set": "warning"})
    with pytest.raises(DataRejected, match="class_count"):
        validate.main()
    assert list(results()["classes"]) == ["cats"]


def test_a_class_without_accepted_images_can_be_accepted(root: Path) -> None:
    settings = {"severity": {"images_per_class": "warning"}}
    pack(clean(), found=["birds", "cats", "dogs"], **settings)
    validate.main()
    accepting.accept(dry_run=False)
    validate.main()
    assert "class_set" not in broken("critical")


def test_no_line_of_failing_csv_begins_in_the_middle_of_a_name(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As with thousands of images: the page looks up by name those that it lists.
    monkeypatch.setattr(validation_report, "ROWS_LISTED", 3)
    pack([*clean(), ("cats/a\r=HYPERLINK(1)", "cats", None, b"x")], max_bad_fraction=0.2)
    validate.main()
    with (validate.REPORT / "failing.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert {len(row) for row in rows} == {len(verdict.FAILING_COLUMNS)}
    assert "cats/a⟨U+000D⟩=HYPERLINK(1)" in {row[3] for row in rows}
    assert "\r" not in (validate.REPORT / "failing.csv").read_bytes().decode()


def test_an_image_the_exported_model_cannot_read_cannot_be_allowed(root: Path) -> None:
    Path("data/review").mkdir(parents=True)
    Path("data/review/decisions.csv").write_text("decision,name,image_id,why\nallow,cats/t.tif,,please\n")
    pack([*clean(), ("cats/t.tif", "cats", None, encode(picture(), "TIFF"))], max_bad_fraction=0.0)
    with pytest.raises(DataRejected, match="bad_files"):
        validate.main()
    assert "still quarantined: format" in Parsed((validate.REPORT / "index.html").read_text()).text


def test_other_limits_are_other_facts(root: Path) -> None:
    """What an image gave under one limit of memory says nothing about another, whatever the codec called it."""
    noise = np.random.default_rng(0).integers(0, 256, (3500, 3500, 3), dtype=np.uint8)
    large = encode(Image.fromarray(noise), "JPEG", quality=20, progressive=True, subsampling=0)
    pack([*clean(), ("cats/large.jpg", "cats", None, large)], max_bad_fraction=0.2, decode_megabytes=64)
    validate.main()
    assert facts()["cats/large.jpg"]["quarantine"] in ("memory", "decoder_error", "truncated")
    Path("params.yaml").write_text(json.dumps({"validate": {"min_images_per_class": 2}}))
    validate.main()
    assert facts()["cats/large.jpg"]["quarantine"] is None
