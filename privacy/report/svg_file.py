"""A plot as a file of its own: the report's drawing with its heading, its key and its colours inside.

Colours are written out, because few programs but browsers know a style sheet's variables.
"""

from __future__ import annotations

import re

from privacy.report.markup import Html, element, join, verbatim
from privacy.report.plots import HEIGHT, WIDTH, Plot, drawing, keys
from privacy.report.style import DRAWING, PALETTE

_HEAD_HEIGHT = 46.0
_KEY_HEIGHT = 18.0
_MARGIN = 16.0
_LAYOUT = """
text { font-family: system-ui, -apple-system, "Segoe UI", "Noto Sans", "Helvetica Neue", Arial, sans-serif; }
.paper { fill: var(--card); }
.head { fill: var(--ink); font-size: 14px; font-weight: 650; }
.told { fill: var(--soft); font-size: 11px; }
.key { fill: var(--ink); font-size: 11px; }
"""
_COLOUR = re.compile(r"--([a-z0-9-]+): (#[0-9a-f]+)")
_VARIABLE = re.compile(r"var\(--([a-z0-9-]+)\)")


def svg_file(plot: Plot, told: str) -> str:
    """Return the text of an SVG file. The same plot gives the same text.

    Args:
        plot: what to draw.
        told: one line under the heading.
    """
    samples = keys(plot)
    height = _HEAD_HEIGHT + HEIGHT + _KEY_HEIGHT * len(samples) + _MARGIN
    legend = [
        element(
            "g",
            sample,
            element("text", label, x=36.0, y=10.0, class_="key"),
            transform=f"translate({_MARGIN:g} {_HEAD_HEIGHT + HEIGHT + 6 + _KEY_HEIGHT * row:g})",
        )
        for row, (label, sample) in enumerate(samples)
    ]
    return (
        element(
            "svg",
            element("style", _style()),
            element("rect", width=WIDTH, height=height, class_="paper"),
            element("text", plot.title, x=_MARGIN, y=22.0, class_="head"),
            element("text", told, x=_MARGIN, y=38.0, class_="told"),
            element("g", drawing(plot), transform=f"translate(0 {_HEAD_HEIGHT:g})"),
            legend,
            xmlns="http://www.w3.org/2000/svg",
            width=WIDTH,
            height=height,
            viewBox=f"0 0 {WIDTH:g} {height:g}",
            role="img",
            aria_labelledby=f"{plot.key}-title {plot.key}-desc",
        )
        + "\n"
    )


def _style() -> Html:
    light, dark = PALETTE.split("@media", 1)
    return join(
        verbatim(_coloured(_LAYOUT + DRAWING, light)),
        verbatim("@media (prefers-color-scheme: dark) {" + _coloured(_LAYOUT + DRAWING, dark) + "}\n"),
    )


def _coloured(rules: str, palette: str) -> str:
    colours = dict(_COLOUR.findall(palette))
    return _VARIABLE.sub(lambda found: colours[found.group(1)], rules)
