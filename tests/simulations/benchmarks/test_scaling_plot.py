"""The plot is one well-formed file that needs nothing else."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest

from simulations.benchmarks.scaling_plot import Panel, Series, decades, draw, seconds_text

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def drawn() -> str:
    ours = Series("Tacit n = 4", ((1e5, 1e-3), (1e6, 1e-2)), True)
    flower = Series("Flower n = 4", ((1e5, 2e-2), (1e6, 0.2)), False)
    return draw("Cost <& more>", [Panel("One site", "coordinates", (ours, flower))] * 4, "a note")


def test_it_is_well_formed_and_self_contained(drawn: str) -> None:
    root = ElementTree.fromstring(drawn)
    assert root.tag == f"{SVG}svg"
    assert root.find(f"{SVG}style") is not None
    assert "url(" not in drawn
    assert "<script" not in drawn
    assert "href" not in drawn


def test_every_point_is_drawn_and_told(drawn: str) -> None:
    root = ElementTree.fromstring(drawn)
    assert len(root.findall(f".//{SVG}circle")) == 8
    assert len(root.findall(f".//{SVG}rect")) == 8
    assert "Flower n = 4, 1,000,000: 200 ms" in drawn
    assert "Flower n = 4 takes 200 ms at 1,000,000" in root.findtext(f"{SVG}desc", "")


def test_equal_ratios_are_equal_distances(drawn: str) -> None:
    circles = ElementTree.fromstring(drawn).findall(f".//{SVG}circle")[:2]
    rects = ElementTree.fromstring(drawn).findall(f".//{SVG}rect")[:2]
    rise = [float(circle.get("cy")) for circle in circles]
    also = [float(rect.get("y")) for rect in rects]
    assert rise[0] - rise[1] == pytest.approx(also[0] - also[1], abs=0.05)


def test_decades_hold_the_values_between_them() -> None:
    assert decades([0.002, 0.3]) == pytest.approx((1e-3, 1e-2, 1e-1, 1.0))
    assert decades([1.0, 1.0]) == pytest.approx((1.0, 10.0))
    with pytest.raises(ValueError, match="logarithmic"):
        decades([0.0, 1.0])


def test_seconds_in_a_unit_that_suits_them() -> None:
    assert [seconds_text(value) for value in (2.5e-5, 0.25, 3.0)] == ["25 µs", "250 ms", "3 s"]
