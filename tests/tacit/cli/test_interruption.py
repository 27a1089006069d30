"""Signals: which commands they end, with which exit code, and what stays as it was."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from simulations.local_consortium import LocalConsortium
from tacit.cli.serving import Interrupted, StopSignal, interruptible

Edit = Callable[[Path, str, str], None]
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def _hangup_is_not_ignored() -> Iterator[None]:
    """Whoever runs the tests under nohup has them inherit an ignored SIGHUP."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", SIGNALS)
def test_an_interruptible_command_ends_as_a_shell_expects(
    tacit: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    cleaned = []

    def work() -> None:
        with interruptible():
            try:
                send(number)
            finally:
                send(number)  # pressed again while stopping goes on
                cleaned.append(True)

    monkeypatch.setattr("tacit.cli.pki.ConsortiumAuthority.create", lambda *_: work())
    before = [signal.getsignal(each) for each in SIGNALS]
    answer = tacit("pki", "init", "--folder", "ca", "--consortium", "acme")
    assert (answer.code, answer.err) == (128 + number, "interrupted\n")
    assert cleaned == [True]
    assert [signal.getsignal(each) for each in SIGNALS] == before


@pytest.mark.parametrize("number", SIGNALS)
def test_a_stop_signal_asks_and_does_not_interrupt(number: int) -> None:
    before = [signal.getsignal(each) for each in SIGNALS]
    with StopSignal() as stop:
        assert not stop.asked()
        send(number)
        send(number)
        assert stop.wait(1.0)
    assert [signal.getsignal(each) for each in SIGNALS] == before


def test_under_nohup_a_hangup_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interruptible():
            send(signal.SIGHUP)
        with StopSignal() as stop:
            send(signal.SIGHUP)
            assert not stop.asked()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_an_interruption_cannot_be_mistaken_for_an_error() -> None:
    assert issubclass(Interrupted, KeyboardInterrupt)
    assert not issubclass(Interrupted, Exception)


def test_a_defect_is_one_line_without_a_trace(tacit: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.delenv("TACIT_TRACEBACK", raising=False)
    monkeypatch.setattr("tacit.cli.pki.ConsortiumAuthority.create", broken)
    root = logging.getLogger()
    handlers, root.handlers = root.handlers, []  # as in a process of its own: nobody has set up a log
    try:
        tacit("pki", "init", "--folder", "ca", "--consortium", "acme").fails(1, "unexpected ZeroDivisionError")
    finally:
        root.handlers = handlers


@pytest.mark.processes
def test_ctrl_c_ends_a_simulation_and_keeps_its_account(
    launch: Callable[..., Any], tacit: Callable[..., Any], made: LocalConsortium, tmp_path: Path, edit: Edit
) -> None:
    run_file = Path(shutil.copy(made.run_file, made.folder / "long.toml"))
    edit(run_file, "local_steps = 2", "local_steps = 3000")
    edit(run_file, "sample_rate = 0.2", "sample_rate = 0.01")
    edit(run_file, "noise_multiplier = 1.0", "noise_multiplier = 2.0")
    out = tmp_path / "sim"
    running = launch("simulate", run_file, "--out", out)
    events = lambda: "".join(path.read_text() for path in out.glob("runs/*/events.jsonl"))  # noqa: E731
    running.until(lambda: events().count('"phase": "training"') == 3, "all sites training")
    running.signal(signal.SIGINT)
    assert running.ends() == 130
    assert running.err == "interrupted\n"
    for site in ("alpha", "beta", "gamma"):
        shown = json.loads(tacit("ledger", "show", out / "sites" / site / "ledger.sqlite", "--json").out)
        assert shown["open_reservations"] == []
        assert (shown["entries"]["reserve"], shown["entries"]["forfeit"]) == (1, 1)
