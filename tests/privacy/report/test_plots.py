"""The drawing's arithmetic, markup by construction, and how numbers are written."""

from __future__ import annotations

import re

import pytest

from privacy.report.figures import (
    accuracy_text,
    bytes_text,
    delta_text,
    duration_text,
    epsilon_text,
    moment_text,
    scale_text,
    sentence,
)
from privacy.report.markup import element, join, text
from privacy.report.plots import Level, Line, Plot, group_equal, legend, nice_ticks, svg


def plot(*lines: Line, top: float = 8.8, last: int = 4) -> Plot:
    return Plot(
        key="p",
        title="A plot",
        description="of lines",
        x_label="round",
        lines=lines,
        levels=(Level("budget 8", 8.0, "budget"),),
        planned=((0.0, 0.0), (4.0, 7.0)),
        x_last=last,
        top=top,
        tick_text=lambda value: f"{value:g}",
        value_text=lambda value: f"{value:g}",
    )


def test_sites_with_the_same_points_share_a_line_that_names_them() -> None:
    points = ((0.0, 0.0), (1.0, 2.0))
    grouped = group_equal([Line("alpha", points), Line("beta", ((0.0, 0.0),)), Line("gamma", points)])
    assert [(line.label, line.points) for line in grouped] == [("alpha, gamma", points), ("beta", ((0.0, 0.0),))]


def test_points_lie_where_their_values_say() -> None:
    drawing = svg(plot(Line("alpha", ((0.0, 0.0), (2.0, 4.4), (4.0, 8.8)))))
    path = re.search(r'<path class="stroke s0" d="M([^"]+)"', drawing)
    assert path is not None
    xs, ys = zip(*(tuple(map(float, pair.split())) for pair in path.group(1).split("L")), strict=True)
    assert xs[1] - xs[0] == pytest.approx(xs[2] - xs[1])
    assert ys[0] - ys[1] == pytest.approx(ys[1] - ys[2])
    assert ys[0] > ys[2]
    assert "alpha, round 2: 4.4" in drawing


def test_values_above_the_top_stay_inside_the_drawing() -> None:
    drawing = svg(plot(Line("alpha", ((0.0, 0.0), (1.0, 99.0)))))
    assert all(float(y) >= 18 for y in re.findall(r'cy="([^"]+)"', drawing))


def test_lines_differ_by_more_than_colour() -> None:
    lines = [Line(f"site-{index}", ((0.0, float(index)),)) for index in range(4)]
    drawing = svg(plot(*lines))
    assert drawing.count("<circle") == 1
    assert len(set(re.findall(r'<path d="(M[^"]+Z)"', drawing))) == 3
    assert all(line.label in legend(plot(*lines)) for line in lines)


def test_many_rounds_are_drawn_with_fewer_marks_and_always_the_last() -> None:
    points = tuple((float(index), index / 100) for index in range(301))
    drawing = svg(plot(Line("alpha", points), last=300))
    assert 20 < drawing.count("<circle") < 40
    assert "round 300: 3" in drawing


@pytest.mark.parametrize(
    ("top", "ticks"),
    [
        (8.8, (0, 2, 4, 6, 8)),
        (1.0, (0, 0.2, 0.4, 0.6, 0.8, 1.0)),
        (0.003, (0, 0.001, 0.002, 0.003)),
        (0.0, (0,)),
        (float("nan"), (0,)),
    ],
)
def test_ticks_are_round_numbers(top: float, ticks: tuple[float, ...]) -> None:
    assert nice_ticks(top) == pytest.approx(ticks)


def test_an_empty_line_and_a_run_without_rounds_can_be_drawn() -> None:
    assert "<svg" in svg(plot(Line("alpha", ()), last=0))


def test_markup_escapes_text_and_attributes_and_keeps_markup() -> None:
    made = element("p", "a < b & 'c'", element("b", "d"), None, ["e", element("i", "f")], title='"x"', data_x=1.5)
    assert made == '<p title="&quot;x&quot;" data-x="1.5">a &lt; b &amp; &#x27;c&#x27;<b>d</b>e<i>f</i></p>'
    assert join("<", text("<")) == "&lt;&lt;"
    assert element("path", d="M0 0") == '<path d="M0 0"/>'


@pytest.mark.parametrize("unseen", ["\x00", "\x1b", "\u200b", "\u202e", "\u2066", "\ufeff", "\x85"])
def test_what_cannot_be_seen_is_shown(unseen: str) -> None:
    assert text(f"a{unseen}b") == "a\ufffdb"


def test_lines_and_tabs_stay() -> None:
    assert text("a\n\tb") == "a\n\tb"


@pytest.mark.parametrize("name", ["p onclick=x", "", "p>", "1p"])
def test_an_elements_name_is_a_name(name: str) -> None:
    with pytest.raises(ValueError, match="not an element's name"):
        element(name)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (7.9991, "8.000"),
        (7.999, "7.999"),
        (1 + 1e-12, "1.001"),
        (1.00001, "1.001"),
        (0.0, "0.000"),
        (None, "none claimed"),
    ],
)
def test_bounds_are_rounded_up(value: float | None, told: str) -> None:
    assert epsilon_text(value) == told


@pytest.mark.parametrize(("value", "told"), [(0.8999, "90.0 %"), (0.9, "90.0 %"), (0.8994, "89.9 %"), (1.0, "100.0 %")])
def test_accuracies_are_rounded_to_nearest(value: float, told: str) -> None:
    assert accuracy_text(value) == told


@pytest.mark.parametrize(
    ("size", "told"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (609_321, "609 kB"), (999_600, "1 MB"), (5**17, "763 GB")],
)
def test_sizes(size: int, told: str) -> None:
    assert bytes_text(size) == told


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (205.5, "3 min 26 s"), (7261, "2 h 01 min")],
)
def test_durations(seconds: float, told: str) -> None:
    assert duration_text(seconds) == told


def test_powers_moments_and_sentences() -> None:
    assert (delta_text(1e-5), delta_text(3e-6), scale_text(2.0**32), scale_text(3.0)) == ("10⁻⁵", "3e-06", "2³²", "3")
    assert moment_text("2026-03-05T09:30:01.123+00:00") == moment_text("2026-03-05T09:30:01Z") == "2026-03-05 09:30 UTC"
    assert moment_text("soon") == "soon"
    assert (sentence("why"), sentence("why."), sentence("")) == ("why.", "why.", "")
