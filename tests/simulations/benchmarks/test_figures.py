"""Figures: their form on disk, their verdicts, and medians that one slow run does not move."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from simulations.benchmarks import figures
from simulations.benchmarks.figures import Figure, at_least, at_most, below


def test_the_file_is_a_list_of_figures_with_exactly_five_fields(tmp_path: Path) -> None:
    path = figures.publish("test", [at_least("speed", 20.0, "x", 15), Figure("size", 3.5, "MiB")], tmp_path)
    assert path == tmp_path / "bench-test.json"
    assert json.loads(path.read_text()) == [
        {"figure": "speed", "value": 20.0, "unit": "x", "target": ">= 15", "holds": True},
        {"figure": "size", "value": 3.5, "unit": "MiB", "target": None, "holds": None},
    ]


@pytest.mark.parametrize(
    ("figure", "target", "holds"),
    [
        (at_least("f", 15.0, "x", 15), ">= 15", True),
        (at_least("f", 14.9, "x", 15), ">= 15", False),
        (at_most("f", 4.04, "B", 4.04), "<= 4.04", True),
        (at_most("f", 4.05, "B", 4.04), "<= 4.04", False),
        (below("f", 59.9, "ms", 60), "< 60", True),
        (below("f", 60.0, "ms", 60), "< 60", False),
    ],
)
def test_a_target_and_whether_it_holds(figure: Figure, target: str, holds: bool) -> None:
    assert (figure.target, figure.holds) == (target, holds)


def test_a_missed_target_is_printed_as_such_and_is_no_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures.publish("test", [at_least("speed", 3.0, "x", 15), at_most("size", 1.0, "B", 2)], tmp_path)
    printed = capsys.readouterr().out
    assert "MISSED" in printed
    assert "1 targets missed" in printed
    assert "flwr 1.41" in printed


def test_pairs_are_measured_in_turn() -> None:
    calls: list[str] = []
    pairs = list(figures.interleaved(lambda: calls.append("A"), lambda: calls.append("B"), 3))
    assert calls == ["A", "B"] * 3
    assert len(pairs) == 3


def test_a_ratio_is_taken_within_pairs_so_a_slow_moment_cancels() -> None:
    # in the second pair the machine was ten times slower, and the third is an outlier of one side
    assert figures.median_ratio([20.0, 200.0, 20.0], [2.0, 20.0, 40.0]) == 10.0


def test_a_ratio_needs_pairs() -> None:
    with pytest.raises(ValueError, match="no pairs"):
        figures.median_ratio([], [])
    with pytest.raises(ValueError, match="zip"):
        figures.median_ratio([1.0], [1.0, 2.0])


def test_the_machine_is_named(tmp_path: Path) -> None:
    facts = figures.machine_facts()
    assert set(facts) == {"cpu", "cores", "python", "numpy", "openssl", "cryptography", "flwr"}
    assert all(facts.values())
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nmodel name\t: Abacus 9000: Turbo\n")
    assert figures.cpu_model(cpuinfo) == "Abacus 9000: Turbo"
    assert figures.cpu_model(tmp_path / "absent")
