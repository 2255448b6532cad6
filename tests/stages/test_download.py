"""The stage as a whole: what it writes, that it writes it the same way each time, and what it leaves on failure."""

from __future__ import annotations

import hashlib
import json
import shutil
import tarfile
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from stages import download
from stages.core.errors import ConfigError, DataRejected, EnvironmentFault, GraftError, IntegrityError
from stages.core.parameters import check_block
from stages.core.schemas import IMAGES
from stages.download import DownloadParams
from stages.store import tables

TUTORIAL = Path(__file__).parents[2].parent / "shared/data/cats_and_dogs_filtered.zip"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project root with 60 cats and 60 dogs in data/images."""
    for label in ("cats", "dogs"):
        (tmp_path / "data/images" / label).mkdir(parents=True)
        for number in range(60):
            (tmp_path / f"data/images/{label}/{number:03d}.jpg").write_bytes(f"{label} {number}".encode())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(monkeypatch: pytest.MonkeyPatch, **values: Any) -> str:
    """main() as if params.yaml held these values."""
    settings = DownloadParams(**values)
    monkeypatch.setattr(download.params, "read", lambda _: settings)
    return download.main()


def folder_run(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Pack data/images in shards of about 8; returns shard → SHA-256."""
    run(monkeypatch, source="data/images", images_per_shard=8)
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in Path("data/download/images").iterdir()}


def rows() -> list[dict[str, Any]]:
    return list(tables.iterate(Path("data/download/images"), IMAGES))


def document(name: str) -> Any:
    return json.loads(Path(f"data/download/{name}.json").read_text())


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    """Shards of either side that the other does not have with the same bytes."""
    return {name for name, _ in before.items() ^ after.items()}


def test_folder(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "data/images/.gitkeep").touch()
    (project / "data/images/cats/empty.jpg").touch()
    (project / "data/images/dogs/link").symlink_to("/etc/passwd")
    summary = run(monkeypatch, source="data/images", images_per_shard=8)
    found = rows()
    names = sorted([f"{label}/{n:03d}.jpg" for label in ("cats", "dogs") for n in range(60)] + ["cats/empty.jpg"])
    assert [row["name"] for row in found] == names
    for row in found:
        data = (project / "data/images" / row["name"]).read_bytes()
        assert (row["bytes"], row["image_id"]) == (data, hashlib.sha256(data).hexdigest())
        assert (row["label"], row["given_split"]) == (row["name"].split("/")[0], None)
    assert document("dataset") == {
        "format": "folder",
        "classes": ["cats", "dogs"],
        "images": 121,
        "bytes": sum(len(row["bytes"]) for row in found),
        "given_splits": {},
        "archive_sha256": None,
        "skipped": [
            {"name": ".gitkeep", "reason": "litter"},
            {"name": "dogs/link", "reason": "not_regular_file"},
        ],
    }
    assert document("source") == {"source": "data/images", "sha256": None}
    assert sorted(path.name for path in Path("data").iterdir()) == ["download", "images"]
    assert sorted(path.name for path in Path("data/download").iterdir()) == ["dataset.json", "images", "source.json"]
    assert summary.startswith("121 images of 2 classes")


def test_one_changed_image_rewrites_one_shard(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = folder_run(monkeypatch)
    assert len(before) > 8
    assert folder_run(monkeypatch) == before
    for number in (0, 17, 59):
        image = project / f"data/images/cats/{number:03d}.jpg"
        kept = image.read_bytes()
        image.write_bytes(b"something longer than it was")
        assert len(changed(before, folder_run(monkeypatch))) == 1
        image.write_bytes(kept)


def test_one_image_more_or_less_rewrites_at_most_two(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = folder_run(monkeypatch)
    for number in (0, 17, 41, 59):
        added = project / f"data/images/dogs/{number:03d}-again.jpg"
        added.write_bytes(b"new")
        after = folder_run(monkeypatch)
        assert 1 <= sum(before.get(name) != digest for name, digest in after.items()) <= 2
        added.unlink()
        removed = project / f"data/images/dogs/{number:03d}.jpg"
        kept = removed.read_bytes()
        removed.unlink()
        after = folder_run(monkeypatch)
        assert sum(before.get(name) != digest for name, digest in after.items()) <= 2
        assert f"dogs/{number:03d}.jpg" not in {row["name"] for row in rows()}
        removed.write_bytes(kept)
    assert folder_run(monkeypatch) == before


def test_the_same_images_give_the_same_shards_from_any_container(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = folder_run(monkeypatch)
    files = sorted(Path("data/images").rglob("*.jpg"), key=lambda path: hashlib.sha256(str(path).encode()).digest())
    with zipfile.ZipFile("a.zip", "w") as archive:
        for path in files:
            archive.write(path, path.relative_to("data"))
    with tarfile.open("a.tar.gz", "w:gz") as tar:
        for path in reversed(files):
            tar.add(path, path.relative_to("data/images"))
    for source in ("a.zip", "a.tar.gz"):
        run(monkeypatch, source=source, images_per_shard=8)
        found = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in Path("data/download/images").iterdir()}
        assert found == before
        digest = hashlib.sha256(Path(source).read_bytes()).hexdigest()
        assert document("source") == {"source": source, "sha256": digest}
        assert document("dataset")["archive_sha256"] == digest


def test_documents_are_the_same_bytes_each_time_and_name_no_place(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder_run(monkeypatch)
    before = Path("data/download/dataset.json").read_bytes()
    shutil.move("data/images", "elsewhere")
    run(monkeypatch, source="elsewhere", watch=str(project / "elsewhere"))
    assert Path("data/download/dataset.json").read_bytes() == before
    assert before.endswith(b"}\n")
    assert list(json.loads(before)) == sorted(json.loads(before))
    assert b"images/" not in before


@pytest.mark.parametrize(
    ("values", "error", "code"),
    [
        ({"source": "data/images", "watch": "data"}, ConfigError, 2),
        ({"source": "nowhere.zip"}, ConfigError, 2),
        ({"source": "data/images/cats", "watch": "data/images/cats"}, DataRejected, 3),
        ({"source": "evil.zip"}, IntegrityError, 4),
        ({"source": "good.zip", "sha256": "0" * 64}, IntegrityError, 4),
        ({"source": "http://127.0.0.1:9/x.zip", "retries": 0}, EnvironmentFault, 5),
    ],
)
def test_a_failure_leaves_what_was_there(
    values: dict[str, Any], error: type[GraftError], code: int, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with zipfile.ZipFile("evil.zip", "w") as archive:
        archive.writestr("cats/1.jpg", b"1")
        archive.writestr("../../evil.jpg", b"2")
    with zipfile.ZipFile("good.zip", "w") as archive:
        archive.writestr("cats/1.jpg", b"1")
        archive.writestr("dogs/1.jpg", b"1")
    before = folder_run(monkeypatch)
    everything = sorted(project.rglob("*"))
    with pytest.raises(error) as caught:
        run(monkeypatch, **values)
    assert caught.value.exit_code == code
    assert sorted(project.rglob("*")) == everything
    assert {path.name for path in Path("data/download/images").iterdir()} == set(before)


def test_a_configuration_error_comes_before_anything_is_written(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.move("data/images", "pets")
    Path("data").rmdir()
    with pytest.raises(ConfigError, match=r"set download\.watch to 'pets'"):
        run(monkeypatch, source="pets")
    assert not Path("data").exists()


def test_url(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    served = project / "served"
    served.mkdir()
    with zipfile.ZipFile(served / "a.zip", "w") as archive:
        archive.writestr("train/cats/1.jpg", b"1")
        archive.writestr("val/dogs/2.jpg", b"2")
    digest = hashlib.sha256((served / "a.zip").read_bytes()).hexdigest()
    monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(served))) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        place = f"127.0.0.1:{server.server_address[1]}/a.zip"
        try:
            run(monkeypatch, source=f"http://{place}?token=1", sha256=digest)
            assert [(row["name"], row["given_split"]) for row in rows()] == [
                ("train/cats/1.jpg", "train"),
                ("val/dogs/2.jpg", "val"),
            ]
            assert document("source") == {"source": f"http://{place}", "sha256": digest}
            with pytest.raises(IntegrityError, match=r"download\.sha256 pins"):
                run(monkeypatch, source=f"http://{place}", sha256="0" * 64)
        finally:
            server.shutdown()
            thread.join()
    assert sorted(path.name for path in Path("data").iterdir()) == ["download", "images"]
    assert sorted(path.name for path in Path("data/download").iterdir()) == ["dataset.json", "images", "source.json"]


def test_names_that_differ_by_case_are_kept_and_logged(
    project: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    Path("data/images/cats/A.jpg").write_bytes(b"1")
    Path("data/images/cats/a.jpg").write_bytes(b"2")
    folder_run(monkeypatch)
    assert {"cats/A.jpg", "cats/a.jpg"} < {row["name"] for row in rows()}
    assert "1 names differ from another only by case, as 'cats/A.jpg' and 'cats/a.jpg'" in caplog.text


def test_parameters() -> None:
    wrong = {"sha256": "abc", "images_per_shard": 0, "retries": -1, "max_bytes": 1.5, "sorce": "x", "source": ""}
    problems = check_block("download", DownloadParams, wrong)
    assert isinstance(problems, list)
    assert {problem.key for problem in problems} == {f"download.{key}" for key in wrong}
    pinned = DownloadParams(watch="data/images", sha256="0" * 64)
    assert [problem.key for problem in pinned.across({})] == ["download.sha256"]
    assert [problem.key for problem in DownloadParams().across({})] == ["download.watch"]
    assert all(field.description for field in DownloadParams.model_fields.values())


@pytest.mark.skipif(not TUTORIAL.exists(), reason=f"needs the tutorial's archive, {TUTORIAL.name}, in ../shared/data")
def test_the_tutorials_archive(tmp_path: Path) -> None:
    summary, _ = download.pack(DownloadParams(source=str(TUTORIAL)), tmp_path)
    dataset = json.loads((tmp_path / "dataset.json").read_text())
    assert (dataset["images"], dataset["classes"], dataset["format"]) == (3000, ["cats", "dogs"], "zip")
    assert dataset["given_splits"] == {"train": 2000, "val": 1000}
    assert summary.startswith("3,000 images of 2 classes, 23.9 MB, packed from zip")
    names = [row["name"] for row in tables.iterate(tmp_path / "images", IMAGES, ["name"])]
    assert names == sorted(names)
    assert len(names) == 3000
