"""``tacit privacy``: arithmetic before anything is signed."""

from __future__ import annotations

import json
import math
from pathlib import Path

import typer

from tacit.errors import Refusal

app = typer.Typer(
    help="Privacy arithmetic: calibrate, explain.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

_CALIBRATE_EPILOG = """
\b
Examples:
  tacit privacy calibrate --epsilon 8 --delta 1e-5 \\
      --sample-rate 0.2 --steps 20
  tacit privacy calibrate --epsilon 3 --delta 1e-5 \\
      --sample-rate 0.1 --steps 50 --json

Steps are those of the whole run: rounds times local steps.

\b
In mode site a round is one step, and nothing is sampled:
  tacit privacy calibrate --epsilon 8 --delta 1e-5 --sample-rate 1 --steps 20
"""

_EXPLAIN_EPILOG = """
\b
Examples:
  tacit privacy explain demo/run.toml
  tacit privacy explain run.toml --agreement agreement.yaml --second-opinion
  tacit privacy explain run.toml --plot epsilon.svg
  tacit privacy explain run.toml --json

Needs no data, no gateway and no signatures. The agreement may be a draft by `tacit agreement new`.
"""

_DECIMALS = 6


@app.command(epilog=_CALIBRATE_EPILOG)
def calibrate(
    epsilon: float = typer.Option(..., help="The most the whole run may spend."),
    delta: float = typer.Option(..., help="At this delta."),
    sample_rate: float = typer.Option(..., help="Probability with which a record enters one step's batch."),
    steps: int = typer.Option(..., help="DP-SGD steps in the whole run."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Print the noise multiplier that spends at most EPSILON, and at least 99.9% of it."""
    from privacy.accounting import calibrate_noise_multiplier
    from privacy.accounting import epsilon as epsilon_of
    from privacy.events import Adjacency, PrivacyMode, PrivacyUnit, SubsampledGaussian
    from privacy.report.figures import delta_text, epsilon_text

    exact = calibrate_noise_multiplier(epsilon, delta, sample_rate, steps)
    # Upwards: what is printed must not spend more than was asked.
    noise_multiplier = math.ceil(exact * 10**_DECIMALS) / 10**_DECIMALS
    event = SubsampledGaussian(
        mode=PrivacyMode.LOCAL,
        unit=PrivacyUnit.RECORD,
        adjacency=Adjacency.ADD_REMOVE,
        noise_multiplier=noise_multiplier,
        sample_rate=sample_rate,
        steps=steps,
    )
    spent = epsilon_of([event], delta)
    if as_json:
        facts = {"noise_multiplier": noise_multiplier, "epsilon": spent, "delta": delta}
        typer.echo(json.dumps({**facts, "sample_rate": sample_rate, "steps": steps}))
        return
    typer.echo(f"noise multiplier  {noise_multiplier:.{_DECIMALS}f}")
    typer.echo(f"spends            epsilon {epsilon_text(spent)} at delta {delta_text(delta)}")


@app.command(epilog=_EXPLAIN_EPILOG)
def explain(
    run_file: Path = typer.Argument(..., help="run.toml"),
    agreement: Path | None = typer.Option(
        None, help="Partners, collusion bound, delta and budgets; else what [simulation] in RUN_FILE names."
    ),
    plot: Path | None = typer.Option(None, metavar="FILE.svg", help="Also draw epsilon over the rounds."),
    second_opinion: bool = typer.Option(False, "--second-opinion", help="Ask PRV and RDP, too (seconds)."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Tell the epsilon each adversary would get in each mode if RUN_FILE (run.toml) were run, before anything is."""
    from rich.console import Console

    from server.explanation import explain_files
    from tacit.cli.explanation_page import explanation_page
    from tacit.cli.explanation_plot import write_plot

    try:
        facts = explain_files(run_file, agreement, second_opinion=second_opinion)
    except Refusal as refused:
        # the gate's own words, and nothing was ordered yet
        told = refused.message.replace(" was ordered", " is asked for by the run file")
        told = told.replace(" were ordered", " are asked for by the run file")
        raise Refusal(refused.reason, told, hint=refused.hint) from refused
    if plot is not None:
        write_plot(facts, plot)
    if as_json:
        typer.echo(facts.model_dump_json(indent=2))
        return
    console = Console(highlight=False)
    with console.capture() as capture:
        console.print(explanation_page(facts))
    for line in capture.get().splitlines():
        typer.echo(line.rstrip())  # tables pad their lines with blanks
    if plot is not None:
        typer.echo(f"plot: {plot}")
