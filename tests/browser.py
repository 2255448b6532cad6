"""A real browser for tests of pages: Chromium without a window, driven over a loopback port, nothing fetched.

browser = Browser()
browser.open(tmp_path / "index.html")
assert browser.console() == []
browser.close()
"""

from __future__ import annotations

import base64
import json
import shutil
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

CHROMIUM = Path("/usr/bin/chromium")
DRIVER = Path("/usr/bin/chromedriver")
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip


def available() -> str | None:
    """Why there is no browser here, or None where there is one."""
    for program in (CHROMIUM, DRIVER):
        if not program.is_file():
            return f"{program} is not installed"
    return None if find_spec("selenium") else "the package selenium is not installed"


class Browser:
    """One browser with one page open at a time, and what it shows, measured in the page itself."""

    def __init__(self) -> None:
        from selenium import webdriver

        self._profile = tempfile.mkdtemp(prefix="browser")
        options = webdriver.ChromeOptions()
        options.binary_location = str(CHROMIUM)
        for flag in (*FLAGS, f"--user-data-dir={self._profile}", "--window-size=1200,900"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        # With a path given, selenium does not look for a driver on the network.
        self.driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(DRIVER)))
        self._scheme, self._media = "light", ""

    def open(self, path: Path, fragment: str = "") -> None:
        """Load a file anew, at `fragment` (percent-encoded, without the #)."""
        self.driver.get("about:blank")  # else another fragment of the same file would load nothing
        self.console()
        self.requests()
        self.driver.get(path.resolve().as_uri() + (f"#{fragment}" if fragment else ""))

    def console(self) -> list[str]:
        """What the page has written to the console since the last call, refusals of its policy included."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self) -> list[str]:
        """Every address but data: that was asked for since the last call, the page's own file first."""
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        urls = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        return [url for url in urls if not url.startswith("data:")]

    def scheme(self, name: Literal["dark", "light"]) -> None:
        """The reader's colour scheme."""
        self._scheme = name
        self._emulate()

    def media(self, name: Literal["print", ""]) -> None:
        """Show the page as it is printed, or on the screen again."""
        self._media = name
        self._emulate()

    def width(self, pixels: int, height: int = 900) -> None:
        """The window's inner width."""
        self._cdp("Emulation.setDeviceMetricsOverride", width=pixels, height=height, deviceScaleFactor=1, mobile=False)

    def screenshot(self, path: Path, full: bool = True) -> None:
        """A PNG of the whole page, or of what the window shows."""
        size = self._cdp("Page.getLayoutMetrics")["cssContentSize" if full else "cssLayoutViewport"]
        width, height = (size["width"], size["height"]) if full else (size["clientWidth"], size["clientHeight"])
        width = max(width, self.run("return innerWidth"))  # a scroll bar is not drawn, and its place is the page's
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        options: dict[str, Any] = {"captureBeyondViewport": True, "clip": clip} if full else {}
        path.write_bytes(base64.b64decode(self._cdp("Page.captureScreenshot", **options)["data"]))

    def contrast_failures(self, least: float = 4.5) -> list[str]:
        """Shown texts whose colour is too near to that of their ground; folded-away ones are opened for it."""
        failures: list[str] = self.run(_PAGE + _CONTRAST + "return contrast(arguments[0]);", least)
        return failures

    def overflow(self) -> int:
        """By how many pixels the page is wider than the window."""
        pixels: int = self.run("const s = document.scrollingElement; return Math.max(0, s.scrollWidth - s.clientWidth)")
        return pixels

    def interactive(self) -> list[str]:
        """Everything shown that a mouse could use, described as by `tab_stops`."""
        found: list[str] = self.run(
            _PAGE + "return [...document.querySelectorAll('a[href], button, input, select, textarea, summary, "
            '[tabindex="0"]\')].filter(shown).map(described);'
        )
        return found

    def tab_stops(self, most: int = 500) -> list[str]:
        """What Tab reaches from the top of the page, in order; one whose focus does not show says so."""
        from selenium.webdriver import ActionChains, Keys

        self.run("document.activeElement.blur(); getSelection().removeAllRanges(); scrollTo(0, 0); window.seen = [];")
        stops: list[str] = []
        while len(stops) < most:
            ActionChains(self.driver, duration=0).send_keys(Keys.TAB).perform()
            stop = self.run(_PAGE + _STOP)
            if stop is None:
                break
            stops.append(stop)
        return stops

    def run(self, script: str, *arguments: Any) -> Any:
        """What `script` returns; the page's policy does not bind it."""
        return self.driver.execute_script(script, *arguments)

    def close(self) -> None:
        """End the browser and remove its profile."""
        self.driver.quit()
        shutil.rmtree(self._profile, ignore_errors=True)

    def _emulate(self) -> None:
        features = [{"name": "prefers-color-scheme", "value": self._scheme}]
        self._cdp("Emulation.setEmulatedMedia", media=self._media, features=features)

    def _cdp(self, command: str, **parameters: Any) -> Any:
        return self.driver.execute_cdp_cmd(command, parameters)


_PAGE = """
const shown = (element) => element.checkVisibility({visibilityProperty: true, contentVisibilityAuto: true});
const described = (element) => element.tagName.toLowerCase() + (element.id && "#" + element.id) + " "
  + (element.getAttribute("aria-label") || element.textContent.trim()).slice(0, 60);
"""
_STOP = """
const element = document.activeElement;
if (element === document.body || window.seen.includes(element)) return null;
window.seen.push(element);
const style = getComputedStyle(element);
const visible = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2;
return described(element) + (visible ? "" : " (no outline)");
"""
# The contrast of the Web Content Accessibility Guidelines, with what is half transparent laid over its ground.
_CONTRAST = """
const parsed = (color) => {
  const [r, g, b, a = 1] = color.match(/[\\d.]+/g).map(Number);
  return [r, g, b, a];
};
const over = (top, ground) => [0, 1, 2].map((i) => top[i] * top[3] + ground[i] * (1 - top[3]));
const ground = (element) => {
  if (!element) return [255, 255, 255];
  const own = parsed(getComputedStyle(element).backgroundColor);
  return own[3] === 1 ? own.slice(0, 3) : over(own, ground(element.parentElement));
};
const light = (color) => {
  const [r, g, b] = color.map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const contrast = (least) => {
  const folded = [...document.querySelectorAll("details:not([open])")];
  for (const part of folded) part.open = true;
  const failures = [];
  let checked = 0;
  const check = (element, text) => {
    const style = getComputedStyle(element);
    let opacity = 1;
    for (let outer = element; outer; outer = outer.parentElement) opacity *= getComputedStyle(outer).opacity;
    const behind = ground(element);
    const ink = parsed(element instanceof SVGElement ? style.fill : style.color);
    ink[3] *= opacity;
    const [a, b] = [light(over(ink, behind)), light(behind)].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    checked += 1;
    if (ratio < least) failures.push(ratio.toFixed(2) + " " + described(element) + ": " + text.trim().slice(0, 40));
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node; (node = walker.nextNode()); ) {
    const element = node.parentElement;
    if (node.data.trim() && element.tagName !== "title" && shown(element)) check(element, node.data);
  }
  for (const input of document.querySelectorAll("input")) if (shown(input)) check(input, input.value);
  for (const part of folded) part.open = false;
  if (!checked) failures.push("no text is shown");
  return failures;
};
"""
