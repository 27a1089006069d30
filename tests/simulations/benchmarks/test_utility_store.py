"""What the utility benchmark keeps of its cells, in files and in lines."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from simulations.benchmarks.utility_cells import Cell, Outcome
from simulations.benchmarks.utility_store import CellStore, read_lines
from tacit.errors import InputError

HEAD = Cell("banking77", 4, "joint", "head", 3.0, 0)
RECIPE: dict[str, object] = {"steps": 1}
FACTS = {"torch": "1"}


def outcome(cell: Cell = HEAD, accuracy: float = 88.0) -> Outcome:
    return Outcome(cell, accuracy, cell.epsilon, 1.0, 100, 50, 7, {"steps": 1}, 2.0)


def test_a_cell_counts_only_under_the_facts_and_recipe_it_was_run_with(tmp_path: Path) -> None:
    CellStore(tmp_path, FACTS).keep(outcome())
    assert CellStore(tmp_path, FACTS).get(HEAD, RECIPE) == outcome()
    assert CellStore(tmp_path, {"torch": "2"}).get(HEAD, RECIPE) is None
    assert CellStore(tmp_path, FACTS).get(HEAD, {"steps": 2}) is None
    assert CellStore(tmp_path, FACTS, fresh=True).get(HEAD, RECIPE) is None
    assert CellStore(tmp_path, FACTS).get(replace(HEAD, seed=1), RECIPE) is None


def test_lines_are_read_as_they_were_written(tmp_path: Path) -> None:
    written = [outcome(), outcome(replace(HEAD, seed=1, epsilon=None, mode="plain"), 91.25)]
    CellStore(tmp_path, FACTS).write_lines(written, tmp_path / "all.jsonl")
    assert len((tmp_path / "all.jsonl").read_text().splitlines()) == 2
    assert read_lines(tmp_path / "all.jsonl") == [(one, FACTS) for one in written]


def test_a_known_cell_counts_under_the_same_rule_and_the_folder_goes_first(tmp_path: Path) -> None:
    known = [(outcome(), FACTS)]
    store = CellStore(tmp_path, FACTS, known=known)
    assert store.get(HEAD, RECIPE) == outcome()
    assert store.get(HEAD, {"steps": 2}) is None
    assert store.get(replace(HEAD, seed=1), RECIPE) is None
    assert CellStore(tmp_path, {"torch": "2"}, known=known).get(HEAD, RECIPE) is None
    assert CellStore(tmp_path, FACTS, known=known, fresh=True).get(HEAD, RECIPE) is None

    store.keep(outcome(accuracy=90.0))
    assert store.get(HEAD, RECIPE) == outcome(accuracy=90.0)
    # a file of another recipe is no reason to forget what is known of this one
    store.keep(replace(outcome(accuracy=70.0), recipe={"steps": 9}))
    assert store.get(HEAD, RECIPE) == outcome()


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("no json\n", "line 1: Expecting value"),
        ("[1]\n", "line 1: .*expected what a cell gave"),
        ('{"cell": {}}\n', "line 1: 'facts'"),
        ('{"facts": {}, "cell": {"data": "banking77"}}\n', "line 1: .*missing"),
    ],
)
def test_a_line_that_is_no_outcome_is_refused(tmp_path: Path, content: str, complaint: str) -> None:
    (tmp_path / "bad.jsonl").write_text(content)
    with pytest.raises(InputError, match=complaint):
        read_lines(tmp_path / "bad.jsonl")


def test_a_file_that_is_not_there_and_a_cell_that_is_there_twice_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_lines(tmp_path / "none.jsonl")
    CellStore(tmp_path, FACTS).write_lines([outcome(), outcome()], tmp_path / "twice.jsonl")
    with pytest.raises(InputError, match=r"line 2: banking77-4-sites-joint-head-eps3-seed0 is there twice"):
        read_lines(tmp_path / "twice.jsonl")
    line = json.loads((tmp_path / "twice.jsonl").read_text().splitlines()[0])
    assert line["facts"] == FACTS
