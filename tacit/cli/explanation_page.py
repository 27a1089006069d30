"""What a run would cost, for people: a table of epsilons, the noise behind them, and what each rests on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from privacy.report.figures import delta_text, epsilon_text
from privacy.report.statements import WHO, split_shared
from server.explanation_facts import CoalitionEpsilon, ExplainedMode, Explanation

#: rows about more colluding sites than were agreed, at most
_MOST_COALITIONS = 5
_ACCOUNTANTS = {"pld": "PLD", "rdp": "RDP"}


def explanation_page(facts: Explanation) -> RenderableType:
    """Return the page."""
    parts: list[RenderableType] = [Text(f"{facts.run.name}: what it would cost, before anything is run", style="bold")]
    if facts.testing:
        parts.append(
            Text("TEST NOISE: NO PRIVACY IS CLAIMED. What is charged is as if the noise were secret.", style="bold red")
        )
    parts += [Padding(_facts_table(facts), (0, 0, 0, 2)), _epsilons(facts)]
    parts += [Text(line) for line in _notes(facts)]
    if any(mode.same_epsilon for mode in facts.modes):
        parts += [_noise(facts), *(Text(line) for line in _compared(facts))]
    parts += [Text(), Text("What they rest on", style="bold"), Padding(_assumptions(facts), (0, 0, 0, 2))]
    parts += [Text(), Text("Accountants", style="bold"), Padding(_accountants(facts), (0, 0, 0, 2))]
    return Group(*parts)


def coalitions(modes: Sequence[ExplainedMode]) -> list[tuple[str, list[CoalitionEpsilon]]]:
    """Rows about more than c colluding sites: numbers of sites, and for each mode the worst of them.

    Numbers whose epsilons are the same in every mode share a row, and so do neighbours where there are too many.
    """
    columns = [mode.beyond_collusion_bound for mode in modes]
    runs: list[tuple[int, int]] = []
    for index in range(len(columns[0])):
        same = bool(runs) and all(column[index].epsilon == column[runs[-1][1]].epsilon for column in columns)
        runs = [*runs[:-1], (runs[-1][0], index)] if same else [*runs, (index, index)]
    while len(runs) > _MOST_COALITIONS:
        # the middle is joined: the first case beyond what was agreed and the last one, all others, stay
        middle = len(runs) // 2
        runs[middle - 1 : middle + 1] = [(runs[middle - 1][0], runs[middle][1])]
    return [
        (
            _numbers(columns[0][first].colluding_sites, columns[0][last].colluding_sites),
            # more colluding sites never learn less
            [column[last] for column in columns],
        )
        for first, last in runs
    ]


def _numbers(first: int, last: int) -> str:
    return str(first) if first == last else f"{first} to {last}"


def _grid(rows: Iterable[tuple[str, str]]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, style="cyan")
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(Text(name), Text(value))
    return table


def _facts_table(facts: Explanation) -> Table:
    run, agreed = facts.run, facts.agreement
    colluding = "1 site colludes" if agreed.collusion_bound == 1 else f"{agreed.collusion_bound} sites collude"
    return _grid(
        [
            (
                "run",
                f"{run.rounds} rounds of {run.local_steps} steps, mode {run.mode.value}, "
                f"noise multiplier {run.noise_multiplier:g}, sample rate {run.sample_rate:g}",
            ),
            ("agreement", f"{agreed.title} ({agreed.digest[:19]}; signatures not looked at)"),
            (
                "sites",
                f"{agreed.sites}; a sum opens over {agreed.smallest_sum} or more; "
                f"c = {agreed.collusion_bound}: at most {colluding} with the coordinator",
            ),
            (
                "budget",
                f"epsilon {agreed.epsilon_per_run:g} per run and {agreed.epsilon_lifetime:g} per lifetime, "
                f"at delta {delta_text(agreed.delta)}",
            ),
        ]
    )


def _epsilons(facts: Explanation) -> Table:
    modes, agreed = facts.modes, facts.agreement
    table = _table("epsilon of the whole run", modes)
    table.add_row("protected unit", *(mode.unit.value for mode in modes))
    for index, adversary in enumerate(modes[0].adversaries):
        values = [epsilon_text(mode.adversaries[index].epsilon) for mode in modes]
        table.add_row(Text(WHO.get(adversary.adversary, adversary.adversary)), *values)
    rows = coalitions(modes)
    if rows:
        table.add_section()
    for numbers, cells in rows:
        sites = "1 site" if numbers == "1" else f"{numbers} sites"
        table.add_row(f"The coordinator with {sites} (> c)", *(_coalition(cell) for cell in cells))
    table.add_section()
    table.add_row("charged to each site", *(_charge(mode.epsilon_charged) for mode in modes), style="bold")
    table.add_row(f"  budget of a run, {agreed.epsilon_per_run:g}", *(_fits(mode.fits_run) for mode in modes))
    table.add_row(
        f"  budget of a lifetime, {agreed.epsilon_lifetime:g}", *(_fits(mode.fits_lifetime) for mode in modes)
    )
    if facts.run.max_burnt_rounds:
        burnt = facts.run.max_burnt_rounds
        table.add_row(
            f"  with {burnt} burnt round{'s' * (burnt > 1)}",
            *(_charge(mode.epsilon_with_burnt_rounds, agreed.epsilon_per_run) for mode in modes),
        )
    table.add_row(
        "  at the agreement's limits",
        *(_charge(mode.epsilon_at_limits, agreed.epsilon_per_run) for mode in modes),
    )
    return table


def _table(head: str, modes: Sequence[ExplainedMode]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1))
    table.add_column(head)  # what gives way on a narrow screen
    for mode in modes:
        status = "this run" if mode.this_run else "agreed" if mode.agreed else "not agreed"
        table.add_column(f"{mode.mode.value}\n{status}", justify="right", no_wrap=True)
    return table


def _coalition(cell: CoalitionEpsilon) -> str:
    return epsilon_text(cell.epsilon) if cell.claimed else f"({_charge(cell.epsilon)})"


def _charge(value: float | None, limit: float | None = None) -> str:
    if value is None:
        return "none"
    return f"over: {epsilon_text(value)}" if limit is not None and value > limit else epsilon_text(value)


def _fits(fits: bool) -> str:
    return "fits" if fits else "EXCEEDED"


def _notes(facts: Explanation) -> Iterable[str]:
    agreed = facts.agreement
    unclaimed = [
        mode.mode.value for mode in facts.modes if any(not each.claimed for each in mode.beyond_collusion_bound)
    ]
    if unclaimed:
        yield (
            f"In brackets: arithmetic, no claim. In mode {', '.join(unclaimed)} nothing is promised once more than "
            f"c = {agreed.collusion_bound} sites collude; if all others do, one site's own noise share is left."
        )
    yield (
        f"At the agreement's limits: as many steps with noise multiplier {agreed.min_noise_multiplier:g} and sample "
        f"rate {agreed.max_sample_rate:g}, the most an order may ask for. Rounds over the budget are refused by the "
        "sites' ledgers."
    )
    for mode in facts.impossible:
        yield f"Mode {mode.mode.value} is not possible for this run: {mode.reason}"


def _noise(facts: Explanation) -> Table:
    own = facts.modes[0].same_epsilon
    sites = facts.agreement.sites
    head = "the same epsilon" if own is None else f"epsilon {epsilon_text(own.epsilon)} needs"
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1))
    table.add_column(head, no_wrap=True)
    for name in ("noise\nmultiplier", "from\none site", f"in the sum\nof {sites}", f"in the mean\nof {sites}"):
        table.add_column(name, justify="right", no_wrap=True)
    for mode in facts.modes:
        noise = mode.same_epsilon
        values = (
            ["none"] * 4
            if noise is None
            else [noise.noise_multiplier, noise.stddev_one_site, noise.stddev_sum, noise.stddev_mean]
        )
        table.add_row(mode.mode.value, *(value if isinstance(value, str) else f"{value:.4f}" for value in values))
    return table


def _compared(facts: Explanation) -> Iterable[str]:
    yield "Standard deviations of one coordinate over the clip norm; nobody lost, surplus noise taken off."
    own = facts.modes[0]
    for other in facts.modes[1:]:
        if own.same_epsilon is None or other.same_epsilon is None:
            continue
        ratio = other.same_epsilon.stddev_mean / own.same_epsilon.stddev_mean
        yield (
            f"For this epsilon mode {other.mode.value} puts {ratio:.2f} times the noise of mode {own.mode.value} into "
            f"the mean: each site adds {other.same_epsilon.stddev_one_site:.3g} of the clip norm, not "
            f"{own.same_epsilon.stddev_one_site:.3g}."
        )


def _assumptions(facts: Explanation) -> Table:
    rows: list[tuple[str, str]] = []
    for mode in facts.modes:
        own, shared = split_shared([adversary.assumptions for adversary in mode.adversaries])
        if shared:
            rows.append((mode.mode.value, f"All of them: {shared}"))
        else:
            for adversary, told in zip(mode.adversaries, own, strict=True):
                name = WHO.get(adversary.adversary, adversary.adversary)
                rows.append((mode.mode.value if told is own[0] else "", f"{name}: {told}"))
    return _grid(rows)


def _accountants(facts: Explanation) -> Table:
    rows = []
    for mode in facts.modes:
        bound = _ACCOUNTANTS[mode.accountant]
        opinion = mode.second_opinion
        told = f"{bound} {_charge(mode.epsilon_charged)} is the bound"
        if opinion is not None:
            verdict = "they agree" if opinion.agrees else "THEY DISAGREE"
            told += (
                f"; PRV {epsilon_text(opinion.prv)}, RDP {epsilon_text(opinion.rdp)}: {verdict} "
                f"(up to {opinion.tolerance:.2g} is discretisation)"
            )
        rows.append((mode.mode.value, told))
    if all(mode.second_opinion is None for mode in facts.modes):
        rows.append(("", "ask a second one with --second-opinion"))
    return _grid(rows)
