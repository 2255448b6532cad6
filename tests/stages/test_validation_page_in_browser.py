"""The pages of a real validation, opened from disk in a real browser."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from commands import accept as accepting
from stages import validate
from stages.core.errors import DataRejected
from stages.store import params
from tests.browser import Browser, available
from tests.stages.test_validate import NASTY_LABEL, NASTY_NAME, clean, encode, pack, picture

WHY_NOT = available()
pytestmark = pytest.mark.skipif(WHY_NOT is not None, reason=f"no browser: {WHY_NOT}")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """reports/validate of data with something wrong in every section, compared with accepted data."""
    root = tmp_path_factory.mktemp("validated")
    before = Path.cwd()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(params, "STAGES", ("validate",))
        os.chdir(root)
        try:
            pack(clean())
            validate.main()
            accepting.accept(dry_run=False)
            (validate.SHARDS / "0.parquet").unlink()
            (validate.SHARDS / "1.parquet").unlink()
            validate.SHARDS.rmdir()
            rows = [(name, label, "train", data) for name, label, _, data in clean()]
            photograph = picture(90)
            rows += [
                (NASTY_NAME, "cats", "train", b"<html><script>alert(3)</script>"),
                (NASTY_NAME + "2", NASTY_LABEL, "train", encode(picture())),
                ("cats/copy.png", "cats", "train", rows[2][3]),
                ("dogs/conflict.png", "dogs", "train", rows[3][3]),
                ("cats/a.jpg", "cats", "train", encode(photograph, "JPEG", quality=90)),
                ("cats/b.jpg", "cats", "val", encode(photograph, "JPEG", quality=50)),
                ("cats/dark.png", "cats", "train", encode(picture(70).point(lambda value: value // 12))),
            ]
            pack(rows, max_bad_fraction=0.01)
            with pytest.raises(DataRejected):
                validate.main()
        finally:
            os.chdir(before)
    return root / "reports" / "validate"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    opened = Browser()
    yield opened
    opened.close()


def pages(report: Path) -> list[Path]:
    return [report / "index.html", *sorted((report / "data_docs").glob("*.html"))]


def test_no_page_complains_or_fetches_anything(report: Path, browser: Browser) -> None:
    assert len(pages(report)) == 1 + 1 + 2 * 4  # ours, the index of Data Docs, and two per table
    for page in pages(report):
        browser.open(page)
        assert browser.console() == [], page.name
        assert [url for url in browser.requests() if not url.startswith("data:")] == [page.as_uri()]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_can_be_read(report: Path, browser: Browser, scheme: str) -> None:
    browser.scheme("dark" if scheme == "dark" else "light")
    for page in pages(report):
        browser.open(page)
        assert browser.contrast_failures() == [], page.name
    browser.scheme("light")


@pytest.mark.parametrize("width", [360, 1200])
def test_nothing_sticks_out(report: Path, browser: Browser, width: int) -> None:
    browser.width(width)
    for page in pages(report):
        browser.open(page)
        assert browser.overflow() == 0, page.name
    browser.width(1200)


def test_everything_can_be_reached_by_the_keyboard(report: Path, browser: Browser) -> None:
    browser.open(report / "index.html")
    stops = browser.tab_stops()
    assert len(stops) > 40
    assert not [stop for stop in stops if stop.endswith("(no outline)")]


def test_a_number_leads_to_its_rows(report: Path, browser: Browser) -> None:
    browser.open(report / "index.html")
    rows = "[...document.querySelectorAll('#rows tbody tr')].filter(row => !row.hidden)"
    shown = f"return {rows}.map(row => row.cells[0].innerText)"
    assert len(browser.run(shown)) == 19
    browser.run("[...document.querySelectorAll('dl div')].find(tile => tile.innerText.startsWith('quarantined'))"
                ".querySelector('a').click()")  # fmt: skip
    quarantined = browser.run(shown)
    assert {"cats/3.png", "dogs/conflict.png"} < set(quarantined)
    assert len(quarantined) == 3
    browser.run("document.querySelector('#rule-leakage + p a').click()")
    assert browser.run(shown) == ["cats/a.jpg", "cats/b.jpg"]


def test_it_can_be_photographed(report: Path, browser: Browser, tmp_path: Path) -> None:
    browser.open(report / "index.html")
    browser.screenshot(tmp_path / "page.png", full=True)
    from PIL import Image

    with Image.open(tmp_path / "page.png") as image:
        assert image.width >= 1000
        assert image.height >= 3000
