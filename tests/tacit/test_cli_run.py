"""``tacit run``: what it says of a run that ended badly, and its list of runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import tacit.cli.run as cli
from tacit.cli import main
from tacit.errors import ProcessError

RUN = "00112233445566aa"


class Link:
    """A gateway with these runs and these events."""

    def __init__(self, *events: dict[str, Any], runs: tuple[dict[str, Any], ...] = ()) -> None:
        self._events, self._runs = events, runs

    def watch(self, run_id: str) -> Any:
        yield from self._events

    def runs(self) -> list[dict[str, Any]]:
        return list(self._runs)

    def node_ids(self) -> dict[str, int]:
        return {"alpha": 1}


def hint_after(monkeypatch: pytest.MonkeyPatch, run_file: Path | None = None, **end: Any) -> str:
    last = {
        "event": "run-finished",
        "time": "2026-03-05T09:30:00.000+00:00",
        "status": "failed",
        "reason": "why",
        **end,
    }
    monkeypatch.setattr(cli, "_link", lambda home: Link(last))
    with pytest.raises(ProcessError, match=f"run {RUN} failed: why") as failed:
        cli._follow(Path("hub"), RUN, run_file)
    return str(failed.value.hint)


def test_a_run_that_failed_says_the_whole_command_that_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a gateway of an earlier version, and by this one."""
    assert hint_after(monkeypatch) == (
        f"mend the cause, then resume the run: `tacit run start RUN.TOML --home hub --resume {RUN}`"
    )
    assert hint_after(monkeypatch, Path("r.toml"), hint="start alpha, then resume the run", can_resume=True) == (
        f"start alpha, then resume the run: `tacit run start r.toml --home hub --resume {RUN}`"
    )


def test_a_run_that_cannot_go_on_is_not_to_be_resumed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert hint_after(monkeypatch, hint="agree on a larger budget", can_resume=False) == "agree on a larger budget"


def test_no_runs_are_said_in_words(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(cli, "_link", lambda home: Link())
    assert main(["run", "status", "--home", "hub"]) == 0
    assert capsys.readouterr().out == "connected sites: alpha\nno runs yet\n"


def test_the_list_of_runs_fits_a_terminal_of_80_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = {
        "run_id": RUN,
        "run_name": "banking77",
        "status": "completed",
        "rounds_done": 20,
        "rounds": 20,
        "accuracy": 0.8881,
        "submitted": "2026-11-25T01:02:03.004+00:00",
    }
    monkeypatch.setattr(cli, "_link", lambda home: Link(runs=(run,)))
    monkeypatch.setattr(cli, "Console", lambda: Console(width=80))
    assert main(["run", "status", "--home", "hub"]) == 0
    printed = capsys.readouterr().out
    assert "25 Nov 01:02" in printed
    assert "…" not in printed
    for told in (RUN, "banking77", "completed", "20/20", "0.888"):
        assert told in printed
