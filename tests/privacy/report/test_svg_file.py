"""A plot as a file: it is XML, needs no style sheet of a page, and says what the page's legend says."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from privacy.report.plots import Level, Line, Plot, keys, legend, svg
from privacy.report.svg_file import svg_file

SVG = "{http://www.w3.org/2000/svg}"
PLOT = Plot(
    key="p",
    title="A plot of <things> & more",
    description="of lines",
    x_label="round",
    lines=(Line("alpha & beta", ((0.0, 0.0), (2.0, 4.0))), Line("gamma", ((0.0, 0.0), (2.0, 1.0)))),
    levels=(Level("budget 8", 8.0, "budget"),),
    planned=(),
    x_last=2,
    top=8.8,
    tick_text=lambda value: f"{value:g}",
    value_text=lambda value: f"{value:g}",
)


def test_it_is_xml_with_a_size_a_heading_and_a_key_for_every_line() -> None:
    root = ElementTree.fromstring(svg_file(PLOT, "told <below>"))
    assert root.tag == f"{SVG}svg"
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    assert root.attrib["viewBox"] == f"0 0 {width:g} {height:g}"
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert texts[:2] == ["A plot of <things> & more", "told <below>"]
    assert texts[-3:] == ["alpha & beta", "gamma", "budget 8"]
    assert root.find(f".//{SVG}desc").text == "of lines"  # type: ignore[union-attr]
    rows = [group.attrib["transform"] for group in root if group.tag == f"{SVG}g"][1:]
    assert all(float(re.findall(r"[\d.]+", row)[1]) + 12 <= height for row in rows)
    assert len(rows) == len(keys(PLOT)) == 3


def test_every_colour_is_written_out_for_light_and_for_dark() -> None:
    text = svg_file(PLOT, "told")
    assert "var(" not in text
    light, dark = text.split("@media (prefers-color-scheme: dark)")
    for rules, line, paper in ((light, "#0b6e69", "#ffffff"), (dark, "#5cc4bb", "#1c2123")):
        assert f".stroke.s0 {{ stroke: {line}; }}" in rules
        assert f".paper {{ fill: {paper}; }}" in rules


def test_every_class_of_the_drawing_has_a_rule_in_the_file() -> None:
    text = svg_file(PLOT, "told")
    used = {name for names in re.findall(r'class="([^"]+)"', text) for name in names.split()}
    assert {"grid", "axis", "tick", "stroke", "series", "budget", "key", "head"} <= used
    assert not {name for name in used - {"s0", "s1", "end", "middle"} if f".{name}" not in text.split("</style>")[0]}


def test_the_page_draws_the_same() -> None:
    file = svg_file(PLOT, "told")
    for part in ("stroke s0", "stroke s1"):
        path = re.search(rf'<path class="{part}" d="[^"]+"/>', svg(PLOT))
        assert path is not None
        assert path.group() in file
    for _, sample in keys(PLOT):
        assert sample in legend(PLOT)
        assert sample in file
