"""``tacit run``: submit a run to the gateway on this host, and follow it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

import typer
from rich.console import Console
from rich.table import Column, Table

from tacit.errors import ConfigError, ProcessError

app = typer.Typer(help="Submit and follow runs.", no_args_is_help=True, add_completion=False, rich_markup_mode=None)

_HOME = typer.Option(..., "--home", help="The coordinator's folder; its gateway must be serving.")

_START_EPILOG = """
\b
Examples:
  tacit run start run.toml --home hub
  tacit run start run.toml --home hub --watch
  tacit run start run.toml --home hub --resume 0123456789abcdef
"""

_STATUS_EPILOG = """
\b
Examples:
  tacit run status --home hub
  tacit run status --home hub --json
"""

_WATCH_EPILOG = """
\b
Examples:
  tacit run watch --home hub                       the newest run
  tacit run watch 0123456789abcdef --home hub
"""

_STOP_EPILOG = """
\b
Examples:
  tacit run stop 0123456789abcdef --home hub
"""


@app.command(epilog=_START_EPILOG)
def start(
    run_file: Path = typer.Argument(..., help="run.toml"),
    home: Path = _HOME,
    watch: bool = typer.Option(False, "--watch", help="Follow the run to its end."),
    resume: str | None = typer.Option(None, help="Go on with this run from its last checkpoint."),
) -> None:
    """Check the run described in RUN_FILE (run.toml, see docs/run-file.md) against the agreement and submit it."""
    from server.run_spec import load_run_spec

    link = _link(home)
    run_id = link.submit(load_run_spec(run_file), resume)
    typer.echo(f"run {run_id} is {'resumed' if resume else 'submitted'}")
    if watch:
        _follow(home, run_id, run_file)
    else:
        typer.echo(f"follow it: tacit run watch {run_id} --home {home}")


@app.command(epilog=_STATUS_EPILOG)
def status(home: Path = _HOME, as_json: bool = typer.Option(False, "--json", help="Print JSON.")) -> None:
    """List the runs and the connected sites."""
    link = _link(home)
    runs, sites = link.runs(), sorted(link.node_ids())
    if as_json:
        typer.echo(json.dumps({"runs": runs, "connected_sites": sites}, indent=2))
        return
    typer.echo(f"connected sites: {', '.join(sites) or 'none'}")
    if not runs:
        typer.echo("no runs yet")
        return
    table = Table(
        Column("run", min_width=16), "name", "status", "rounds", "accuracy", Column("submitted", no_wrap=True)
    )
    for run in runs:
        accuracy = "" if run["accuracy"] is None else f"{run['accuracy']:.3f}"
        rounds = f"{run['rounds_done']}/{run['rounds']}"
        table.add_row(run["run_id"], run["run_name"], run["status"], rounds, accuracy, _when(run["submitted"]))
    Console().print(table)


@app.command(epilog=_WATCH_EPILOG)
def watch(
    run_id: str | None = typer.Argument(None, help="The run; the newest when left out."), home: Path = _HOME
) -> None:
    """Follow the run RUN_ID, or the newest one, to its end."""
    if run_id is None:
        runs = _link(home).runs()
        if not runs:
            raise ConfigError("there is no run yet", hint="submit one with `tacit run start`")
        run_id = str(runs[-1]["run_id"])
    _follow(home, run_id)


@app.command(epilog=_STOP_EPILOG)
def stop(run_id: str = typer.Argument(..., help="The run to end."), home: Path = _HOME) -> None:
    """End the run RUN_ID; what it spent stays spent."""
    _link(home).stop(run_id)
    typer.echo(f"run {run_id} was stopped")


def _link(home: Path):  # type: ignore[no-untyped-def]
    from server.config import CoordinatorHome
    from server.link import GatewayLink

    return GatewayLink(CoordinatorHome(home).socket, home=home)


def _follow(home: Path, run_id: str, run_file: Path | None = None) -> None:
    """Show the run's events until it ends; a run that failed is an error of this command too."""
    from tacit.cli.progress_view import ProgressView

    last: dict[str, object] = {}
    link = _link(home)
    try:
        with ProgressView(Console()) as view:
            for event in link.watch(run_id):
                view.apply(event)
                last = event
    except KeyboardInterrupt:
        typer.echo(f"the run goes on; follow it again: tacit run watch {run_id} --home {home}")
        raise
    if last.get("status") != "completed":
        raise _ended(last, home, run_id, run_file)
    typer.echo(f"results: {link.run_folder(run_id) / 'out'}")


def _ended(last: Mapping[str, object], home: Path, run_id: str, run_file: Path | None) -> ProcessError:
    """The error of a run whose ``last`` event was no success, with the command that goes on where that can help."""
    hint = str(last.get("hint") or "mend the cause, then resume the run")
    if last.get("can_resume", True):
        hint += f": `tacit run start {run_file or 'RUN.TOML'} --home {home} --resume {run_id}`"
    return ProcessError(
        f"run {run_id} {last.get('status', 'ended')}: {last.get('reason') or 'no reason given'}", hint=hint
    )


def _when(rfc3339: str) -> str:
    """``25 Nov 01:02``, short enough for a narrow terminal; UTC, as recorded."""
    return f"{datetime.fromisoformat(rfc3339):%d %b %H:%M}"
