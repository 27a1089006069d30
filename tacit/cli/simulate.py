"""``tacit simulate``: the same run in one process."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import typer
from rich.console import Console

from tacit.cli.serving import interruptible

app = typer.Typer(add_completion=False, rich_markup_mode=None)

#: how long an interrupted simulation waits for a local step to end
_STOP_S = 15.0
_POLL_S = 0.2

_EPILOG = """
\b
Examples:
  tacit simulate run.toml --out sim
  tacit simulate run.toml --out sim --fresh     replace an earlier simulation

The run file's [simulation] section names a (draft) agreement and each site's data.
"""


@app.command(epilog=_EPILOG)
def simulate(
    run_file: Path = typer.Argument(..., help="run.toml"),
    out: Path = typer.Option(Path("sim"), help="Working folder: keys, ledgers, the run."),
    fresh: bool = typer.Option(False, help="Replace an earlier simulation in that folder."),
) -> None:
    """Simulate the consortium of RUN_FILE (run.toml) in this process: same code, same protocol, no network."""
    from server.run_spec import load_run_spec
    from simulations.section import draft_of, section_of

    spec = load_run_spec(run_file)
    draft_of(section_of(spec))  # before torch is loaded, which takes longest
    from simulations.simulate import prepare
    from tacit.cli.progress_view import ProgressView

    with interruptible(), prepare(spec, out, fresh=fresh) as consortium:
        run_id = consortium.submit()
        failure: list[BaseException] = []

        def carry_out() -> None:
            try:
                consortium.run(run_id)
            except BaseException as error:
                failure.append(error)

        worker = threading.Thread(target=carry_out, name="simulation", daemon=True)
        worker.start()
        try:
            with ProgressView(Console()) as view:
                for event in consortium.coordinator.watch(run_id, 0, follow=True):
                    view.apply(event)
        except KeyboardInterrupt:
            # the sites write down what they had reserved, and refuse to go on
            for agent in consortium.agents.values():
                agent.stop()
            deadline = time.monotonic() + _STOP_S
            while worker.is_alive() and time.monotonic() < deadline:
                # again and again: the next step may be opened in between
                consortium.coordinator.steps.abort_all("the simulation was interrupted")
                worker.join(_POLL_S)
            raise
        worker.join()
        if failure:
            raise failure[0]
        typer.echo(f"results: {consortium.coordinator.run_folder(run_id) / 'out'}")
