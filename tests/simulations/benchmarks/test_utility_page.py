"""docs/utility.md against docs/utility.jsonl: no number in its tables that the program did not print."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from simulations.benchmarks.frozen_head import Encoder
from simulations.benchmarks.utility_cells import full_grid
from simulations.benchmarks.utility_figures import figures, promises_table, table
from simulations.benchmarks.utility_store import read_lines
from simulations.benchmarks.utility_training import Laboratory

DOCS = Path(__file__).parents[3] / "docs"


def rows(text: str) -> list[str]:
    """Lines of the tables of results and of promises."""
    return [line for line in text.splitlines() if line.startswith(("| banking77", "| clinc150"))]


def test_the_page_has_each_row_of_the_results_once_and_no_other() -> None:
    done = [outcome for outcome, _ in read_lines(DOCS / "utility.jsonl")]
    printed = rows(table(full_grid(), done)) + rows(promises_table(figures(done)))
    written = rows((DOCS / "utility.md").read_text(encoding="utf-8"))
    assert Counter(written) == Counter(printed)


def test_what_the_page_says_of_seeds_and_seconds_is_what_the_results_give() -> None:
    done = [outcome for outcome, _ in read_lines(DOCS / "utility.jsonl")]
    page = " ".join((DOCS / "utility.md").read_text(encoding="utf-8").split())

    def holding(seeds: range) -> int:
        found = figures([outcome for outcome in done if outcome.cell.seed in seeds])
        return sum(one.holds is True for one in found if one.target is not None)

    promised = sum(one.target is not None for one in figures(done))
    assert f"{holding(range(9))} of the {promised} hold." in page
    assert f"over seeds 0 to 2, as planned at first, {holding(range(3))} hold" in page
    assert f"Seeds 3 to 8 by themselves, which nothing was chosen on, give {holding(range(3, 9))} too" in page
    short = [outcome.seconds for outcome in done if outcome.cell.trains in ("head", "probe")]
    assert f"the {len(short)} cells of heads and probes took {sum(short):,.0f} s in all" in page


def test_the_results_are_of_one_set_of_facts_in_the_order_of_the_plan() -> None:
    lines = read_lines(DOCS / "utility.jsonl")
    assert len({tuple(sorted(facts.items())) for _, facts in lines}) == 1
    place = {cell: number for number, cell in enumerate(full_grid())}
    places = [place[outcome.cell] for outcome, _ in lines]
    assert places == sorted(places)


def test_the_results_were_measured_with_the_recipes_as_they_are(tiny_model: Path, tmp_path: Path) -> None:
    """A recipe that changed leaves the page's numbers behind: run those cells again."""
    laboratory = Laboratory(tmp_path, Encoder(str(tiny_model), tmp_path, 16))
    stale = [
        outcome.cell.key
        for outcome, _ in read_lines(DOCS / "utility.jsonl")
        if outcome.recipe != laboratory.described(outcome.cell)
    ]
    assert stale == []


def test_no_private_cell_spent_more_than_its_row_says() -> None:
    for outcome, _ in read_lines(DOCS / "utility.jsonl"):
        assert (outcome.epsilon is None) == (outcome.cell.epsilon is None)
        if outcome.epsilon is not None and outcome.cell.epsilon is not None:
            assert 0.998 * outcome.cell.epsilon <= outcome.epsilon <= outcome.cell.epsilon
