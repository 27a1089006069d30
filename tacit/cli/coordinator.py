"""``tacit coordinator``: the gateway and Flower's SuperLink."""

from __future__ import annotations

from pathlib import Path

import typer

from tacit import logs
from tacit.cli.homes import check_credentials, new_home
from tacit.cli.serving import StopSignal
from tacit.validation import validated

app = typer.Typer(help="The coordinator's gateway.", no_args_is_help=True, add_completion=False, rich_markup_mode=None)

_INIT_EPILOG = """
\b
Examples:
  tacit coordinator init --home hub --pki issued/hub \\
      --agreement agreement.yaml
  tacit coordinator init --home hub --pki issued/hub \\
      --agreement agreement.yaml --listen 0.0.0.0:9400
"""

_SERVE_EPILOG = """
\b
Examples:
  tacit coordinator serve --home hub
"""


@app.command(epilog=_INIT_EPILOG)
def init(
    home: Path = typer.Option(..., help="Folder to make."),
    pki: Path = typer.Option(..., help="Folder of `tacit pki issue --role coordinator`."),
    agreement: Path = typer.Option(..., help="The signed agreement."),
    listen: str = typer.Option("127.0.0.1:9400", help="Address and port the partners reach."),
    superlink_port: int = typer.Option(0, help="Loopback port of Flower's SuperLink; 0 picks a free one."),
) -> None:
    """Make a coordinator's folder from its certificates and the signed agreement."""
    from certs.names import Role
    from server.config import CoordinatorHome, CoordinatorSettings

    check_credentials(pki, agreement, Role.COORDINATOR)
    values = {"listen": listen, "superlink_port": superlink_port}
    settings = validated(CoordinatorSettings, values, source="the options given")
    with new_home(home, pki, agreement) as made:
        CoordinatorHome.create(made, settings)
    typer.echo(f"made {home}; next: tacit coordinator serve --home {home}")


@app.command(epilog=_SERVE_EPILOG)
def serve(home: Path = typer.Option(..., help="The coordinator's folder.")) -> None:
    """Serve partners until stopped (SIGTERM or Ctrl-C)."""
    from server.config import CoordinatorHome
    from server.gateway import Gateway

    place = CoordinatorHome(home)
    logs.configure(place.logs / "gateway.jsonl", "gateway")
    with StopSignal() as stop:
        gateway = Gateway(place)
        try:
            gateway.start()
            typer.echo(f"gateway ready on {place.settings.listen}")
            while not stop.wait(0.5):
                gateway.check_children()
        finally:
            gateway.stop()
    typer.echo("gateway stopped")
