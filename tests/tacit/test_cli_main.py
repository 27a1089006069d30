"""The top of the command line: version, help without a word, and where an error sends its reader."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module

import click
import pytest
import typer

import tacit
from tacit.cli.main import _GROUPS, app, main


@pytest.mark.parametrize("option", ["--version", "-V"])
def test_the_version(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([option]) == 0
    assert capsys.readouterr() == (f"tacit {tacit.__version__}\n", "")


@pytest.mark.parametrize("group", [(), ("pki",), ("ledger",)])
def test_a_group_without_a_command_prints_its_help(group: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(list(group)) == 0
    bare = capsys.readouterr()
    assert main([*group, "--help"]) == 0
    assert bare == (capsys.readouterr().out, "")


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (["run", "start", "--home"], "tacit run start"),
        (["report", "--nonsense"], "tacit report"),
        (["privacy", "--nonsense"], "tacit privacy"),
        (["--nonsense"], "tacit"),
        (["nonsense", "start"], "tacit"),
    ],
)
def test_a_wrong_option_leads_to_the_help_of_its_command(
    arguments: list[str], command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert (out, err.splitlines()[-1]) == ("", f"hint: {command} --help shows what it takes")


@pytest.mark.parametrize("name", ["agreement", "coordinator", "site", "run", "data", "ledger", "privacy"])
def test_a_group_is_listed_with_all_its_commands(name: str) -> None:
    module, told = _GROUPS[name]
    group = typer.main.get_command(import_module(module).app)
    assert isinstance(group, click.Group)
    assert set(told.rstrip(".").partition(": ")[2].split(", ")) == set(group.commands)


def _examples() -> Iterator[tuple[str, str]]:
    """Each command's help as printed on 80 columns, from its examples on."""
    root = click.Context(typer.main.get_command(app), info_name="tacit", terminal_width=80)
    for name in _GROUPS:
        command = typer.main.get_command(import_module(_GROUPS[name][0]).app)
        if not isinstance(command, click.Group):
            yield name, command.get_help(click.Context(command, root, name, terminal_width=80))
            continue
        for each, below in command.commands.items():
            yield f"{name} {each}", below.get_help(click.Context(below, root, f"{name} {each}", terminal_width=80))


def test_examples_are_printed_as_they_can_be_pasted() -> None:
    """On 80 columns, one line each or continued by a backslash at the end of a line and nowhere else."""
    for command, page in _examples():
        examples = page.split("  Examples:\n")[1]
        assert f"tacit {command}" in examples, command
        assert max(map(len, examples.splitlines())) <= 80, (command, examples)
        lines = [line for line in examples.splitlines() if "\\" in line]
        assert all(line.endswith(" \\") and line.count("\\") == 1 for line in lines), (command, lines)
