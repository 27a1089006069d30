"""The utility benchmark: from the command line to its table, on a tiny model and tiny data."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.layout import Vector
from privacy.accounting import epsilon as epsilon_of
from privacy.events import Adjacency, PrivacyMode, PrivacyUnit, SubsampledGaussian
from privacy.noise_shares import ShareGrid
from simulations.benchmarks import utility, utility_training
from simulations.benchmarks.frozen_head import Encoder
from simulations.benchmarks.utility_budget import noise_multiplier_for
from simulations.benchmarks.utility_cells import Cell, Outcome, default_grid, full_grid, quick_grid
from simulations.benchmarks.utility_figures import figures, label_of, promises_table, table
from simulations.benchmarks.utility_recipes import (
    ABLATIONS,
    DELTA,
    Mode,
    Recipe,
    multiplier_factor,
    noise_factor,
    recipe_of,
)
from simulations.benchmarks.utility_store import read_lines
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
            events = [
                SubsampledGaussian(
                    mode=PrivacyMode.LOCAL,
                    unit=PrivacyUnit.RECORD,
                    adjacency=Adjacency.ADD_REMOVE,
                    noise_multiplier=kept["noise_multiplier"],
                    sample_rate=stage["sample_rate"],
                    steps=stage["steps"],
                )
                for stage in (recipe, recipe["head_first"])
                if stage is not None
            ]
            assert len(events) == (2 if cell.trains == "two-stage" else 1)
            # all the budget and no more, over both stages where there are two
            assert kept["epsilon"] == pytest.approx(epsilon_of(events, DELTA), rel=1e-6)
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

    # the lines are all there is to know, in the order of the plan
    lines = tmp_path / "bench-utility-quick.jsonl"
    assert [found.cell for found, _ in read_lines(lines)] == quick_grid()
    run(tmp_path / "elsewhere", intent_folder, tiny_model, "--known", str(lines))
    assert capsys.readouterr().out.count("measured before") == len(quick_grid())
    assert (tmp_path / "elsewhere" / lines.name).read_bytes() == lines.read_bytes()
    # a wider cut is another fact
    run(
        tmp_path / "wider",
        intent_folder,
        tiny_model,
        "--known",
        str(lines),
        "--max-tokens",
        "17",
        "--budget-hours",
        "0",
    )
    printed = capsys.readouterr().out
    assert "measured before" not in printed
    assert f"{len(quick_grid())} cells were not looked at" in printed


def test_errors_say_what_is_missing(tmp_path: Path, intent_folder: Path, tiny_model: Path) -> None:
    with pytest.raises(SystemExit, match=r"train\.csv is not there; expected the public data set banking77\nhint: get"):
        run(tmp_path, tmp_path / "nothing", tiny_model)
    with pytest.raises(SystemExit, match="no cell is called banking78"):
        run(tmp_path, intent_folder, tiny_model, "--only", "banking78")
    with pytest.raises(
        SystemExit, match=r"error: .*none\.jsonl cannot be read .*expected a line .*\nhint: give a file"
    ):
        run(tmp_path, intent_folder, tiny_model, "--known", str(tmp_path / "none.jsonl"))
    with pytest.raises(SystemExit, match=r"error: .*expected"):
        run(tmp_path, intent_folder, tmp_path / "no-model")


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
                        assert (Cell(data, count, "joint-alone", trains, epsilon, seed) in cells) == (trains == "head")


def test_private_rows_that_take_seconds_have_nine_seeds() -> None:
    cells = default_grid()
    for cell in cells:
        if cell.trains in ("head", "probe") and cell.epsilon is not None and not cell.ablation:
            assert {replace(cell, seed=seed) for seed in range(9)} <= set(cells)
    assert {cell.seed for cell in cells if cell.epsilon is None} == {0, 1, 2}


def test_what_takes_seconds_comes_first_and_the_default_is_where_all_begins() -> None:
    cells, everything = default_grid(), full_grid()
    assert everything[: len(cells)] == cells
    takes_minutes = [cell.trains not in ("head", "probe") for cell in cells]
    assert takes_minutes == sorted(takes_minutes)
    assert {cell.seed for cell in cells if cell.trains not in ("head", "probe")} == {0}
    # a seed is whole before the next begins
    seeds = [cell.seed for cell in cells if cell.trains in ("head", "probe") and not cell.ablation]
    assert seeds == sorted(seeds)


def test_which_cells_are_run(
    tmp_path: Path, intent_folder: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--out", str(tmp_path), "--data", str(intent_folder), "--base-model", str(tiny_model)]
    for more, cells in (
        ([], len(default_grid())),
        (["--all"], len(full_grid())),
        (["--only", "clinc150-central-ffa-*"], 3),
    ):
        utility.main([*arguments, "--budget-hours", "0", *more])
        assert f": {cells} cells were not looked at" in capsys.readouterr().out


def test_the_second_stage_begins_where_the_first_ended_with_noise_of_its_own(
    tmp_path: Path, intent_folder: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, Any]] = []

    def recorded(model: Any, records: Any, plan: Any, start: Vector, **facts: Any) -> Vector:
        seen.append({"plan": plan, "start": start, "draw": facts["source"].bytes(16), "model": model})
        return start + np.float32(0.5)

    monkeypatch.setattr(utility_training, "run_central", recorded)
    laboratory = Laboratory(intent_folder, Encoder(str(tiny_model), tmp_path, 16), shorten=10)
    found = laboratory.carry_out(Cell("banking77", 0, "central", "two-stage", 8.0, 0))
    first, second = seen
    recipe = recipe_of("central", "two-stage", 0, 8.0)
    assert recipe.head_first is not None
    for stage, planned in ((first, recipe.head_first), (second, recipe)):
        assert stage["plan"].sample_rate == planned.sample_rate
        assert stage["plan"].steps == max(1, planned.steps // 10)
        assert stage["plan"].noise_multiplier == found.noise_multiplier
    assert first["draw"] != second["draw"]
    assert len(first["start"]) < len(second["start"]) == found.trained_parameters
    parts = second["model"].layout.unflatten(second["start"])
    (head,) = (part for name, part in parts.items() if ".lora_" not in name)
    assert np.array_equal(head.ravel(), first["start"] + np.float32(0.5))


def test_noise_of_the_modes() -> None:
    assert noise_factor("central", 0) == 1
    assert noise_factor("local", 10) == pytest.approx(10**0.5)
    # nobody lost: all, less 1 of four and 3 of ten
    for mode in ("joint", "joint-all"):
        assert noise_factor(mode, 4) == pytest.approx((4 / 3) ** 0.5)
        assert noise_factor(mode, 10) == pytest.approx((10 / 7) ** 0.5)
        assert multiplier_factor(mode, 4) == 1
    # all shares count against a coordinator with nobody's help: as if a trusted server had added the noise
    assert noise_factor("joint-alone", 10) == pytest.approx(1)
    assert multiplier_factor("joint-alone", 10) == pytest.approx(0.7**0.5)


@pytest.mark.parametrize("mode", ["joint", "joint-all", "joint-alone"])
def test_the_sites_shares_sum_to_the_noise_of_the_row(
    mode: Mode, tmp_path: Path, intent_folder: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read off the order: what is left of the shares of all sites, however many a sum would have needed."""
    added, spent = [], noise_multiplier_for(3.0, DELTA, [(0.4, 2)])

    def seen(model: Any, sites: Any, book: OrderBook, start: Vector, collusion_bound: int, *rest: Any) -> Vector:
        order = book.next(1, start)
        left = ShareGrid.of(order, collusion_bound).kept_stddev(order.training, len(sites))
        shares = len(sites) ** 0.5 * left
        added.append(shares / spent / order.training.l2_clip_norm)
        return start

    monkeypatch.setattr(utility_training, "run_joint", seen)
    laboratory = Laboratory(intent_folder, Encoder(str(tiny_model), tmp_path, 16), shorten=50)
    found = laboratory.carry_out(replace(HEAD, mode=mode))
    assert found.epsilon is not None
    assert 2.99 < found.epsilon <= 3
    # rounding on the grid adds a trifle
    assert added == [pytest.approx(noise_factor(mode, 4), rel=1e-3)]


def test_a_cell_of_another_rule_of_noise_counts_as_not_run(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recipes go by bands of noise, so a mode may add less noise than it did under the very same recipe."""
    laboratory = Laboratory(tmp_path, Encoder(str(tiny_model), tmp_path, 16))
    before = laboratory.described(HEAD)
    monkeypatch.setattr(utility_training, "noise_factor", lambda mode, sites: 1.001 * noise_factor(mode, sites))
    assert laboratory.recipe(HEAD) is not None
    assert laboratory.described(HEAD) != before


def test_an_ablation_changes_something() -> None:
    for cell in full_grid():
        if cell.ablation:
            usual = recipe_of(cell.mode, cell.trains, cell.sites, cell.epsilon or 0.0)
            assert ABLATIONS[cell.ablation](usual) != usual, cell.key


def test_more_noise_never_takes_more_steps_or_larger_ones() -> None:
    factors = [0.3 * 1.1**power for power in range(40)]
    recipes = [recipe_of("central", "head", 0, 1 / factor) for factor in factors]
    assert [recipe.steps for recipe in recipes] == sorted((recipe.steps for recipe in recipes), reverse=True)
    for steps in {recipe.steps for recipe in recipes}:
        rates = [recipe.learning_rate for recipe in recipes if recipe.steps == steps]
        assert rates == sorted(rates, reverse=True)
        assert len(set(rates)) > 1


def test_ablations_of_clip_and_rate_are_relative_and_the_examples_are_not() -> None:
    for epsilon in (1.0, 8.0):
        usual = recipe_of("central", "head", 0, epsilon)
        for clip in ("0.5", "2", "5"):
            changed = ABLATIONS[f"clip-{clip}"](usual)
            assert changed.l2_clip_norm == float(clip)
            # a step is as long as before where all gradients are clipped
            assert changed.learning_rate * float(clip) == pytest.approx(usual.learning_rate * usual.l2_clip_norm)
        assert ABLATIONS["rate-half"](usual).learning_rate == usual.learning_rate / 2
        assert ABLATIONS["example"](usual) == Recipe(0.1, 50, l2_clip_norm=2.0, learning_rate=0.8)
        assert ABLATIONS["example-twice"](usual) == Recipe(0.1, 100, l2_clip_norm=2.0, learning_rate=0.4)


def test_median_range_and_what_was_not_run() -> None:
    cells = [replace(HEAD, seed=seed) for seed in (0, 1, 2)]
    absent = replace(HEAD, trains="lora")
    done = [outcome(cell, accuracy) for cell, accuracy in zip(cells, (80.0, 90.0, 84.0), strict=True)]
    printed = table([*cells, absent], done)
    assert "| banking77 | 4 | 3 | DP, joint, head | 84.0 | 80.0 to 90.0 | 3 | 3.000 |" in printed
    assert f"Not run (1 rows):\n- {label_of(absent)}\n" in printed
    assert "Not run" not in table(cells, done)


@pytest.mark.parametrize(
    ("mode", "name"),
    [
        ("joint", "joint"),
        ("joint-all", "joint, all sites needed"),
        ("joint-alone", "joint, no colluding site"),
    ],
)
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
    lines = promises_table(list(found.values())).splitlines()[2:]
    assert sum(line.endswith("| **missed** |") for line in lines) == len(missed)
    assert len(lines) == len(found)
    assert set(found) == {f"DP centralised - {name}", f"{name} - local", f"{name} - DP linear probe at each site"}


def test_nothing_is_promised_of_what_was_not_run() -> None:
    assert [one.figure for one in figures([outcome(HEAD, 88.0)])] == [label_of(HEAD)]
