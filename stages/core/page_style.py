"""The style sheet of every report page: light, dark, phone and print."""

from __future__ import annotations

STYLE = """
:root { color-scheme: light dark; --ground: #fbfbf9; --card: #fff; --text: #1c2127; --soft: #5d6873;
  --line: #dfe3e6; --ink: #3565a8; --track: #e9edf1; --good: #1f7a45; --warn: #96650a; --bad: #b3312a; }
@media (prefers-color-scheme: dark) { :root { --ground: #14171b; --card: #1c2026; --text: #e4e8ec;
  --soft: #9ba6b1; --line: #323941; --ink: #7fa9e3; --track: #2a3038; --good: #63c48b; --warn: #deae52;
  --bad: #f0857d; } }
@media print { :root { --ground: #fff; --card: #fff; --text: #000; --soft: #444; --line: #bbb; --ink: #333;
  --track: #eee; --good: #060; --warn: #640; --bad: #800; }
  main { max-width: none !important; padding: 0 !important; }
  tr, figure, .banner, .figures > div { break-inside: avoid; } h2, h3 { break-after: avoid; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--text);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 1060px; margin: 0 auto; padding: 24px 20px 60px; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 18px; }
h2 { font-size: 1.15rem; margin: 36px 0 8px; padding-bottom: 5px; border-bottom: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 22px 0 6px; }
p { margin: 6px 0 12px; max-width: 75ch; }
a { color: var(--ink); }
.banner { background: var(--card); border: 1px solid var(--line); border-left: 6px solid var(--soft);
  border-radius: 6px; padding: 14px 18px; margin: 0 0 18px; }
.banner strong { font-size: 1.1rem; } .banner p { margin: 4px 0 0; }
.banner.good { border-left-color: var(--good); } .banner.good strong { color: var(--good); }
.banner.warn { border-left-color: var(--warn); } .banner.warn strong { color: var(--warn); }
.banner.bad { border-left-color: var(--bad); } .banner.bad strong { color: var(--bad); }
.figures { display: flex; flex-wrap: wrap; gap: 10px; margin: 0 0 14px; }
.figures > div { background: var(--card); border: 1px solid var(--line); border-radius: 6px;
  padding: 8px 16px; flex: 1 1 120px; }
.figures dt { color: var(--soft); font-size: .82rem; }
.figures dd { margin: 0; font-size: 1.3rem; font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; margin: 8px 0 16px; }
table { border-collapse: collapse; width: 100%; background: var(--card); }
caption { text-align: left; color: var(--soft); padding: 0 0 6px; }
th, td { padding: 6px 10px; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top;
  overflow-wrap: anywhere; unicode-bidi: isolate; }
td { min-width: 5.6em; } td:first-child { min-width: 11em; }
thead th { font-size: .82rem; color: var(--soft); font-weight: 600;
  white-space: nowrap; overflow-wrap: normal; }
.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
.none { color: var(--soft); }
.badge { display: inline-block; padding: 0 9px; border: 1px solid currentColor; border-radius: 10px;
  font-size: .82rem; font-weight: 600; white-space: nowrap; color: var(--soft); }
.badge.good { color: var(--good); } .badge.warn { color: var(--warn); } .badge.bad { color: var(--bad); }
.bars { background: none; margin: 8px 0 16px; }
.bars th { width: 22%; font-weight: 500; }
.bars th, .bars td { border: 0; min-width: 0; padding: 3px 10px 3px 0; }
.bars .number { width: 1%; } .bar svg { display: block; width: 100%; height: 15px; margin-top: 4px; }
.ink { fill: var(--ink); } .track { fill: var(--track); }
.chart { margin: 8px 0 16px; max-width: 620px; } .chart svg { display: block; width: 100%; height: auto; }
.chart text { fill: var(--soft); font-size: 13px; } .axis { stroke: var(--line); }
figcaption { font-size: .8rem; color: var(--soft); overflow-wrap: anywhere; unicode-bidi: isolate; }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(120px, 1fr)); gap: 12px;
  margin: 8px 0 18px; }
.gallery figure { margin: 0; }
.gallery img, .blank { display: block; width: 100%; aspect-ratio: 1; object-fit: contain;
  background: var(--track); border-radius: 5px; }
.blank { display: grid; place-items: center; color: var(--soft); font-size: .8rem; }
"""
