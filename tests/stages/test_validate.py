"""The stage as a whole on small data sets: files written, verdict, quarantine, report, determinism."""

from __future__ import annotations

import hashlib
import html
import io
import json
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stages import validate
from stages.core.errors import DataRejected, IntegrityError
from stages.core.schemas import FACTS, IMAGES, QUARANTINE
from stages.store import documents, params, tables

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


def test_clean_images_are_accepted(root: Path) -> None:
    pack(clean())
    assert validate.main() == "12 of 12 images accepted in 2 classes, 0 quarantined, 0 warnings"
    assert results()["verdict"] == "accepted"
    assert set(written()) == {
        "data/validate/facts.parquet", "data/validate/quarantine.parquet", "data/validate/classes.json",
        "reports/validate/index.html", "reports/validate/results.json", "reports/validate/expectations.json",
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
NASTY_LABEL = "<b onclick=alert(2)>dogs</b> & $co {{ x }}"


def test_no_value_becomes_a_tag_in_any_page(root: Path) -> None:
    labels = {"cats": "cats", "dogs": NASTY_LABEL}
    rows = [(name, labels[label], split, data) for name, label, split, data in clean()]
    twin = rows[0][3]
    rows += [
        (NASTY_NAME, "cats", None, b"<html><script>alert(3)</script>"),
        (NASTY_NAME + "2", "cats", None, twin),
        (NASTY_NAME + "3", NASTY_LABEL, None, twin),
    ]
    pack(rows, max_bad_fraction=0.01)
    with pytest.raises(DataRejected):
        validate.main()
    pages = {name: data.decode() for name, data in written().items() if name.endswith(".html")}
    for name, text in pages.items():
        assert not re.search(r"<script|<img(?! alt=\"\" src=\"data:)|<b[ >]|<i>|<[^>]*\son\w+=", text), name
        assert "&amp;lt;" not in text, name
        assert not re.search(r"https?://", text), name
    shown = "cats/<script>alert('x')</script>\"&⟨U+000A⟩⟨U+202E⟩gpj 🐈 <img src=x onerror=alert(1)>.png"
    assert shown in html.unescape(pages["reports/validate/index.html"])
    assert shown in html.unescape(pages["reports/validate/data_docs/images.html"])
    assert NASTY_LABEL in html.unescape(pages["reports/validate/index.html"])
    assert "<i>link</i>" in html.unescape(pages["reports/validate/index.html"])
    assert NASTY_NAME + "3" in next(r["failing_names"] for r in results()["rules"] if r["id"] == "bad_files")


def test_page_and_results_state_the_same(root: Path) -> None:
    rows = clean()
    rows[0] = (*rows[0][:3], b"")
    pack([*rows, ("dogs/copy.png", "dogs", None, rows[7][3])], max_bad_fraction=0.2)
    validate.main()
    record = results()
    page = (validate.REPORT / "index.html").read_text()
    tiles = dict(re.findall(r"<dt>([^<]*)</dt><dd>([^<]*)</dd>", page))
    kept = sum(rule["success"] for rule in record["rules"])
    assert tiles == {
        "images": "13", "accepted": "12", "quarantined": "1", "classes": "2",
        "rules kept": f"{kept} of {len(record['rules'])}",
    }  # fmt: skip
    assert (record["images"], record["accepted"], record["quarantined"]) == (13, 12, {"empty": 1})
    table = page[page.index("All rules") :]
    rows_shown = re.findall(r"<tr><td>(.*?)</td><td>(\w+)</td><td><span[^>]*>(\w+)</span></td>", table)
    assert rows_shown == [
        (rule["id"], rule["severity"], "kept" if rule["success"] else "broken") for rule in record["rules"]
    ]
    bars = dict(re.findall(r"<th scope='row'>(.*?)</th>.*?aria-label='(\d+)'", page))
    assert bars == {"cats": "5", "dogs": "7", "empty": "1"}
    assert "1 group of exact copies" in page
    assert broken("warning") == {"exact_duplicates"}


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
