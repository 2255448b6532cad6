"""The style sheet of every report page: light, dark, phone and print."""

from __future__ import annotations

STYLE = """
:root { color-scheme: light dark; --ground: #f8f8f6; --card: #fff; --text: #1c2127; --soft: #57626d;
  --line: #dde1e5; --edge: #84909b; --ink: #2f5fa3; --track: #e9edf1; --over: #a4520c;
  --good: #1b6e3e; --good-tint: #e8f4ec; --warn: #845605; --warn-tint: #fbf1dc;
  --bad: #a62a23; --bad-tint: #fbeae8; }
@media (prefers-color-scheme: dark) { :root { --ground: #14171b; --card: #1b1f25; --text: #e4e8ec;
  --soft: #a3adb8; --line: #323941; --edge: #71808f; --ink: #8ab2ea; --track: #282e36; --over: #f0a860;
  --good: #6fce97; --good-tint: #17301f; --warn: #e2b65c; --warn-tint: #352a12;
  --bad: #f5938b; --bad-tint: #3c1e1c; } }
* { box-sizing: border-box; }
[hidden] { display: none !important; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; scroll-padding-top: 12px; }
body { margin: 0; background: var(--ground); color: var(--text); overflow-wrap: anywhere;
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 1060px; margin: 0 auto; padding: 28px 20px 60px; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 18px; }
h2 { font-size: 1.2rem; line-height: 1.3; margin: 40px 0 10px; padding-bottom: 6px;
  border-bottom: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 24px 0 6px; }
p { margin: 6px 0 12px; max-width: 75ch; }
a { color: var(--ink); text-underline-offset: 2px; }
:focus-visible { outline: 2px solid var(--ink); outline-offset: 2px; border-radius: 3px; }
button, input { font: inherit; color: var(--text); background: var(--card); border: 1px solid var(--edge);
  border-radius: 5px; min-height: 32px; padding: 2px 10px; max-width: 100%; }
button { cursor: pointer; }
.banner { background: var(--card); border: 1px solid var(--line); border-left: 6px solid var(--soft);
  border-radius: 6px; padding: 14px 18px; margin: 0 0 18px; }
.banner strong { font-size: 1.1rem; } .banner p { margin: 4px 0 0; }
.banner.good { border-left-color: var(--good); background: var(--good-tint); }
.banner.warn { border-left-color: var(--warn); background: var(--warn-tint); }
.banner.bad { border-left-color: var(--bad); background: var(--bad-tint); }
.banner.good strong { color: var(--good); } .banner.warn strong { color: var(--warn); }
.banner.bad strong { color: var(--bad); }
.contents ul { list-style: none; display: flex; flex-wrap: wrap; gap: 0 20px; margin: 0 0 18px; padding: 0; }
.contents a { display: inline-block; padding: 4px 0; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(128px, 1fr)); gap: 10px; margin: 0 0 16px; }
.figures > div { background: var(--card); border: 1px solid var(--line); border-radius: 6px; padding: 8px 14px; }
.figures dt { color: var(--soft); font-size: .82rem; }
.figures dd { margin: 0; font-size: 1.35rem; line-height: 1.35; font-variant-numeric: tabular-nums; }
.listing { margin: 8px 0 18px; outline: none; }
.tools { display: flex; flex-wrap: wrap; align-items: center; gap: 6px 14px; margin: 0 0 8px; color: var(--soft); }
.tools input { width: 15em; margin-left: 4px; }
.note { color: var(--text); } .note button { margin-left: 6px; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 6px; background: var(--card); }
table { border-collapse: collapse; width: 100%; }
caption { text-align: left; color: var(--soft); padding: 8px 10px; font-size: .88rem; }
th, td { padding: 6px 10px; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top;
  unicode-bidi: isolate; }
tbody tr:last-child > * { border-bottom: 0; }
td { min-width: 5.6em; } td:first-child, .picture + td { min-width: 12.5em; } td.long { min-width: 17em; }
tr:has(.thumb) td { vertical-align: middle; }
td.number, td.picture, td.picture:first-child { min-width: 0; }
thead th { font-size: .82rem; color: var(--soft); font-weight: 600; white-space: nowrap; overflow-wrap: normal;
  background: var(--card); border-bottom-color: var(--edge); vertical-align: bottom; }
thead button { all: unset; box-sizing: border-box; cursor: pointer; margin: -6px -10px; padding: 6px 10px;
  min-height: 32px; }
thead button:focus-visible { outline: 2px solid var(--ink); outline-offset: -2px; }
thead button:hover { color: var(--text); text-decoration: underline; }
thead button::after { content: "\\2195"; content: "\\2195" / ""; display: inline-block; width: 1.1em;
  text-align: center; margin-left: 2px; }
[aria-sort] button { color: var(--text); }
[aria-sort=ascending] button::after { content: "\\2191"; content: "\\2191" / ""; }
[aria-sort=descending] button::after { content: "\\2193"; content: "\\2193" / ""; }
.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
.estimate { font-variant-numeric: tabular-nums; } .estimate span { white-space: nowrap; }
.estimate span + span { color: var(--soft); }
.none { color: var(--soft); }
.badge { display: inline-block; max-width: 100%; padding: 0 9px; border: 1px solid currentColor; border-radius: 11px;
  font-size: .82rem; font-weight: 600; overflow-wrap: break-word; unicode-bidi: isolate; color: var(--soft);
  background: var(--card); }
.badge.good { color: var(--good); background: var(--good-tint); }
.badge.warn { color: var(--warn); background: var(--warn-tint); }
.badge.bad { color: var(--bad); background: var(--bad-tint); }
.bars { margin: 8px 0 18px; }
.bars th { width: 22%; font-weight: 500; }
.bars th, .bars td { border: 0; min-width: 0; padding: 3px 12px 3px 0; }
.bars .number { width: 1%; padding-right: 0; } .bar svg { display: block; width: 100%; height: 14px; margin-top: 5px; }
.ink { fill: var(--ink); } .track { fill: var(--track); }
.chart { margin: 10px 0 20px; max-width: 640px; }
.chart svg { display: block; width: 100%; height: 150px; border-bottom: 1px solid var(--edge); overflow: visible; }
.outline { fill: none; stroke: var(--over); stroke-width: 2px; vector-effect: non-scaling-stroke; }
.chart.square { max-width: 360px; }
.chart.square svg { height: auto; aspect-ratio: 1; border-left: 1px solid var(--edge); }
.diagonal { stroke: var(--soft); stroke-width: .4; stroke-dasharray: 2 2; }
polyline { fill: none; stroke-width: .8; } polyline.now { stroke: var(--ink); }
polyline.accepted { stroke: var(--over); }
.interval { fill: none; stroke-width: .5; opacity: .6; }
path.now { stroke: var(--ink); } path.accepted { stroke: var(--over); }
circle.now { fill: var(--ink); } circle.accepted { fill: var(--over); }
.axis { display: flex; justify-content: space-between; gap: 12px; font-size: .82rem; color: var(--soft);
  padding: 3px 0; text-align: center; }
.axis :first-child, .axis :last-child { flex: none; }
.key { margin-right: 10px; color: var(--text); }
.key::before { content: ""; display: inline-block; width: 14px; height: 10px; margin-right: 5px; }
.now::before { background: var(--ink); }
.accepted::before { border: solid var(--over); border-width: 2px 2px 0; }
.square .key::before { border: 0; border-radius: 5px; width: 10px; }
.square .accepted::before { background: var(--over); }
figcaption { font-size: .82rem; line-height: 1.4; color: var(--soft); unicode-bidi: isolate; }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(128px, 1fr)); gap: 14px 12px;
  margin: 8px 0 18px; }
.gallery figure { margin: 0; }
.gallery img, .gallery .blank { display: block; width: 100%; aspect-ratio: 1; object-fit: contain;
  background: var(--track); border-radius: 5px; }
.gallery.abreast-2 { grid-template-columns: repeat(auto-fill, minmax(min(100%, 236px), 1fr)); }
.gallery.abreast-3 { grid-template-columns: repeat(auto-fill, minmax(min(100%, 330px), 1fr)); }
.abreast-2 img { aspect-ratio: 2; } .abreast-3 img { aspect-ratio: 3; }
.gallery .good img, .gallery .good .blank { border: 3px solid var(--good); }
.gallery .warn img, .gallery .warn .blank { border: 3px solid var(--warn); }
.gallery .bad img, .gallery .bad .blank { border: 3px solid var(--bad); }
.gallery figcaption { margin-top: 4px; color: var(--text); }
.gallery small { display: block; font-size: .78rem; color: var(--soft); }
.gallery .blank, .thumb.blank { display: grid; place-items: center; color: var(--soft); font-size: .8rem; }
.row { display: flex; overflow-x: auto; padding: 12px; border: 1px solid var(--line); border-radius: 6px;
  background: var(--card); }
.row figure { flex: 0 0 148px; }
.thumb { display: block; width: 56px; height: 56px; object-fit: contain; background: var(--track);
  border-radius: 4px; }
details { margin: 8px 0 18px; border: 1px solid var(--line); border-radius: 6px; padding: 0 14px; }
summary { cursor: pointer; padding: 8px 0; font-weight: 600; }
@media (min-width: 600px) { [data-filterable] .scroll { max-height: max(60vh, 420px); overflow-y: auto; }
  [data-filterable] thead th { position: sticky; top: 0; box-shadow: inset 0 -1px var(--edge); } }
@media (max-width: 599px) { main { padding: 18px 14px 40px; } h2 { margin-top: 32px; }
  .bars tr { display: grid; grid-template-columns: 1fr auto; margin-bottom: 6px; }
  .bars th { width: auto; } .bars .bar { grid-area: 2 / 1 / 3 / 3; padding: 0; } .bar svg { margin: 0; }
  .bars .number { width: auto; }
  .gallery { grid-template-columns: repeat(auto-fill, minmax(104px, 1fr)); }
  .tools label { flex: 1 1 100%; display: flex; align-items: center; gap: 6px; } .tools input { flex: 1; } }
@media (pointer: coarse) { button, input, thead button { min-height: 44px; } thead button { padding: 12px 10px; }
  .contents a, summary { padding: 10px 0; } }
@media print { :root { color-scheme: light; --ground: #fff; --card: #fff; --text: #000; --soft: #333; --line: #bbb;
  --edge: #555; --ink: #333; --track: #eee; --over: #000; --good: #060; --warn: #640; --bad: #800;
  --good-tint: #fff; --warn-tint: #fff; --bad-tint: #fff; }
  .ink { fill: #888; } .now::before { background: #888; }
  main { max-width: none; padding: 0; } body { font-size: 9pt; }
  .contents, .download, .tools label, .note button, thead button::after { display: none; }
  thead button { margin: 0; padding: 0; min-height: 0; }
  a { color: #000; } .scroll, [data-filterable] .scroll { overflow: visible; max-height: none; border: 0; }
  th, td { padding: 4px 6px; } td { min-width: 5em; } td:first-child, .picture + td, td.long { min-width: 8em; }
  thead th, thead .number { position: static !important; white-space: normal;
    overflow-wrap: anywhere; }
  .row { flex-wrap: wrap; overflow: visible; } details { border: 0; padding: 0; }
  details::details-content { content-visibility: visible; block-size: auto; }
  tr, img, figure, .banner, .figures > div { break-inside: avoid; } h2, h3, caption { break-after: avoid; }
  svg, .badge, .key { -webkit-print-color-adjust: exact; print-color-adjust: exact; } }
"""
