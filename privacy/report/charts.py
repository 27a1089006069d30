"""The two plots, with their figures underneath for whoever cannot see a plot."""

from __future__ import annotations

from privacy.report.facts import ReportFacts, SiteFacts
from privacy.report.figures import accuracy_text, delta_text, epsilon_text
from privacy.report.markup import Html, element
from privacy.report.plots import Level, Line, Plot, group_equal, legend, svg
from privacy.report.tables import Number, table


def epsilon_figure(facts: ReportFacts) -> Html:
    """Epsilon after each round, a line a site, against the budget."""
    by_site = {site.site: _epsilon_points(site) for site in facts.sites}
    planned = tuple((float(index), value) for index, value in enumerate((0.0, *facts.epsilon_planned)))
    highest = max(value for points in by_site.values() for _, value in points)
    plot = Plot(
        key="epsilon-plot",
        title="Epsilon per round and site",
        description=(
            "; ".join(f"{site} ends at {epsilon_text(points[-1][1])}" for site, points in by_site.items())
            + f"; the budget is {facts.epsilon_budget:g}."
        ),
        x_label="round",
        lines=group_equal([Line(site, points) for site, points in by_site.items()]),
        levels=(Level(f"budget {facts.epsilon_budget:g}", facts.epsilon_budget, "budget"),),
        planned=planned,
        x_last=max(facts.run.rounds_planned, facts.run.rounds_done),
        top=max(facts.epsilon_budget, highest) * 1.1,
        tick_text=lambda value: f"{value:g}",
        value_text=epsilon_text,
    )
    rounds = sorted({int(at) for points in by_site.values() for at, _ in points if at > 0})
    rows = [(Number(str(at)), *(Number(_at(points, at)) for points in by_site.values())) for at in rounds]
    return _figure(
        plot,
        f"at δ = {delta_text(facts.delta)}, composed over the rounds so far",
        table("Epsilon after each round.", ("Round", *by_site), rows),
    )


def accuracy_figure(facts: ReportFacts) -> Html:
    """Accuracy after each round on the public test set."""
    points = tuple((float(fact.round), fact.accuracy) for fact in facts.accuracy)
    chance = 1 / facts.parameters.labels_count
    plot = Plot(
        key="accuracy-plot",
        title="Accuracy per round",
        description=f"From {accuracy_text(points[0][1])} to {accuracy_text(points[-1][1])} on the public test set.",
        x_label="round",
        lines=(Line("accuracy", points),),
        levels=(Level(f"guessing, {accuracy_text(chance)}", chance, "chance"),),
        planned=(),
        x_last=max(facts.run.rounds_planned, facts.run.rounds_done),
        top=1.0,
        tick_text=lambda value: f"{100 * value:g} %",
        value_text=accuracy_text,
    )
    rows = [(Number(str(fact.round)), Number(accuracy_text(fact.accuracy))) for fact in facts.accuracy]
    return _figure(
        plot,
        f"on {facts.accuracy[-1].examples:,} public test examples; no partner's data is used to measure",
        table("Accuracy after each round.", ("Round", "Accuracy"), rows),
    )


def _figure(plot: Plot, told: str, figures: Html) -> Html:
    return element(
        "figure",
        element("figcaption", element("strong", plot.title), element("span", f", {told}")),
        svg(plot),
        legend(plot),
        element("details", element("summary", "The figures"), figures),
    )


def _epsilon_points(site: SiteFacts) -> tuple[tuple[float, float], ...]:
    """The last figure of each round; a round that took two steps cost both."""
    after: dict[int, float] = {0: 0.0}
    for step in site.steps:
        after[step.round] = step.epsilon_run
    return tuple((float(round_), value) for round_, value in sorted(after.items()))


def _at(points: tuple[tuple[float, float], ...], round_: int) -> str:
    found = dict(points).get(float(round_))
    return epsilon_text(found) if found is not None else "none"
