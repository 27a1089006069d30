"""Epsilon over the rounds of a run that has not been made, for each mode and adversary, as an SVG file."""

from __future__ import annotations

from pathlib import Path

from privacy.accounting import COLLUDING_SITES, COORDINATOR, PUBLIC, SITE
from privacy.report.figures import delta_text, epsilon_text
from privacy.report.plots import Level, Line, Plot, group_equal
from privacy.report.svg_file import svg_file
from server.explanation_facts import ExplainedMode, Explanation
from tacit.durable import write_atomic
from tacit.errors import InputError

_SHORT = {
    COORDINATOR: "coordinator",
    COLLUDING_SITES: "coordinator with c sites",
    SITE: "another site",
    PUBLIC: "public",
}


def write_plot(facts: Explanation, path: Path) -> None:
    """Draw ``facts`` into ``path``.

    Raises:
        InputError: the path does not end in .svg, so it may be a file of something else; or it cannot be written.
    """
    if path.suffix.lower() != ".svg":
        raise InputError(f"--plot {path} does not end in .svg, and an SVG is what is drawn", hint="name a FILE.svg")
    agreed = facts.agreement
    told = f"{agreed.sites} sites, c = {agreed.collusion_bound}, at delta {delta_text(agreed.delta)}" + (
        "; as if the noise were secret: NO PRIVACY IS CLAIMED" if facts.testing else ""
    )
    try:
        write_atomic(path, svg_file(plot_of(facts), told).encode())
    except OSError as error:
        raise InputError(
            f"{path} cannot be written: {error.strerror}", hint="name a file in a folder of yours"
        ) from error


def plot_of(facts: Explanation) -> Plot:
    """What is drawn: a line for each mode and adversary; those that coincide share one that names them all."""
    lines = [line for mode in facts.modes for line in _lines(mode)]
    highest = max((value for line in lines for _, value in line.points), default=0.0)
    ends = "; ".join(f"{line.label}: {epsilon_text(line.points[-1][1])}" for line in lines)
    budget = facts.agreement.epsilon_per_run
    return Plot(
        key="explanation-plot",
        title=f"Epsilon over the rounds of {facts.run.name}, as planned",
        description=f"After {facts.run.rounds} rounds {ends}. The budget of a run is {budget:g}.",
        x_label="round",
        lines=group_equal(lines, "; "),
        levels=(Level(f"budget of a run, {budget:g}", budget, "budget"),),
        planned=(),
        x_last=facts.run.rounds,
        top=max(budget, highest) * 1.1,
        tick_text=lambda value: f"{value:g}",
        value_text=epsilon_text,
    )


def _lines(mode: ExplainedMode) -> list[Line]:
    names = [adversary.adversary for adversary in mode.adversaries]
    curves = {
        name: ((0.0, 0.0), *((float(each.round), value) for each in mode.growth if (value := each.by_adversary[name])))
        for name in names
    }
    grouped = group_equal([Line(_SHORT.get(name, name), curves[name]) for name in names])
    if len(grouped) == 1:
        return [Line(f"{mode.mode.value}: every adversary", grouped[0].points)]
    return [Line(f"{mode.mode.value}: {line.label}", line.points) for line in grouped]
