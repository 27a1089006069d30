"""The report's style sheet: system fonts, one accent, light and dark, narrow and wide, screen and paper."""

#: colours by name, for light and dark surroundings
PALETTE = """
:root {
  color-scheme: light dark;
  --paper: #fbfaf7; --card: #ffffff; --ink: #1d2327; --soft: #59646c; --rule: #dfddd6; --faint: #f1efe9;
  --accent: #0b6e69; --accent-soft: #d9ece9; --alarm: #a8231c; --alarm-soft: #fbe6e3; --warn: #8a5a00;
  --warn-soft: #fdf1d8;
  --s0: #0b6e69; --s1: #b4540a; --s2: #3f5fb5; --s3: #9a3b7f; --s4: #5d7a12; --s5: #8a6d00;
  --s6: #1f7fae; --s7: #6b6b6b;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14181a; --card: #1c2123; --ink: #e8e6e1; --soft: #a3adb2; --rule: #353c40; --faint: #23292c;
    --accent: #5cc4bb; --accent-soft: #1b3d3b; --alarm: #ff8f85; --alarm-soft: #45201d;
    --warn: #efc26b; --warn-soft: #3b2f17;
    --s0: #5cc4bb; --s1: #f0a063; --s2: #93abf2; --s3: #df8fc6; --s4: #b0cf62; --s5: #dcc25a;
    --s6: #74c4ea; --s7: #b4b4b4;
  }
}
"""

#: how the parts of a plot look, by class
DRAWING = """
.grid { stroke: var(--rule); stroke-width: 1; }
.axis { stroke: var(--soft); stroke-width: 1; }
.tick { fill: var(--soft); font-size: 10px; font-variant-numeric: tabular-nums; }
.tick.end { text-anchor: end; }
.tick.middle { text-anchor: middle; }
.stroke { fill: none; stroke-width: 2.2; stroke-linejoin: round; stroke-linecap: round; }
.series { stroke: var(--card); stroke-width: 1; }
.planned { fill: none; stroke: var(--soft); stroke-width: 1.4; stroke-dasharray: 2 4; }
.budget { stroke: var(--alarm); stroke-width: 1.6; stroke-dasharray: 8 4; }
.budget-text { fill: var(--alarm); }
.chance { stroke: var(--soft); stroke-width: 1.2; stroke-dasharray: 2 4; }
""" + "".join(
    f".stroke.s{index} {{ stroke: var(--s{index}); }} .series.s{index} {{ fill: var(--s{index}); }}\n"
    for index in range(8)
)

CSS = (
    PALETTE
    + """
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", "Noto Sans", "Helvetica Neue", Arial, sans-serif;
  overflow-wrap: break-word;
}
.page { max-width: 62rem; margin: 0 auto; padding: 2.5rem 1.5rem 4rem; }
h1, h2, h3 { line-height: 1.2; text-wrap: balance; }
h1 {
  font: 600 2.1rem/1.15 ui-serif, Georgia, "Noto Serif", serif; margin: .2rem 0 .5rem;
  letter-spacing: -.01em;
}
h2 {
  font: 600 1.35rem/1.25 ui-serif, Georgia, "Noto Serif", serif; margin: 3rem 0 .4rem;
  padding-top: 1.1rem; border-top: 1px solid var(--rule);
}
h3 { font-size: 1rem; margin: 1.6rem 0 .3rem; }
p { margin: .4rem 0 .8rem; max-width: 46rem; }
a { color: var(--accent); }
.eyebrow {
  color: var(--soft); font-size: .82rem; letter-spacing: .08em; text-transform: uppercase; margin: 0;
}
.lede { font-size: 1.08rem; }
.note { color: var(--soft); }
.note { font-size: .9rem; }
code, .hash { font: .86em/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "Liberation Mono", monospace; }
.hash { overflow-wrap: anywhere; color: var(--soft); }
pre { background: var(--faint); border-radius: 8px; padding: .9rem 1rem; overflow-x: auto; margin: .6rem 0; }
.pill {
  display: inline-block; border-radius: 99px; padding: .12rem .7rem; font-size: .82rem;
  font-weight: 600; background: var(--accent-soft); color: var(--accent);
}
.pill.bad { background: var(--alarm-soft); color: var(--alarm); }
.pill.wait { background: var(--warn-soft); color: var(--warn); }
.claimless {
  border: 3px solid var(--alarm); background: var(--alarm-soft); color: var(--alarm);
  border-radius: 12px; padding: 1.1rem 1.3rem; margin: 1.5rem 0;
}
.claimless strong { display: block; font-size: 1.35rem; line-height: 1.25; }
.claimless p { margin: .35rem 0 0; color: var(--ink); }
.cards {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(13.5rem, 1fr)); gap: 1rem;
  margin: 1.6rem 0; padding: 0; list-style: none;
}
.card {
  background: var(--card); border: 1px solid var(--rule); border-radius: 12px;
  padding: 1rem 1.1rem 1.1rem;
}
.card .what { color: var(--soft); font-size: .85rem; margin: 0; }
.card .figure {
  font: 600 1.9rem/1.2 ui-serif, Georgia, "Noto Serif", serif;
  font-variant-numeric: lining-nums tabular-nums; margin: .15rem 0 .1rem;
}
.card .figure small { font-size: .5em; font-weight: 400; color: var(--soft); }
.card .more { color: var(--soft); font-size: .85rem; margin: 0; }
.bar {
  height: 7px; border-radius: 99px; background: var(--faint); border: 1px solid var(--rule);
  overflow: hidden; margin: .45rem 0 .4rem;
}
.bar span { display: block; height: 100%; background: var(--accent); border-radius: 99px; }
.bar.over span { background: var(--alarm); }
.findings { list-style: none; padding: 0; margin: 1rem 0; }
.findings li {
  border-left: 4px solid var(--rule); background: var(--card); padding: .5rem .9rem; margin: .45rem 0;
  border-radius: 0 8px 8px 0; max-width: 54rem;
}
.findings .kind { font-weight: 650; margin-right: .45rem; }
.findings .alarm { border-color: var(--alarm); background: var(--alarm-soft); }
.findings .warning { border-color: var(--warn); background: var(--warn-soft); }
.findings .alarm .kind { color: var(--alarm); }
.findings .warning .kind { color: var(--warn); }
.findings .note { font-size: inherit; }
figure {
  margin: 1rem 0; background: var(--card); border: 1px solid var(--rule); border-radius: 12px;
  padding: 1rem 1.1rem;
}
figcaption { font-size: .95rem; margin-bottom: .5rem; }
figcaption strong { font-weight: 650; }
figcaption span { color: var(--soft); }
.plot { display: block; width: 100%; height: auto; }
"""
    + DRAWING
    + """
.legend {
  list-style: none; display: flex; flex-wrap: wrap; gap: .2rem 1.3rem; padding: 0; margin: .6rem 0 0;
  font-size: .88rem;
}
.legend li { display: flex; align-items: center; gap: .45rem; }
.swatch { width: 28px; height: 12px; flex: none; }
.scroll {
  overflow-x: auto; margin: .8rem 0; border: 1px solid var(--rule); border-radius: 12px;
  background: var(--card);
}
.scroll:focus-visible, summary:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
caption { text-align: left; padding: .7rem .9rem .5rem; color: var(--soft); font-size: .88rem; }
th, td { text-align: left; vertical-align: top; padding: .5rem .9rem; border-top: 1px solid var(--rule); }
thead th { border-top: 0; color: var(--soft); font-weight: 600; font-size: .84rem; }
caption + thead th { border-top: 1px solid var(--rule); }
tbody th { font-weight: 600; white-space: nowrap; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.strong { font-weight: 650; }
.wide { min-width: 20rem; }
.bad { color: var(--alarm); }
dl {
  display: grid; grid-template-columns: minmax(9rem, max-content) 1fr; gap: .3rem 1.4rem;
  margin: .8rem 0; font-size: .94rem;
}
dt { color: var(--soft); }
dd { margin: 0; min-width: 0; }
.columns {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: 0 2.5rem;
}
ul.plain { padding-left: 1.1rem; margin: .3rem 0; }
ul.plain li { margin: .3rem 0; }
details { margin: .7rem 0; }
summary { cursor: pointer; color: var(--accent); font-size: .92rem; width: fit-content; border-radius: 4px; }
footer {
  margin-top: 3.5rem; padding-top: 1rem; border-top: 1px solid var(--rule); color: var(--soft);
  font-size: .88rem;
}
@media (max-width: 36rem) {
  .page { padding: 1.4rem 1rem 3rem; }
  h1 { font-size: 1.7rem; }
  .cards { grid-template-columns: 1fr 1fr; gap: .7rem; }
  .card { padding: .8rem .85rem; }
  .card .figure { font-size: 1.45rem; }
  figure { padding: .8rem .7rem; }
  .tick { font-size: 18px; }
  dl { grid-template-columns: 1fr; gap: 0; }
  dd { margin-bottom: .6rem; }
  th, td { padding: .45rem .65rem; }
  .stack, .stack caption, .stack tbody, .stack tr, .stack th, .stack td {
    display: block; width: auto; min-width: 0;
  }
  .stack thead { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
  .stack td.number { text-align: left; }
  .stack tr { border-top: 1px solid var(--rule); padding: .5rem .3rem; }
  .stack tbody th, .stack td { border: 0; padding: .12rem .6rem; white-space: normal; text-align: left; }
  .stack td { display: grid; grid-template-columns: 7.2rem 1fr; gap: .6rem; }
  .stack td::before { content: attr(data-label); color: var(--soft); font-size: .84rem; font-weight: 400; }
}
@media print {
  :root {
    color-scheme: light;
    --paper: #fff; --card: #fff; --ink: #000; --soft: #444; --rule: #bbb; --faint: #f4f4f4;
    --accent: #0b5e5a; --accent-soft: #eef5f4; --alarm: #8e1b15; --alarm-soft: #fff; --warn: #6b4600;
    --warn-soft: #fff;
    --s0: #0b6e69; --s1: #b4540a; --s2: #3f5fb5; --s3: #9a3b7f; --s4: #5d7a12; --s5: #8a6d00;
    --s6: #1f7fae; --s7: #6b6b6b;
  }
  body { font-size: 10.5pt; }
  .page { max-width: none; padding: 0; }
  .card, .plot, tr, .findings li, .claimless { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
  .scroll { overflow: visible; }
  details::details-content { content-visibility: visible; }
  pre { white-space: pre-wrap; }
}
"""
)
