"""``tacit demo``: a whole consortium on this machine, from nothing to a report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import typer
from rich.console import Console

from tacit.cli.serving import interruptible
from tacit.errors import ProcessError

app = typer.Typer(add_completion=False, rich_markup_mode=None)

_EPILOG = """
\b
Examples:
  tacit demo
  tacit demo --fresh --seed 7     a new consortium with other data
  tacit demo --short              three rounds, to see that all works
"""


@app.command(epilog=_EPILOG)
def demo(
    home: Path = typer.Option(Path("demo"), help="Working folder."),
    fresh: bool = typer.Option(False, "--fresh", help="Start over with a new consortium."),
    short: bool = typer.Option(False, "--short", help="A few rounds only."),
    seed: int = typer.Option(1, help="Of the generated messages. Noise has no seed."),
    expect_accuracy: float = typer.Option(0.0, help="Fail unless the accuracy reached is at least this."),
) -> None:
    """Make three partners, run a private federated fine-tuning among them, and show the result.

    Everything is real: separate processes, mutual TLS, DP-SGD, secure aggregation, ledgers. Only the customer
    messages are invented.
    """
    from privacy.report.figures import delta_text, epsilon_text
    from simulations.demo import Demo
    from simulations.demo_consortium import RECIPE, SHORT_ROUNDS
    from tacit.cli.progress_view import ProgressView

    console = Console()
    rounds = SHORT_ROUNDS if short else RECIPE.rounds
    say: Callable[[str], None] = typer.echo
    with interruptible(), Demo(home, fresh=fresh, rounds=rounds, data_seed=seed, say=say) as course:
        run_id = course.start()
        with ProgressView(console) as view:
            for event in course.events(run_id):
                view.apply(event)
        result = course.collect(run_id)
    summary = result.summary
    typer.echo("")
    typer.echo(f"accuracy on the public test set: {summary['accuracy_before']:.3f} -> {summary['accuracy_after']:.3f}")
    for adversary, bound in summary["adversaries"].items():
        epsilon = "no claim" if bound["epsilon"] is None else epsilon_text(bound["epsilon"])
        typer.echo(f"epsilon against {adversary}: {epsilon} at delta {delta_text(bound['delta'])}")
    typer.echo(f"adapter (peft):  {result.out / 'adapter'}")
    typer.echo(f"report:          {result.out / 'report.html'} and report.json")
    typer.echo(f"summary:         {result.out / 'summary.json'}")
    for site in summary["sites"]:
        typer.echo(f"ledger of {site}: {home / site / 'state' / 'ledger.sqlite'}  (tacit ledger show {home / site})")
    if summary["accuracy_after"] < expect_accuracy:
        raise ProcessError(
            f"accuracy {summary['accuracy_after']:.3f} is below the {expect_accuracy:g} that was asked for",
            hint=f"the report is in {result.out}",
        )
