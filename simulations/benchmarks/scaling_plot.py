"""Log-log plots of cost as one SVG file that needs nothing else: no script, no font, no style sheet.

Ours is drawn solid with filled marks, Flower's dashed with open ones, so the two are told apart without colour.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from privacy.report.markup import Html, element, verbatim

_PANEL_WIDTH, _PANEL_HEIGHT = 460.0, 320.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 62.0, 96.0, 34.0, 44.0
_HEAD = 46.0

_STYLE = """
svg{background:#fff;font:12px system-ui,sans-serif}
text{fill:#222}.faint{fill:#666}.title{font-weight:600;font-size:13px}.head{font-weight:600;font-size:15px}
.grid{stroke:#e2e2e2}.axis{stroke:#888}
.ours{stroke:#0b6e4f;fill:none;stroke-width:2}.flower{stroke:#b4540a;fill:none;stroke-width:1.6;stroke-dasharray:5 4}
.mark-ours{fill:#0b6e4f;stroke:#0b6e4f}.mark-flower{fill:#fff;stroke:#b4540a;stroke-width:1.6}
.label-ours{fill:#0b6e4f}.label-flower{fill:#b4540a}
@media(prefers-color-scheme:dark){svg{background:#16181b}text{fill:#e8e8e8}.faint{fill:#aaa}.grid{stroke:#33373c}
.ours{stroke:#4cc79a}.mark-ours{fill:#4cc79a;stroke:#4cc79a}.label-ours{fill:#4cc79a}
.flower{stroke:#f0994d}.mark-flower{fill:#16181b;stroke:#f0994d}.label-flower{fill:#f0994d}}
"""


@dataclass(frozen=True, slots=True)
class Series:
    """One line. ``points`` are (x, seconds), all above zero."""

    label: str
    points: tuple[tuple[float, float], ...]
    is_ours: bool


@dataclass(frozen=True, slots=True)
class Panel:
    """One plot."""

    title: str
    x_label: str
    series: tuple[Series, ...]


def draw(title: str, panels: Sequence[Panel], note: str) -> str:
    """Return an SVG document with ``panels`` two to a row, and ``note`` under the title."""
    rows = math.ceil(len(panels) / 2)
    width, height = 2 * _PANEL_WIDTH, _HEAD + rows * _PANEL_HEIGHT
    drawn = []
    for index, panel in enumerate(panels):
        across, down = (index % 2) * _PANEL_WIDTH, _HEAD + (index // 2) * _PANEL_HEIGHT
        drawn.append(element("g", _panel(panel), transform=f"translate({across:g} {down:g})"))
    return element(
        "svg",
        element("title", title, id="title"),
        element("desc", _told(panels), id="desc"),
        element("style", verbatim(_STYLE)),
        element("text", title, x=_LEFT / 2, y=20.0, class_="head"),
        element("text", note, x=_LEFT / 2, y=38.0, class_="faint"),
        drawn,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {width:g} {height:g}",
        width=width,
        height=height,
        role="img",
        aria_labelledby="title desc",
    )


def decades(values: Sequence[float]) -> tuple[float, ...]:
    """Return the powers of ten from just below the smallest value to just above the largest; at least two.

    Raises:
        ValueError: a value is not above zero: it has no place on a logarithmic axis.
    """
    if min(values) <= 0:
        raise ValueError(f"{min(values)} has no place on a logarithmic axis")
    first = math.floor(math.log10(min(values)) + 1e-9)
    last = max(first + 1, math.ceil(math.log10(max(values)) - 1e-9))
    return tuple(10.0**power for power in range(first, last + 1))


def seconds_text(seconds: float) -> str:
    """Write seconds in a unit that suits their size."""
    if seconds < 1e-3:
        return f"{seconds * 1e6:.3g} µs"
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def _panel(panel: Panel) -> Html:
    xs = [at for series in panel.series for at, _ in series.points]
    ys = [seconds for series in panel.series for _, seconds in series.points]
    low, high = min(xs) / 1.15, max(xs) * 1.15
    levels = decades(ys)

    def x(value: float) -> float:
        share = math.log(value / low) / math.log(high / low)
        return round(_LEFT + (_PANEL_WIDTH - _LEFT - _RIGHT) * share, 2)

    def y(value: float) -> float:
        share = math.log(value / levels[0]) / math.log(levels[-1] / levels[0])
        return round(_PANEL_HEIGHT - _BOTTOM - (_PANEL_HEIGHT - _TOP - _BOTTOM) * share, 2)

    return element(
        "g",
        element("text", panel.title, x=_LEFT, y=_TOP - 14, class_="title"),
        _axes(panel, sorted(set(xs)), levels, x, y),
        [_line(series, x, y) for series in panel.series],
        _labels(panel, x, y),
    )


def _axes(
    panel: Panel,
    xs: Sequence[float],
    levels: Sequence[float],
    x: Callable[[float], float],
    y: Callable[[float], float],
) -> Html:
    right, bottom = _PANEL_WIDTH - _RIGHT, _PANEL_HEIGHT - _BOTTOM
    parts = []
    for level in levels:
        parts.append(element("line", x1=_LEFT, x2=right, y1=y(level), y2=y(level), class_="grid"))
        text = seconds_text(level)
        parts.append(element("text", text, x=_LEFT - 8, y=y(level) + 4, text_anchor="end", class_="faint"))
    for value in xs:
        parts.append(element("line", x1=x(value), x2=x(value), y1=bottom, y2=bottom + 5, class_="axis"))
        text = f"{value:,.0f}"
        parts.append(element("text", text, x=x(value), y=bottom + 18, text_anchor="middle", class_="faint"))
    parts.append(element("line", x1=_LEFT, x2=right, y1=bottom, y2=bottom, class_="axis"))
    middle = (_LEFT + right) / 2
    parts.append(element("text", panel.x_label, x=middle, y=_PANEL_HEIGHT - 8, text_anchor="middle", class_="faint"))
    return element("g", parts)


def _line(series: Series, x: Callable[[float], float], y: Callable[[float], float]) -> Html:
    style = _style(series)
    path = "M" + "L".join(f"{x(at):g} {y(seconds):g}" for at, seconds in series.points)
    marks = []
    for at, seconds in series.points:
        told = element("title", f"{series.label}, {at:,.0f}: {seconds_text(seconds)}")
        marks.append(element("g", told, _mark(x(at), y(seconds), style)))
    return element("g", element("path", d=path, class_=style), marks)


def _mark(x: float, y: float, style: str) -> Html:
    if style == "ours":
        return element("circle", cx=x, cy=y, r="3.4", class_="mark-ours")
    return element("rect", x=x - 3.2, y=y - 3.2, width="6.4", height="6.4", class_="mark-flower")


def _labels(panel: Panel, x: Callable[[float], float], y: Callable[[float], float]) -> Html:
    """Name each line at its right end, moved down where names would lie over each other."""
    parts, lowest = [], -math.inf
    for series in sorted(panel.series, key=lambda one: y(one.points[-1][1])):
        at, seconds = series.points[-1]
        lowest = max(y(seconds) + 4, lowest + 13)
        parts.append(element("text", series.label, x=x(at) + 9, y=lowest, class_=f"label-{_style(series)}"))
    return element("g", parts)


def _style(series: Series) -> str:
    return "ours" if series.is_ours else "flower"


def _told(panels: Sequence[Panel]) -> str:
    """What the plots show, for whoever cannot see them."""
    lines = []
    for panel in panels:
        for series in panel.series:
            at, seconds = series.points[-1]
            lines.append(f"{panel.title}: {series.label} takes {seconds_text(seconds)} at {at:,.0f}")
    return "; ".join(lines) + "."
