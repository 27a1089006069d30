"""From the cells of the utility benchmark to its table and its figures."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import replace

from simulations.benchmarks.figures import Figure
from simulations.benchmarks.utility_cells import Cell, Outcome
from simulations.benchmarks.utility_recipes import JOINT_MODES, MODE_NAMES, TRAINS_NAMES

#: promised: how far ``joint`` may be below centralised, and how far ``local`` has to be below ``joint``, in points
_JOINT_BELOW_CENTRAL, _CLEARLY = 1.0, 1.0


class Results:
    """Accuracies by row: a cell without its seed."""

    def __init__(self, outcomes: Iterable[Outcome]) -> None:
        self._found: dict[Cell, list[Outcome]] = {}
        for outcome in outcomes:
            self._found.setdefault(_row(outcome.cell), []).append(outcome)

    def rows(self) -> list[Cell]:
        """The rows there are, in order of arrival; the seed of each is 0."""
        return list(self._found)

    def accuracies(self, row: Cell) -> list[float]:
        """In percent, one for each seed that is done."""
        return [outcome.accuracy_percent for outcome in self._found.get(_row(row), [])]

    def spent(self, row: Cell) -> float | None:
        """Largest epsilon of the row's runs."""
        spent = [outcome.epsilon for outcome in self._found[_row(row)] if outcome.epsilon is not None]
        return max(spent, default=None)

    def median(self, row: Cell) -> float | None:
        """In percent; None if nothing is done."""
        found = self.accuracies(row)
        return statistics.median(found) if found else None

    def best(self, row: Cell) -> float | None:
        """Median of the best of what a row's mode can train, the probe aside."""
        medians = [self.median(replace(row, trains=trains)) for trains in TRAINS_NAMES if trains != "probe"]
        return max((median for median in medians if median is not None), default=None)


def label_of(row: Cell) -> str:
    """A row in words."""
    where = f", {row.sites} sites" if row.sites else ""
    spent = "" if row.epsilon is None else f", epsilon {row.epsilon:g}"
    change = f" ({row.ablation})" if row.ablation else ""
    return f"{row.data}{where}{spent}: {MODE_NAMES[row.mode]}, {TRAINS_NAMES[row.trains]}{change}"


def figures(outcomes: Sequence[Outcome]) -> list[Figure]:
    """What was promised first, then the median of each row. What was not run has no figure."""
    results = Results(outcomes)
    found = []
    for row in results.rows():
        if row.mode in JOINT_MODES and not row.ablation and row.trains == "head":
            found += _promises(results, row)
    found += [Figure(label_of(row), results.median(row) or 0.0, "%") for row in results.rows()]
    return found


def table(planned: Sequence[Cell], outcomes: Sequence[Outcome]) -> str:
    """Markdown: median and range of each row, and what was not run."""
    results = Results(outcomes)
    lines = [
        "| data | sites | epsilon | row | accuracy, % | range | seeds | spent |",
        "|---" * 8 + "|",
    ]
    missing = []
    for row in dict.fromkeys(_row(cell) for cell in planned):
        accuracies = results.accuracies(row)
        if not accuracies:
            missing.append(label_of(row))
            continue
        spent = results.spent(row)
        name = f"{MODE_NAMES[row.mode]}, {TRAINS_NAMES[row.trains]}" + (f" ({row.ablation})" if row.ablation else "")
        columns = (
            row.data,
            str(row.sites or ""),
            "" if row.epsilon is None else f"{row.epsilon:g}",
            name,
            f"{statistics.median(accuracies):.1f}",
            f"{min(accuracies):.1f} to {max(accuracies):.1f}" if len(accuracies) > 1 else "",
            str(len(accuracies)),
            "" if spent is None else f"{spent:.3f}",
        )
        lines.append("| " + " | ".join(columns) + " |")
    text = "\n".join(lines) + "\n"
    if missing:
        text += f"\nNot run ({len(missing)} rows):\n" + "".join(f"- {name}\n" for name in missing)
    return text


def promises_table(found: Sequence[Figure]) -> str:
    """Markdown: those of ``found`` (see :func:`figures`) that something was promised of."""
    lines = ["| figure | points | target | |", "|---" * 4 + "|"]
    for one in found:
        if one.target is not None:
            lines.append(
                f"| {one.figure} | {one.value:.2f} | {one.target} | {'holds' if one.holds else '**missed**'} |"
            )
    return "\n".join(lines) + "\n"


def _promises(results: Results, joint: Cell) -> list[Figure]:
    ours = results.best(joint)
    if ours is None:
        return []
    where = f"{joint.data}, {joint.sites} sites, epsilon {joint.epsilon:g}"
    name = MODE_NAMES[joint.mode].removeprefix("DP, ")
    beside = {
        "central": results.best(replace(joint, mode="central", sites=0)),
        "local": results.best(replace(joint, mode="local")),
        "probe at each site": results.median(replace(joint, mode="local", trains="probe")),
        "probe, centralised": results.median(replace(joint, mode="central", trains="probe", sites=0)),
    }
    found = []
    if (central := beside["central"]) is not None:
        gap = central - ours
        target = f"<= {_JOINT_BELOW_CENTRAL:g}"
        figure = f"{where}: DP centralised - {name}"
        found.append(Figure(figure, gap, "points", target, gap <= _JOINT_BELOW_CENTRAL))
    if (local := beside["local"]) is not None:
        gap = ours - local
        # at epsilon 8 nothing was promised
        bound = f">= {_CLEARLY:g}" if joint.epsilon is not None and joint.epsilon <= 3 else None
        found.append(
            Figure(f"{where}: {name} - local", gap, "points", bound, gap >= _CLEARLY if bound is not None else None)
        )
    for baseline in ("probe at each site", "probe, centralised"):
        if (probe := beside[baseline]) is not None:
            gap = ours - probe
            found.append(Figure(f"{where}: {name} - DP linear {baseline}", gap, "points", "> 0", gap > 0))
    return found


def _row(cell: Cell) -> Cell:
    return replace(cell, seed=0)
