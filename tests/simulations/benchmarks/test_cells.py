"""The grid, and results that outlive an interruption."""

from __future__ import annotations

from pathlib import Path

from simulations.benchmarks.cells import Cell, CellFile, Measured, dropped_of, grid

FACTS = {"cpu": "Abacus 9000", "flwr": "1.41.0"}


def measured(cell: Cell) -> Measured:
    return Measured(
        cell, (1.0, 2.0), (0.1, 0.1), (3.0, 4.0), (5.0, 6.0), (0.5, 0.5), (7.0, 8.0), 404, 808, {"lock": 0.5}
    )


def test_a_percentage_drops_at_least_one() -> None:
    assert [dropped_of(4, percent) for percent in (0, 10, 30)] == [0, 1, 1]
    assert [dropped_of(10, percent) for percent in (0, 10, 30)] == [0, 1, 3]
    assert [dropped_of(32, percent) for percent in (0, 10, 30)] == [0, 3, 9]


def test_equal_cells_are_measured_once_and_small_ones_first() -> None:
    cells = grid([10**6, 10**5], [10, 4], [0, 10, 30])
    assert len(cells) == len(set(cells)) == 10
    assert cells[0] == Cell(10**5, 4, 0)
    assert cells[-1] == Cell(10**6, 10, 3)


def test_a_cell_is_there_after_an_interruption(tmp_path: Path) -> None:
    path, first, second = tmp_path / "cells.json", Cell(100, 4, 0), Cell(100, 4, 1)
    CellFile(path, FACTS).keep(measured(first))
    again = CellFile(path, FACTS)
    assert again.get(first) == measured(first)
    assert again.get(second) is None
    again.keep(measured(second))
    assert CellFile(path, FACTS).get(first) == measured(first)


def test_a_fresh_start_forgets(tmp_path: Path) -> None:
    path, cell = tmp_path / "cells.json", Cell(100, 4, 0)
    CellFile(path, FACTS).keep(measured(cell))
    assert CellFile(path, FACTS, fresh=True).get(cell) is None


def test_numbers_of_another_machine_are_not_mixed_in(tmp_path: Path) -> None:
    path, cell = tmp_path / "cells.json", Cell(100, 4, 0)
    CellFile(path, FACTS).keep(measured(cell))
    other = CellFile(path, FACTS | {"cpu": "Abacus 9001"})
    assert other.get(cell) is None
    assert "another cpu" in other.refused
