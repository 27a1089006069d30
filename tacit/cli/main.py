"""The top of the command line: groups of commands, and the one place where errors become exit codes.

Groups are imported when they are used: ``tacit --help`` must not wait for torch.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from importlib import import_module
from typing import Any

import click
import typer
import typer.core
from typer.core import TyperGroup

import tacit
from tacit.cli.serving import Interrupted
from tacit.errors import TacitError

# Typer escapes the brackets of "[required]" for rich even where rich prints nothing
typer.core.HAS_RICH = False

#: group or command -> (module, attribute, one line of help)
_GROUPS: dict[str, tuple[str, str]] = {
    "demo": ("tacit.cli.demo", "Run a whole consortium on this machine and watch it learn."),
    "pki": ("tacit.cli.pki", "Certificates: consortium CA, coordinator and site identities."),
    "agreement": ("tacit.cli.agreement", "The signed agreement: new, sign, verify, show."),
    "coordinator": ("tacit.cli.coordinator", "The coordinator's gateway: init, serve."),
    "site": ("tacit.cli.site", "A partner's site agent: init, serve, status."),
    "run": ("tacit.cli.run", "Submit and follow runs: start, status, watch, stop."),
    "simulate": ("tacit.cli.simulate", "The same run in one process, no network."),
    "data": ("tacit.cli.data", "Prepare data for experiments: split."),
    "ledger": ("tacit.cli.ledger", "What a site has spent: show, verify, prove, export."),
    "privacy": ("tacit.cli.privacy", "Privacy arithmetic: calibrate, explain."),
    "report": ("tacit.cli.report", "Recompute a run's report from its record."),
}

_EPILOG = """
Examples:

  tacit demo

  tacit pki init --folder ca --consortium acme

  tacit simulate run.toml --out sim

  tacit run start run.toml --home hub --watch
"""


class _Stopped(Exception):
    """A signal ended the command. Not a KeyboardInterrupt, which Typer would turn into a bare 130 without a word."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code


class _LazyGroup(TyperGroup):
    """Loads a group's module when the group is named."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            raise _Stopped(stop.exit_code if isinstance(stop, Interrupted) else 128 + signal.SIGINT) from stop

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_GROUPS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _GROUPS:
            return None
        module = import_module(_GROUPS[cmd_name][0])
        return typer.main.get_command(module.app)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, help_line) for name, (_, help_line) in _GROUPS.items()])


app = typer.Typer(
    name="tacit",
    cls=_LazyGroup,
    help="Private federated fine-tuning: partners learn together and say nothing.",
    epilog=_EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _tell_version(wanted: bool) -> None:
    """As a callback of the option: the root's own body never runs without a command."""
    if wanted:
        typer.echo(f"tacit {tacit.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", "-V", help="Print the version and exit.", is_eager=True, callback=_tell_version
    ),
) -> None:
    pass


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code; TacitErrors become ``error:`` and ``hint:`` lines."""
    _quieten_libraries()
    try:
        result: Any = app(args=arguments, standalone_mode=False, prog_name="tacit")
        return result if isinstance(result, int) else 0
    except TacitError as error:
        tell(error)
        return error.exit_code
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.exceptions.NoArgsIsHelpError as asked:
        typer.echo(asked.format_message())
        return 0
    except click.ClickException as error:
        given = error.ctx if isinstance(error, click.UsageError) else None
        command = given.command_path if given else _command_of(sys.argv[1:] if arguments is None else arguments)
        tell(TacitError(error.format_message(), hint=f"{command} --help shows what it takes"))
        return error.exit_code
    except (_Stopped, KeyboardInterrupt, click.Abort) as stop:
        typer.echo("interrupted", err=True)
        return stop.exit_code if isinstance(stop, _Stopped) else 128 + signal.SIGINT
    except Exception as error:
        # a mistake of ours: the trace is for the log, the person gets one line
        logging.getLogger(__name__).exception("unexpected error")
        typer.echo(f"error: unexpected {type(error).__name__}: {error}", err=True)
        typer.echo("hint: this is a defect of Tacit; the log, or TACIT_TRACEBACK=1, has the trace", err=True)
        if os.environ.get("TACIT_TRACEBACK"):
            raise
        return 1


def _command_of(arguments: list[str]) -> str:
    """The command that ``arguments`` name, for an error that click raises without saying where it was."""
    command: click.Command = typer.main.get_command(app)
    path = "tacit"
    for word in arguments:
        found = command.get_command(click.Context(command), word) if isinstance(command, click.Group) else None
        if found is None:
            break
        command, path = found, f"{path} {word}"
    return path


def _quieten_libraries() -> None:
    """Leave standard error to ``error:`` and ``hint:``; what libraries have to say belongs into a log."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    logging.getLogger("flwr").setLevel(logging.WARNING)
    logging.captureWarnings(True)
    # without any handler, logging itself prints warnings and traces, and Opacus installs one that does
    if not logging.getLogger().handlers:
        logging.getLogger().addHandler(logging.NullHandler())
    # a log that cannot be written, on a full disk, must not bury the error that says so
    logging.raiseExceptions = False


def tell(error: TacitError) -> None:
    """Print an error the way every command does."""
    typer.echo(f"error: {error.message}", err=True)
    if error.hint:
        typer.echo(f"hint: {error.hint}", err=True)


def run() -> None:
    """Entry point of the console script."""
    sys.exit(main())
