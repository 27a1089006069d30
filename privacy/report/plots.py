"""Line plots as inline SVG: no script, colours from the page's style sheet, and never by colour alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from privacy.report.markup import Html, element, join

#: of a drawing, in its own units
WIDTH, HEIGHT = 640.0, 280.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 60.0, 14.0, 18.0, 42.0
#: marks tell lines apart where colours cannot
_MARKS = ("circle", "square", "diamond", "triangle")


@dataclass(frozen=True)
class Line:
    """One line: ``points`` are (round, value), in order. Sites with the same points share one line."""

    label: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Level:
    """A horizontal line to compare with."""

    label: str
    value: float
    #: class in the style sheet: ``budget`` or ``chance``
    style: str


@dataclass(frozen=True)
class Plot:
    """What to draw. ``top`` is the value at the upper edge; ``value_text`` writes a value for a tool tip."""

    key: str
    title: str
    description: str
    x_label: str
    lines: tuple[Line, ...]
    levels: tuple[Level, ...]
    planned: tuple[tuple[float, float], ...]
    x_last: int
    top: float
    tick_text: Callable[[float], str]
    value_text: Callable[[float], str]


def group_equal(lines: Sequence[Line], between: str = ", ") -> tuple[Line, ...]:
    """Join lines with equal points into one that names them all: lines over each other would hide sites."""
    grouped: dict[tuple[tuple[float, float], ...], list[str]] = {}
    for line in lines:
        grouped.setdefault(line.points, []).append(line.label)
    return tuple(Line(between.join(labels), points) for points, labels in grouped.items())


def nice_ticks(top: float, about: int = 5) -> tuple[float, ...]:
    """Round values from 0 to at most ``top``, roughly ``about`` of them."""
    if not math.isfinite(top) or top <= 0:
        return (0.0,)
    raw = top / about
    power = 10.0 ** math.floor(math.log10(raw))
    width = next(power * factor for factor in (1.0, 2.0, 5.0, 10.0) if power * factor >= raw * 0.999)
    return tuple(round(width * index, 10) for index in range(math.floor(top / width + 1e-9) + 1))


def svg(plot: Plot) -> Html:
    """Draw ``plot`` for a page, whose style sheet colours it."""
    return element(
        "svg",
        drawing(plot),
        viewBox=f"0 0 {WIDTH:g} {HEIGHT:g}",
        role="img",
        aria_labelledby=f"{plot.key}-title {plot.key}-desc",
        class_="plot",
    )


def drawing(plot: Plot) -> Html:
    """What is inside the drawing of ``plot``, ``WIDTH`` times ``HEIGHT``."""

    def x(value: float) -> float:
        return round(_LEFT + (WIDTH - _LEFT - _RIGHT) * value / max(plot.x_last, 1), 2)

    def y(value: float) -> float:
        return round(_TOP + (HEIGHT - _TOP - _BOTTOM) * (1 - min(value, plot.top) / plot.top), 2)

    return join(
        element("title", plot.title, id=f"{plot.key}-title"),
        element("desc", plot.description, id=f"{plot.key}-desc"),
        _grid(plot, x, y),
        [_level(level, y) for level in plot.levels],
        element("path", class_="planned", d=_path(plot.planned, x, y)) if plot.planned else None,
        [_line(index, line, plot, x, y) for index, line in enumerate(plot.lines)],
    )


def legend(plot: Plot) -> Html:
    """The key to the lines, as a list outside the drawing so that it wraps on a narrow screen."""
    items = [
        element(
            "li",
            element("svg", sample, viewBox="0 0 28 12", aria_hidden="true", class_="swatch"),
            element("span", label),
        )
        for label, sample in keys(plot)
    ]
    return element("ul", items, class_="legend")


def keys(plot: Plot) -> tuple[tuple[str, Html], ...]:
    """The label of each line and level, and a sample of how it is drawn, 28 times 12."""
    found = [(line.label, _sample(f"series s{index % 8}", mark=index)) for index, line in enumerate(plot.lines)]
    if plot.planned:
        found.append(("as planned", _sample("planned")))
    found.extend((level.label, _sample(level.style)) for level in plot.levels)
    return tuple(found)


def _sample(style: str, mark: int | None = None) -> Html:
    return join(
        element("path", d="M1 6H27", class_=style.replace("series", "stroke")),
        _mark(mark, 14.0, 6.0, style) if mark is not None else None,
    )


def _grid(plot: Plot, x: Callable[[float], float], y: Callable[[float], float]) -> Html:
    bottom = y(0)
    parts: list[Html] = []
    for tick in nice_ticks(plot.top):
        parts.append(element("line", x1=_LEFT, x2=WIDTH - _RIGHT, y1=y(tick), y2=y(tick), class_="grid"))
        parts.append(element("text", plot.tick_text(tick), x=_LEFT - 8, y=y(tick) + 4, class_="tick end"))
    rounds = [tick for tick in nice_ticks(plot.x_last, 8) if tick == int(tick)]
    for tick in rounds:
        parts.append(element("line", x1=x(tick), x2=x(tick), y1=bottom, y2=bottom + 5, class_="axis"))
        parts.append(element("text", f"{tick:g}", x=x(tick), y=bottom + 18, class_="tick middle"))
    parts.append(element("line", x1=_LEFT, x2=WIDTH - _RIGHT, y1=bottom, y2=bottom, class_="axis"))
    middle = (_LEFT + WIDTH - _RIGHT) / 2
    parts.append(element("text", plot.x_label, x=middle, y=HEIGHT - 4, class_="tick middle"))
    return element("g", parts)


def _level(level: Level, y: Callable[[float], float]) -> Html:
    height = y(level.value)
    return element(
        "g",
        element("line", x1=_LEFT, x2=WIDTH - _RIGHT, y1=height, y2=height, class_=level.style),
        element("text", level.label, x=WIDTH - _RIGHT, y=height - 6, class_=f"tick end {level.style}-text"),
    )


def _line(index: int, line: Line, plot: Plot, x: Callable[[float], float], y: Callable[[float], float]) -> Html:
    style = f"series s{index % 8}"
    marks = []
    thin = max(1, math.ceil(len(line.points) / 30))
    for number, (at, value) in enumerate(line.points):
        if number % thin == 0 or number == len(line.points) - 1:
            told = element("title", f"{line.label}, {plot.x_label} {at:g}: {plot.value_text(value)}")
            marks.append(element("g", told, _mark(index, x(at), y(value), style)))
    path = element("path", class_=f"stroke s{index % 8}", d=_path(line.points, x, y)) if line.points else None
    return element("g", path, marks)


def _mark(index: int, x: float, y: float, style: str) -> Html:
    kind = _MARKS[index % len(_MARKS)]
    if kind == "circle":
        return element("circle", cx=x, cy=y, r="3.6", class_=style)
    outline = {
        "square": "M-3.2 -3.2H3.2V3.2H-3.2Z",
        "diamond": "M0 -4.6L4.6 0L0 4.6L-4.6 0Z",
        "triangle": "M0 -4.4L4.2 3.4H-4.2Z",
    }[kind]
    return element("path", d=outline, transform=f"translate({x:g} {y:g})", class_=style)


def _path(points: Sequence[tuple[float, float]], x: Callable[[float], float], y: Callable[[float], float]) -> str:
    return "M" + "L".join(f"{x(at):g} {y(value):g}" for at, value in points)
