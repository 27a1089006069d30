"""``tacit privacy``: arithmetic before anything is signed."""

from __future__ import annotations

import json
import math

import typer

app = typer.Typer(
    help="Privacy arithmetic: calibrate.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

_CALIBRATE_EPILOG = """
\b
Examples:
  tacit privacy calibrate --epsilon 8 --delta 1e-5 --sample-rate 0.05 --steps 120
  tacit privacy calibrate --epsilon 3 --delta 1e-5 --sample-rate 0.1 --steps 50 --json

Steps are those of the whole run: rounds times local steps. In mode site a round is one step, and nothing is sampled:
  tacit privacy calibrate --epsilon 8 --delta 1e-5 --sample-rate 1 --steps 20
"""

_DECIMALS = 6


@app.callback()
def _group() -> None:
    """Keep ``calibrate`` a command of its own while it is the only one."""


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
    typer.echo(f"spends            epsilon {spent:.4f} at delta {delta:g} (one record, add/remove, PLD)")
