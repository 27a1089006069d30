"""``tacit report``: a run's report, recomputed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from tacit.errors import InputError

if TYPE_CHECKING:
    from privacy.report import ReportFacts

app = typer.Typer(rich_markup_mode=None, add_completion=False)

_EPILOG = """
\b
Examples:
  tacit report hub/state/runs/RUN_ID      recomputed from the run's record
  tacit report demo/out                   from its report.json alone
"""


@app.command(epilog=_EPILOG)
def report(
    folder: Path = typer.Argument(..., help="A run's folder, its out/ folder, or a folder with a report.json."),
) -> None:
    """Recompute a run's report from its record, and print one epsilon per adversary.

    FOLDER is a run's folder, or its out/: everything is recomputed from the run's record. Or it is a folder that
    holds only a report.json: then the page is made again from that, and nothing is recomputed.
    """
    run_folder = _run_folder(folder)
    if run_folder is not None:
        from server.release import write_report

        facts = write_report(run_folder)
        out = run_folder / "out"
        typer.echo(f"recomputed from the record in {run_folder}")
    elif (folder / "report.json").is_file():
        facts = _render_again(folder)
        out = folder
        typer.echo(f"the page was made again from {folder / 'report.json'}; no figure was recomputed")
    else:
        raise InputError(
            f"{folder} holds neither a run (run.json, agreement.yaml, events.jsonl) nor a report.json",
            hint="name a run's folder under the coordinator's state/runs, or the out folder of a demo",
        )
    typer.echo(f"report:  {out / 'report.html'}")
    typer.echo(f"facts:   {out / 'report.json'}")
    _print_epsilons(facts)


def _run_folder(folder: Path) -> Path | None:
    """Return the run's folder that ``folder`` is, or is the ``out`` of."""
    if (folder / "run.json").is_file():
        return folder
    parent = folder.resolve().parent
    if folder.resolve().name == "out" and (parent / "run.json").is_file():
        return parent
    return None


def _render_again(folder: Path) -> ReportFacts:
    from pydantic import ValidationError

    from privacy.report import ReportFacts, render
    from tacit.durable import write_atomic

    path = folder / "report.json"
    try:
        facts = ReportFacts.model_validate_json(path.read_bytes())
    except ValidationError as error:
        detail = error.errors()[0]
        where = ".".join(str(part) for part in detail["loc"]) or "the file"
        raise InputError(
            f"{path} is not a report of this version: {where}: {detail['msg']}",
            hint="make the report again from the run's folder, where run.json is",
        ) from error
    write_atomic(folder / "report.html", render(facts).encode())
    return facts


def _print_epsilons(facts: ReportFacts) -> None:
    from privacy.report.figures import delta_text, epsilon_text

    for bound in facts.adversaries:
        claim = "no privacy is claimed" if bound.epsilon is None else f"epsilon {epsilon_text(bound.epsilon)}"
        typer.echo(f"against {bound.adversary}: {claim} at delta {delta_text(bound.delta)}")
    for finding in facts.findings:
        if finding.severity != "note":
            typer.echo(f"{finding.severity}: {finding.text}", err=True)
