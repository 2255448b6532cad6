"""Runs the figure modules, keeps what they found, and shows it.

    python -m benchmarks                            # all, in full
    python -m benchmarks --quick tail_epoch no_op   # two, as CI runs them
    python -m benchmarks whole_pipeline -- --rounds 3 --extrapolate

A figure is a ratio of two sides that one module measures in turn on one machine. Each module runs in a process
of its own, one after the other; one that cannot measure here says why and is skipped.

Reads   nothing; the modules say what they need
Writes  benchmarks/results.json, benchmarks/results.svg; with --readme the table between README.md's markers
Exit    0; 1 where a module failed or a figure missed its bound (with --quick: missed it by more than --slack)
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import math
import os
import platform
import re
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple
from xml.sax.saxutils import escape

import psutil

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results.json"
PICTURE = Path(__file__).parent / "results.svg"
README = ROOT / "README.md"
MARKERS = ("<!-- benchmarks -->", "<!-- /benchmarks -->")
FIGURES = (
    "whole_pipeline", "extraction", "growth", "large_photographs", "tail_epoch", "small_files", "memory", "no_op",
)  # fmt: skip
PACKAGES = ("tensorflow", "keras", "openvino", "dvc", "prefect", "pyarrow", "numpy", "pillow")
QUICK_SLACK = 1.5  # a shared machine's few rounds may miss a bound by this factor
GIB = 2**30

# Okabe and Ito's bluish green and vermilion, which colour-blind people tell apart; both show on white and on black.
GREEN, RED = "#009e73", "#d55e00"
WIDTH, LEFT, RIGHT = 880, 28, 600  # pixels; bars lie between LEFT and RIGHT, values right of them
LINE, BAR, GAP, TOP = 17, 14, 20, 58  # pixels: a line of text, a bar, between rows, above the first
LETTERS = 112  # in a line of a figure's text

Run = dict[str, Any]


class Bound(NamedTuple):
    """A figure's limit, as its `bound` text states it first: `<= 1/6, aim 1/10` is at most 0.167."""

    limit: float
    at_most: bool

    def missed_by(self, value: float) -> float:
        """The factor by which a value is beyond the limit; below 1 within it."""
        if value <= 0 or self.limit <= 0:
            return math.inf if (value > self.limit) == self.at_most else 0.0
        return value / self.limit if self.at_most else self.limit / value


def bound_of(text: str) -> Bound | None:
    """None where the text holds no number after a sign of comparison."""
    found = re.search(r"(<=|>=|≤|≥|<|>|at most|at least)\s*(\d+(?:\.\d+)?(?:\s*/\s*[1-9]\d*)?)", text)
    if found is None:
        return None
    number, _, divisor = found[2].replace(" ", "").partition("/")
    return Bound(float(Fraction(number) / Fraction(divisor or 1)), found[1] in ("<=", "≤", "<", "at most"))


# ------------------------------------------------------------------------------------------------- running


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        system = platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        system = platform.platform(terse=True)
    return {
        "processor": _processor(),
        "cores": cores,
        "memory, GiB": round(psutil.virtual_memory().total / GIB, 1),
        "os": system,
        "python": platform.python_version(),
    }


def _processor() -> str:
    """The model's name where the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return " ".join(line.partition(":")[2].split())
    except OSError:
        pass
    if sys.platform == "darwin":
        asked = subprocess.run(["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True)
        if asked.returncode == 0:
            return asked.stdout.strip()
    return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Of PACKAGES, from their metadata: nothing is imported."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


def run(name: str, quick: bool, extra: Sequence[str] = ()) -> Run:
    """One module in its own process. What it says of its progress goes to our standard error."""
    load = [round(number, 2) for number in os.getloadavg()]
    date = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    command = [sys.executable, "-m", f"benchmarks.{name}", *(["--quick"] if quick else []), *extra]
    start = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    return {
        "module": name,
        "quick": quick,
        "date": date,
        "load before": load,
        "seconds": round(time.perf_counter() - start, 1),
        "machine": machine(),
        "versions": versions(),
        "figures": figures_in(name, done.returncode, done.stdout),
        **({"options": list(extra)} if extra else {}),
    }


def figures_in(name: str, code: int, output: str) -> list[dict[str, Any]]:
    """A module's figures, from the last line it printed; one entry that says `failed` where there are none."""
    if code:
        return [{"figure": name, "failed": f"exit {code}"}]
    try:
        said = json.loads(output.strip().splitlines()[-1])
    except (IndexError, json.JSONDecodeError):
        return [{"figure": name, "failed": "its last line is not JSON"}]
    found = said if isinstance(said, list) else [said]
    for figure in found:
        if not isinstance(figure, dict) or not (
            "skipped" in figure or {"figure", "bound", "value", "passed"} <= {*figure}
        ):
            return [{"figure": name, "failed": "its last line holds no figure"}]
    return [{"figure": name, **figure} for figure in found]


def is_measured(run: Run) -> bool:
    """Whether there is a value in it."""
    return any(map(_has_value, run["figures"]))


def _has_value(figure: Mapping[str, Any]) -> bool:
    """A module that is skipped may still name its figure and bound, with a value of null."""
    return "skipped" not in figure and figure.get("value") is not None


def merged(kept: Sequence[Run], new: Run) -> list[Run]:
    """`kept` with `new` in the place of the same module's run of the same form, quick or full.

    A quick run leaves a full one alone, and one that measured nothing leaves one that did.
    """
    same = [old for old in kept if (old["module"], old["quick"]) == (new["module"], new["quick"])]
    if any(map(is_measured, same)) and not is_measured(new):
        return list(kept)
    order = {name: number for number, name in enumerate(FIGURES)}
    runs = [*(old for old in kept if old not in same), new]
    return sorted(runs, key=lambda one: (order.get(one["module"], len(order)), one["module"], one["quick"]))


def is_broken(run: Run, slack: float) -> bool:
    """Whether it failed, or a figure missed its bound; of a quick run only ratios count, and those with `slack`."""
    return any(_is_broken(figure, run["quick"], slack) for figure in run["figures"])


def _is_broken(figure: Mapping[str, Any], quick: bool, slack: float) -> bool:
    if not _has_value(figure):
        return "skipped" not in figure
    bound = bound_of(figure["bound"])
    if quick and bound is not None:
        return bound.missed_by(figure["value"]) > slack
    return not figure["passed"]


# ------------------------------------------------------------------------------------------------- showing


def shown(runs: Sequence[Run], quick_first: bool = False) -> list[Run]:
    """One run a module, measured before skipped: the full one before the quick, or the other way round."""
    chosen: dict[str, Run] = {}
    for one in sorted(runs, key=lambda one: (not is_measured(one), one["quick"] is not quick_first)):
        chosen.setdefault(one["module"], one)
    return [one for one in runs if chosen[one["module"]] is one]


def table(runs: Sequence[Run]) -> str:
    """A Markdown table, one row a figure, and under it what each machine was."""
    lines = ["| figure | bound | measured | how |", "|---|---|---|---|"]
    for one in runs:
        for figure in one["figures"]:
            lines.append("| " + " | ".join(map(_cell, _row(one, figure))) + " |")
    return "\n".join([*lines, "", *_machines(runs)]) + "\n"


def _row(one: Run, figure: Mapping[str, Any]) -> tuple[str, str, str, str]:
    if not _has_value(figure):
        why = f"skipped: {figure['skipped']}" if "skipped" in figure else f"failed: {figure.get('failed', 'no value')}"
        return str(figure["figure"]), str(figure.get("bound", "")), "not measured", why
    details = figure.get("details") or {}
    how = ["quick" if one["quick"] else "full"]
    if "rounds" in details:
        how.append(f"{details['rounds']} round{'s' if details['rounds'] != 1 else ''}")
    how += ["extrapolated"] if "extrapolated" in details else []
    how.append(f"load {one['load before'][0]:g}")
    mark = "✓" if figure["passed"] else "✗ missed"
    return figure["figure"], figure["bound"], f"{_number(figure['value'])} {mark}", ", ".join(how)


def _machines(runs: Sequence[Run]) -> Iterator[str]:
    """A sentence a machine and set of versions; which figures it had where there are several."""
    groups: dict[str, list[Run]] = {}
    for one in runs:
        if is_measured(one):
            groups.setdefault(_machine_text(one), []).append(one)
    for text, group in groups.items():
        dates = sorted({one["date"][:10] for one in group})
        when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
        which = f"{', '.join(one['module'] for one in group)}: " if len(groups) > 1 else ""
        yield _cell(f"{which}{text}. {when}.")


def _machine_text(one: Run) -> str:
    on = one["machine"]
    packages = ", ".join(f"{name} {version}" for name, version in one["versions"].items())
    return (
        f"{on['processor']}, {on['cores']} cores, {on['memory, GiB']:g} GiB, {on['os']}, "
        f"Python {on['python']}, {packages}"
    )


def _number(value: float) -> str:
    """Three digits, and as a part of one where it is small: `0.0833 (1/12)`."""
    return f"{value:.3g}" + (f" (1/{1 / value:.3g})" if 0 < value < 0.5 else "")


def _cell(text: str) -> str:
    """Text that can neither break a table nor become HTML."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;").replace(">", "&gt;")


def put_into(readme: str, table: str) -> str:
    """The text of README.md with the table between its markers. Raises ValueError where they are not there."""
    start, end = MARKERS
    before, found, rest = readme.partition(start)
    _, found_end, after = rest.partition(end)
    if not found or not found_end:
        raise ValueError(f"README.md has no lines {start} and {end}")
    return f"{before}{start}\n{table}\n![Each figure beside its bound](benchmarks/{PICTURE.name})\n{end}{after}"


def picture(runs: Sequence[Run]) -> str:
    """An SVG: a bar a figure from its bound to the left where it is better, to the right where it is worse.

    The scale is the factor between value and bound, in powers of two, the same for all. It stands on
    a card of its own, dark where the reader's browser asks for dark, so that it is legible on any page.
    """
    rows = []
    for one in runs:
        for figure in one["figures"]:
            bound = bound_of(figure["bound"]) if _has_value(figure) else None
            if bound is not None and 0 < bound.missed_by(figure["value"]) < math.inf:
                rows.append((figure, math.log2(bound.missed_by(figure["value"]))))
    low = min(-1, math.floor(min((factor for _, factor in rows), default=0)))
    high = max(1, math.ceil(max((factor for _, factor in rows), default=0)))

    def across(factor: float) -> float:
        return round(LEFT + (factor - low) / (high - low) * (RIGHT - LEFT), 1)

    drawn: list[str] = []
    y = TOP
    for figure, factor in rows:
        drawn += _bar(figure, y, across(0), across(factor))
        y += _height(figure)
    if not rows:
        drawn.append(_text(LEFT, y + LINE, "Nothing was measured yet.", "label"))
        y += LINE + GAP
    step = max(1, math.ceil((high - low) / 10))  # labels stay apart
    grid = []
    for power in range(low, high + 1):
        if power % step == 0:
            kind = "bound" if power == 0 else "grid"
            grid.append(f'<path class="{kind}" d="M{across(power)} {TOP - 8}V{y - GAP + 8}"/>')
            grid.append(_text(across(power), y + 6, _factor(power), "tick"))
    height = y + 44
    scale = _text((LEFT + RIGHT) / 2, y + 28, "measured ÷ bound (left of the line is better)", "tick")
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
            f'viewBox="0 0 {WIDTH} {height}" role="img" aria-labelledby="title">',
            '<title id="title">Benchmarks: each figure beside its bound</title>',
            f"<style>{STYLE}</style>",
            f'<rect class="card" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="8"/>',
            _text(LEFT, 30, "Each figure beside its bound", "title"),
            *grid, *drawn, scale, "</svg>", "",
        ]
    )  # fmt: skip


STYLE = (
    "text{font:13px -apple-system,'Segoe UI',Helvetica,Arial,sans-serif;fill:#1f2328}"
    ".title{font-size:16px;font-weight:600}.tick{font-size:11px;fill:#59636e;text-anchor:middle}"
    ".value{font-weight:600}.card{fill:#fff;stroke:#d1d9e0}.grid{stroke:#d1d9e0}.bound{stroke:#59636e;stroke-width:2}"
    f".good{{fill:{GREEN}}}.bad{{fill:{RED}}}.mark{{fill:none;stroke-width:2.5}}"
    f".good.mark{{fill:none;stroke:{GREEN}}}.bad.mark{{fill:none;stroke:{RED}}}"
    "@media(prefers-color-scheme:dark){text{fill:#f0f6fc}.tick{fill:#9198a1}.card{fill:#0d1117;stroke:#3d444d}"
    ".grid{stroke:#3d444d}.bound{stroke:#9198a1}}"
)


def _height(figure: Mapping[str, Any]) -> int:
    return len(textwrap.wrap(figure["figure"], LETTERS)) * LINE + BAR + GAP


def _bar(figure: Mapping[str, Any], y: int, zero: float, end: float) -> Iterator[str]:
    """The figure's text, its bar under it, then a mark, the value and the bound."""
    for line in textwrap.wrap(figure["figure"], LETTERS):
        yield _text(LEFT, y + LINE - 5, line, "label")
        y += LINE
    kind = "good" if figure["passed"] else "bad"
    left, width = min(zero, end), max(abs(end - zero), 2.0)
    yield f'<rect class="{kind}" x="{left}" y="{y}" width="{width:.1f}" height="{BAR}" rx="2"/>'
    # Drawn, not written: not every font has the characters. Never by colour alone.
    x = RIGHT + 18
    shape = f"M{x} {y + 8}l4 4l7 -10" if figure["passed"] else f"M{x} {y + 2}l10 10m0 -10l-10 10"
    yield f'<path class="{kind} mark" d="{shape}"/>'
    yield _text(x + 20, y + BAR - 2, _number(figure["value"]), "value")
    bound = bound_of(figure["bound"])
    assert bound is not None  # only such figures have a bar
    yield _text(x + 128, y + BAR - 2, f"{'≤' if bound.at_most else '≥'} {_number(bound.limit)}", "label")


def _text(x: float, y: float, text: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x}" y="{y}">{escape(text)}</text>'


def _factor(power: int) -> str:
    return "bound" if power == 0 else f"1/{2**-power}" if power < 0 else f"× {2**power}"


# ------------------------------------------------------------------------------------------------- command


def load(path: Path) -> list[Run]:
    """The runs kept so far, none where nothing was measured yet."""
    return json.loads(path.read_text())["runs"] if path.exists() else []


def say(line: str) -> None:
    """A line of progress on standard error; standard output is for the table."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def main(arguments: Sequence[str]) -> int:
    """Run, keep, show; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", epilog="What follows -- goes to the one module that is named."
    )
    # Not `choices`: argparse would compare an empty list with them.
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(FIGURES)}; all without any")
    parser.add_argument("--quick", action="store_true", help="minutes; what CI runs")
    parser.add_argument("--slack", type=float, default=QUICK_SLACK, help="factor a quick ratio may miss its bound by")
    parser.add_argument("--readme", action="store_true", help="put the table between README.md's markers")
    split = list(arguments).index("--") if "--" in arguments else len(arguments)
    given, extra = parser.parse_args(arguments[:split]), list(arguments[split + 1 :])
    if unknown := sorted({*given.names} - {*FIGURES}):
        parser.error(f"no figure {', '.join(unknown)}; there are {', '.join(FIGURES)}")
    if extra and len(given.names) != 1:
        parser.error("options after -- need exactly one NAME")
    names = given.names or FIGURES

    runs, code = load(RESULTS), 0
    for number, name in enumerate(names, 1):
        say(f"[{number}/{len(names)}] {name}, {'quick' if given.quick else 'full'}, load {os.getloadavg()[0]:.2f}")
        new = run(name, given.quick, extra)
        runs = merged(runs, new)
        # After each: the next may be interrupted.
        RESULTS.write_text(json.dumps({"runs": runs}, indent=2, ensure_ascii=False) + "\n")
        PICTURE.write_text(picture(shown(runs)))
        broken = is_broken(new, given.slack)
        code |= broken
        for figure in new["figures"]:
            how = f", {_row(new, figure)[3]}"
            say(f"    {figure['figure']}: {_row(new, figure)[2]}{how}, {new['seconds']:.0f} s")
    sys.stdout.write(table(shown(runs, quick_first=given.quick)))
    if given.readme:
        try:
            README.write_text(put_into(README.read_text(), table(shown(runs))))
        except ValueError as error:
            say(str(error))
            return 2
    return int(code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
