"""The utility benchmark: from the command line to its table, on a tiny model and tiny data."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from models.layout import Vector
from privacy.accounting import epsilon as epsilon_of
from privacy.events import Adjacency, PrivacyMode, PrivacyUnit, SubsampledGaussian
from privacy.noise_shares import ShareGrid
from simulations.benchmarks import utility, utility_training
from simulations.benchmarks.frozen_head import Encoder
from simulations.benchmarks.utility_cells import Cell, CellFolder, Outcome, full_grid, quick_grid
from simulations.benchmarks.utility_figures import figures, label_of, table
from simulations.benchmarks.utility_recipes import ABLATIONS, DELTA, Mode, noise_factor, recipe_of
from simulations.benchmarks.utility_training import Laboratory
from strategies.orders import OrderBook

FIELDS = {"figure", "value", "unit", "target", "holds"}
HEAD = Cell("banking77", 4, "joint", "head", 3.0, 0)


def run(out: Path, data: Path, model: Path, *more: str) -> None:
    utility.main(
        ["--quick", "--out", str(out), "--data", str(data), "--base-model", str(model), "--max-tokens", "16", *more]
    )


def outcome(cell: Cell, accuracy: float) -> Outcome:
    return Outcome(cell, accuracy, cell.epsilon, 1.0, 100, 50, 7, {"steps": 1}, 2.0)


def test_the_quick_size_runs_is_kept_and_taken_up(
    tmp_path: Path, intent_folder: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path, intent_folder, tiny_model, "--only", "*plain*", "*central-head*", "--budget-hours", "0")
    assert "2 cells were not looked at" in capsys.readouterr().out

    run(tmp_path, intent_folder, tiny_model)
    printed = capsys.readouterr().out
    found = json.loads((tmp_path / "bench-utility-quick.json").read_text())
    assert all(set(figure) == FIELDS for figure in found)
    assert "measured before" not in printed
    assert "Not run" not in printed
    files = {path.stem for path in (tmp_path / "bench-utility-quick").glob("banking77*.json")}
    assert files == {cell.key for cell in quick_grid()}
    private = 0
    for cell in quick_grid():
        kept = json.loads((tmp_path / "bench-utility-quick" / f"{cell.key}.json").read_text())
        assert 0 <= kept["accuracy_percent"] <= 100
        if cell.epsilon is not None:
            private += 1
            recipe = kept["recipe"]
            event = SubsampledGaussian(
                mode=PrivacyMode.LOCAL,
                unit=PrivacyUnit.RECORD,
                adjacency=Adjacency.ADD_REMOVE,
                noise_multiplier=kept["noise_multiplier"],
                sample_rate=recipe["sample_rate"],
                steps=recipe["steps"],
            )
            # all the budget and no more, over both stages where there are two
            assert kept["epsilon"] == pytest.approx(epsilon_of([event], DELTA), rel=1e-6)
            assert 0.999 * cell.epsilon <= kept["epsilon"] <= cell.epsilon
    assert private == 9
    # of three labels: the encoder is a random one, but its head learns
    assert (
        json.loads((tmp_path / "bench-utility-quick" / "banking77-plain-head-seed0.json").read_text())[
            "accuracy_percent"
        ]
        > 40
    )

    run(tmp_path, intent_folder, tiny_model)
    assert capsys.readouterr().out.count("measured before") == len(quick_grid())
    before = {path: path.read_bytes() for path in (tmp_path / "bench-utility-quick").glob("banking77*.json")}
    run(tmp_path, intent_folder, tiny_model, "--only", "*plain-head*", "*joint-head*", "--fresh")
    assert "measured before" not in capsys.readouterr().out
    again = json.loads((tmp_path / "bench-utility-quick" / "banking77-3-sites-joint-head-eps8-seed0.json").read_text())
    path = tmp_path / "bench-utility-quick" / "banking77-3-sites-joint-head-eps8-seed0.json"
    # seeds are seeds
    assert again["accuracy_percent"] == json.loads(before[path])["accuracy_percent"]


def test_errors_say_what_is_missing(tmp_path: Path, intent_folder: Path, tiny_model: Path) -> None:
    with pytest.raises(SystemExit, match=r"train\.csv is not there; expected the public data set banking77\nhint: get"):
        run(tmp_path, tmp_path / "nothing", tiny_model)
    with pytest.raises(SystemExit, match="no cell is called banking78"):
        run(tmp_path, intent_folder, tiny_model, "--only", "banking78")
    with pytest.raises(SystemExit, match=r"error: .*expected"):
        run(tmp_path, intent_folder, tmp_path / "no-model")


def test_a_cell_counts_only_under_the_facts_and_recipe_it_was_run_with(tmp_path: Path) -> None:
    recipe: dict[str, object] = {"steps": 1}
    kept = outcome(HEAD, 88.0)
    CellFolder(tmp_path, {"torch": "1"}).keep(kept)
    assert CellFolder(tmp_path, {"torch": "1"}).get(HEAD, recipe) == kept
    assert CellFolder(tmp_path, {"torch": "2"}).get(HEAD, recipe) is None
    assert CellFolder(tmp_path, {"torch": "1"}).get(HEAD, {"steps": 2}) is None
    assert CellFolder(tmp_path, {"torch": "1"}, fresh=True).get(HEAD, recipe) is None
    assert CellFolder(tmp_path, {"torch": "1"}).get(replace(HEAD, seed=1), recipe) is None


def test_the_grid_has_each_row_that_was_asked_for_and_each_cell_once() -> None:
    cells = full_grid()
    assert len({cell.key for cell in cells}) == len(cells)
    for data, sites, epsilons in (("banking77", (4, 10), (1.0, 3.0, 8.0)), ("clinc150", (10,), (3.0,))):
        for seed in (0, 1, 2):
            for trains in ("head", "lora"):
                assert Cell(data, 0, "plain", trains, None, seed) in cells
                assert {Cell(data, count, "federated", trains, None, seed) for count in sites} <= set(cells)
            for epsilon in epsilons:
                for trains in ("probe", "head", "lora", "ffa", "two-stage"):
                    assert Cell(data, 0, "central", trains, epsilon, seed) in cells
                    for count in sites:
                        assert Cell(data, count, "local", trains, epsilon, seed) in cells
                        for mode in ("joint", "joint-all"):
                            assert (Cell(data, count, mode, trains, epsilon, seed) in cells) == (trains != "probe")


def test_noise_of_the_modes() -> None:
    assert noise_factor("central", 0) == 1
    assert noise_factor("local", 10) == pytest.approx(10**0.5)
    # threshold 3 less one colluding site, of four; 7 less 3, of ten
    assert noise_factor("joint", 4) == pytest.approx(2**0.5)
    assert noise_factor("joint", 10) == pytest.approx(2.5**0.5)
    # all, less 1 of four and 3 of ten
    assert noise_factor("joint-all", 4) == pytest.approx((4 / 3) ** 0.5)
    assert noise_factor("joint-all", 10) == pytest.approx((10 / 7) ** 0.5)


@pytest.mark.parametrize("mode", ["joint", "joint-all"])
def test_the_sites_shares_sum_to_the_noise_of_the_row(
    mode: Mode, tmp_path: Path, intent_folder: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read off the order: the more sites a sum needs, the less noise each has to add."""
    added = []

    def seen(model: Any, sites: Any, book: OrderBook, start: Vector, collusion_bound: int, *rest: Any) -> Vector:
        order = book.next(1, start)
        shares = len(sites) ** 0.5 * ShareGrid.of(order, collusion_bound).share_stddev(order.training)
        added.append(shares / order.training.noise_multiplier / order.training.l2_clip_norm)
        return start

    monkeypatch.setattr(utility_training, "run_joint", seen)
    laboratory = Laboratory(intent_folder, Encoder(str(tiny_model), tmp_path, 16), shorten=50)
    laboratory.carry_out(replace(HEAD, mode=mode))
    # rounding on the grid adds a trifle
    assert added == [pytest.approx(noise_factor(mode, 4), rel=1e-3)]


def test_an_ablation_changes_something() -> None:
    for cell in full_grid():
        if cell.ablation:
            usual = recipe_of(cell.mode, cell.trains, cell.sites, cell.epsilon or 0.0)
            assert replace(usual, **ABLATIONS[cell.ablation]) != usual, cell.key


def test_median_range_and_what_was_not_run() -> None:
    cells = [replace(HEAD, seed=seed) for seed in (0, 1, 2)]
    absent = replace(HEAD, trains="lora")
    done = [outcome(cell, accuracy) for cell, accuracy in zip(cells, (80.0, 90.0, 84.0), strict=True)]
    printed = table([*cells, absent], done)
    assert "| banking77 | 4 | 3 | DP, joint, head | 84.0 | 80.0 to 90.0 | 3 | 3.000 |" in printed
    assert f"Not run (1 rows):\n- {label_of(absent)}\n" in printed
    assert "Not run" not in table(cells, done)


@pytest.mark.parametrize(("mode", "name"), [("joint", "joint"), ("joint-all", "joint, all sites needed")])
@pytest.mark.parametrize(
    ("joint", "central", "local", "probe", "missed"),
    [
        (88.0, 88.9, 86.0, 87.0, set()),
        (88.0, 89.1, 86.0, 87.0, {"DP centralised - joint"}),
        (88.0, 88.5, 87.5, 87.0, {"joint - local"}),
        (86.9, 87.5, 84.0, 87.0, {"joint - DP linear probe at each site"}),
    ],
)
def test_what_was_promised(
    mode: Mode, name: str, joint: float, central: float, local: float, probe: float, missed: set[str]
) -> None:
    done = [
        outcome(replace(HEAD, mode=mode), joint - 3),
        # the best that a mode trains counts
        outcome(replace(HEAD, mode=mode, trains="two-stage"), joint),
        outcome(replace(HEAD, mode="central", sites=0), central),
        outcome(replace(HEAD, mode="local"), local),
        outcome(replace(HEAD, mode="local", trains="probe"), probe),
    ]
    found = {one.figure.partition(": ")[2]: one for one in figures(done) if one.target is not None}
    assert {figure for figure, one in found.items() if not one.holds} == {
        figure.replace("joint", name) for figure in missed
    }
    assert set(found) == {f"DP centralised - {name}", f"{name} - local", f"{name} - DP linear probe at each site"}


def test_nothing_is_promised_of_what_was_not_run() -> None:
    assert [one.figure for one in figures([outcome(HEAD, 88.0)])] == [label_of(HEAD)]
