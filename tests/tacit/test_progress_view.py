"""The live view: what the state knows after each event, what a log gets, what a terminal of any width shows."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any

import pytest
from rich.console import Console

from tacit.cli.progress_panel import bar, draw, line_for, sparkline, visible
from tacit.cli.progress_view import ProgressState, ProgressView

SITES = ("alpha", "beta", "gamma")


def submitted(**changes: Any) -> dict[str, Any]:
    return {
        "seq": 1,
        "time": "2026-03-05T09:30:00.000+00:00",
        "event": "run-submitted",
        "run_id": "00112233445566aa",
        "run_name": "intents",
        "rounds": 4,
        "sites": list(SITES),
        "mode": "local",
        "strategy": "fedavg",
        "budget": {"epsilon": 8.0, "delta": 1e-5},
        "testing": False,
        **changes,
    }


def event(kind: str, second: int = 1, **fields: Any) -> dict[str, Any]:
    return {"seq": 2, "time": f"2026-03-05T09:30:{second:02d}.000+00:00", "event": kind, **fields}


def receipt(
    site: str, status: str = "completed", epsilon: float = 2.0, reason: str = "", message: str = ""
) -> dict[str, Any]:
    outcome = {"status": status, "reason": reason, "message": message}
    return event(
        "site-receipt",
        round=1,
        step=1,
        site=site,
        receipt={"outcome": outcome, "epsilon_run": epsilon, "bytes_sent": 609_000},
    )


def finished(number: int, seconds: float = 6.0, dropped: Iterable[str] = ()) -> dict[str, Any]:
    survivors = [site for site in SITES if site not in dropped]
    return event(
        "round-finished", round=number, step=number, survivors=survivors, dropped=list(dropped), seconds=seconds
    )


def state_after(*events: dict[str, Any]) -> ProgressState:
    state = ProgressState()
    for item in events:
        state.apply(item, 100.0)
    return state


def shown(state: ProgressState, width: int, now_s: float = 100.0) -> str:
    stream = io.StringIO()
    console = Console(file=stream, width=width, force_terminal=True, color_system=None)
    console.print(draw(state, width, now_s))
    return stream.getvalue()


def test_a_run_from_submission_to_end() -> None:
    state = state_after(submitted())
    assert (state.run_name, state.rounds, state.budget_epsilon, state.delta) == ("intents", 4, 8.0, 1e-5)
    assert list(state.sites) == list(SITES)

    state.apply(event("sites-waiting", present=["alpha"], missing=["beta", "gamma"]))
    assert state.waiting_for == ("beta", "gamma")
    state.apply(event("round-started", round=1, step=1))
    assert state.waiting_for == ()
    assert {site.phase for site in state.sites.values()} == {"ordered"}

    state.apply(event("site-phase", round=1, step=1, site="beta", phase="training"))
    assert [site.phase for site in state.sites.values()] == ["ordered", "training", "ordered"]
    state.apply(receipt("beta"))
    assert (state.sites["beta"].phase, state.sites["beta"].epsilon, state.sites["beta"].bytes_sent) == (
        "done",
        2.0,
        609_000,
    )
    state.apply(finished(1))
    state.apply(event("evaluated", round=1, accuracy=0.5, examples=600))
    assert (state.rounds_done, state.accuracies) == (1, [(1, 0.5)])
    state.apply(event("run-finished", status="completed", reason=""))
    assert state.status == "completed"


def test_what_the_epsilons_are_for_is_shown_with_one_for_each_adversary() -> None:
    planned = {"coordinator": 1.02, "coordinator+c sites": 1.2341, "site": 1.1, "public": 1.02}
    told = submitted(mode="site", unit="site", epsilon_by_adversary=planned)
    state = state_after(told)
    assert (state.mode, state.unit, state.epsilon_by_adversary) == ("site", "site", planned)
    line = line_for(told, state)
    assert "mode site, budget epsilon 8 at delta 1e-05 for one site; planned: epsilon 1.020 against coordinator" in line
    # an upper bound is rounded up
    assert "1.235 against coordinator+c sites" in line
    page = shown(state, 110)
    assert "planned for one site: ε 1.020 against coordinator, 1.235 against coordinator+c sites" in page
    earlier = state_after(submitted())
    assert "planned" not in line_for(submitted(), earlier) + shown(earlier, 110)


def test_the_rest_is_foretold_from_the_latest_rounds() -> None:
    state = state_after(submitted(rounds=12))
    assert state.remaining_s() is None
    for number, seconds in enumerate((90, 1, 1, 1, 1, 1), start=1):
        state.apply(finished(number, seconds))
    assert state.remaining_s() == pytest.approx(6.0)
    state.apply(event("run-finished", status="stopped", reason=""))
    assert state.remaining_s() is None


def test_time_passes_by_the_events_and_only_the_last_stretch_by_the_clock() -> None:
    state = ProgressState()
    state.apply(submitted(), 100.0)
    state.apply(event("round-started", second=40, round=1, step=1), 100.5)
    assert state.elapsed_s(103.5) == pytest.approx(43.0)
    state.apply(event("run-finished", second=50, status="completed"), 104.0)
    assert state.elapsed_s(9999.0) == pytest.approx(50.0)
    assert ProgressState().elapsed_s(5.0) == 0.0


def test_faults_become_messages_and_the_latest_four_stay() -> None:
    state = state_after(
        submitted(),
        receipt("alpha", "refused", reason="budget", message="the run would cost 9"),
        event("site-phase", round=1, step=1, site="beta", phase="failed", message="a bad share"),
        event("site-phase", round=1, step=1, site="gamma", phase="lost"),
        event("round-burnt", round=1, step=1, reason="1 of 3 sites left"),
        finished(1, dropped=["gamma"]),
    )
    assert state.messages == [
        "beta failed: a bad share",
        "gamma lost",
        "round 1 ended without a sum: 1 of 3 sites left",
        "round 1 went on without gamma",
    ]
    assert state.sites["alpha"].phase == "refused"


def test_a_ledger_that_was_rolled_back_is_told_in_a_log_too() -> None:
    told = event("ledger-refused", round=2, step=2, site="beta", reason="the ledger was rolled back\x1b[2J", hint="x")
    state = state_after(submitted(), told)
    line = "09:30:01 round 2: ALARM: the ledger of beta is refused: the ledger was rolled back\ufffd[2J"
    assert line_for(told, state) == line
    assert state.messages == ["the ledger of beta is refused: the ledger was rolled back\ufffd[2J"]


def test_a_site_that_leaves_is_told_by_its_receipt_alone() -> None:
    left = event("site-phase", round=1, step=1, site="alpha", phase="left")
    state = state_after(submitted(), left)
    assert (state.sites["alpha"].phase, state.messages, line_for(left, state)) == ("left", [], "")
    assert "✗ left" in shown(state, 80)
    state.apply(receipt("alpha", "refused", reason="budget", message="too much"))
    state.apply(left)
    assert (state.sites["alpha"].phase, state.messages) == ("refused", ["alpha refused (budget): too much"])


def test_a_connection_that_ends_after_the_last_word_changes_nothing() -> None:
    for last in ("refused", "failed", "completed"):
        state = state_after(
            submitted(), receipt("alpha", last), event("site-phase", round=1, step=1, site="alpha", phase="lost")
        )
        assert state.sites["alpha"].phase == {"completed": "done"}.get(last, last)
        assert not any("lost" in message for message in state.messages)


def test_a_resumed_run_goes_on_and_evaluates_a_round_again_without_a_second_point() -> None:
    state = state_after(
        submitted(),
        event("evaluated", round=1, accuracy=0.5, examples=9),
        event("run-finished", status="failed", reason="a fault"),
        event("run-resumed"),
        event("evaluated", round=1, accuracy=0.5, examples=9),
    )
    assert (state.status, state.accuracies) == ("", [(1, 0.5)])
    assert state.messages == ["the run goes on from its last checkpoint"]


def test_events_and_fields_nobody_knows_are_left_alone() -> None:
    state = state_after(submitted(), {"event": "site-sighed"}, {"no": "event"})
    assert state.run_name == "intents"
    assert "? pondering" in shown(
        state_after(submitted(), event("site-phase", round=1, step=1, site="alpha", phase="pondering")), 80
    )


@pytest.mark.parametrize("width", [40, 60, 80, 140])
def test_the_view_fits_and_shows_what_counts(width: int) -> None:
    state = state_after(
        submitted(),
        event("evaluated", round=0, accuracy=0.1, examples=9),
        receipt("alpha", epsilon=2.5),
        event("site-phase", round=1, step=1, site="beta", phase="training"),
        finished(1),
        event("evaluated", round=1, accuracy=0.55, examples=9),
    )
    text = shown(state, width)
    assert max(len(line) for line in text.splitlines()) <= width
    assert "1 of 4 rounds" in text
    if width >= 80:
        for wanted in ("intents", "✓ done", "◐ training", "ε 2.50 / 8", "609 kB", "0.550", "from 0.100", "0:18 to go"):
            assert wanted in text, wanted
        assert "…" not in text


def test_a_long_site_name_is_cut_and_not_the_figures() -> None:
    name = "a-partner-with-a-very-long-name-indeed"
    text = shown(state_after(submitted(sites=[name, "b"]), receipt(name, epsilon=7.7601)), 80)
    assert "a-partner-with-a-ve…" in text
    assert "ε 7.77 / 8" in text


def test_test_noise_is_told_loudly() -> None:
    assert "TEST NOISE: NO PRIVACY" in shown(state_after(submitted(testing=True)), 80)
    assert "TEST NOISE: NO PRIVACY" in line_for(submitted(testing=True), state_after(submitted(testing=True)))
    assert "TEST NOISE" not in shown(state_after(submitted()), 80)


def test_the_end_of_a_failed_run_says_why() -> None:
    text = shown(state_after(submitted(), event("run-finished", status="failed", reason="disk full")), 80)
    assert "✗" in text
    assert "failed: disk full" in text


def test_before_the_first_event_there_is_something_to_see() -> None:
    assert "starting" in shown(ProgressState(), 80)


def test_a_log_gets_one_line_for_each_event_that_tells_something() -> None:
    stream = io.StringIO()
    with ProgressView(Console(file=stream, width=40), clock=lambda: 0.0) as view:
        for item in (
            submitted(),
            event("sites-waiting", present=[], missing=["beta"]),
            event("round-started", 2, round=1, step=1),
            event("site-phase", 3, round=1, step=1, site="alpha", phase="training"),
            event("site-phase", 3, round=1, step=1, site="beta", phase="failed", message="a bad [bold]share[/]"),
            receipt("alpha", epsilon=2.0001),
            receipt("gamma", "refused", reason="budget", message="too much"),
            event("round-burnt", 4, round=1, step=1, reason="too few"),
            finished(1, 6.04, dropped=["gamma"]),
            event("checkpoint", round=1, path="x"),
            event("evaluated", 5, round=1, accuracy=0.5, examples=9),
            event("run-resumed", 6),
            event("run-finished", 7, status="failed", reason="disk full"),
        ):
            view.apply(item)
    assert stream.getvalue().splitlines() == [
        "09:30:00 run intents (00112233445566aa): 4 rounds, 3 sites, mode local, budget epsilon 8 at delta 1e-05",
        "09:30:01 waiting for beta",
        "09:30:02 round 1/4: orders sent (step 1)",
        "09:30:03 round 1: beta failed: a bad [bold]share[/]",
        "09:30:01 round 1: alpha done, epsilon 2.001 of 8, 609 kB sent",
        "09:30:01 round 1: gamma refused (budget): too much",
        "09:30:04 round 1: ended without a sum: too few",
        "09:30:01 round 1/4: summed over 2 sites, without gamma, 6.0 s, about 0:18 to go",
        "09:30:05 round 1: accuracy 0.500",
        "09:30:06 the run goes on from its last checkpoint",
        "09:30:07 run failed after 1 of 4 rounds: disk full",
    ]


def test_a_terminal_gets_the_panel_and_its_last_state_stays() -> None:
    stream = io.StringIO()
    console = Console(file=stream, width=90, force_terminal=True, color_system=None, legacy_windows=False)
    with ProgressView(console) as view:
        view.apply(submitted())
        view.apply(event("run-finished", status="completed"))
    last = stream.getvalue().rsplit("╭", 1)[-1]
    assert "✓ 0 of 4 rounds" in last
    assert "orders sent" not in stream.getvalue()


def test_a_peers_message_does_not_steer_the_terminal() -> None:
    nasty = "\x1b[2J\x07\r\nall is well\u202e"
    state = state_after(
        submitted(),
        receipt("alpha", "failed", reason="X", message=nasty),
        event("round-burnt", round=1, step=1, reason=nasty),
        event("run-finished", status="failed", reason=nasty),
    )
    text = shown(state, 120)
    assert not any(character in text for character in "\x1b\x07\r\u202e")
    assert "all is well" in text
    line = line_for(receipt("alpha", "failed", message=nasty), state)
    assert line == visible(line)
    assert "\n" not in line


def test_sparklines_and_bars() -> None:
    assert sparkline([0.0, 0.5, 1.0], 10) == "▁▅█"
    assert sparkline([], 10) == sparkline([0.5], 0) == ""
    assert sparkline([-3.0, 9.0], 5) == "▁█"
    long = sparkline([index / 99 for index in range(100)], 20)
    assert len(long) == 20
    assert (long[0], long[-1]) == ("▁", "█")
    assert list(long) == sorted(long)
    assert bar(0.5, 10).plain == "━" * 5 + "─" * 5
    assert bar(0.25, 10).plain == "━━╸" + "─" * 7
    assert bar(0.0, 4).plain == "────"
    assert bar(1.0, 4).plain == bar(1.2, 4).plain == "━━━━"
    assert str(bar(1.2, 4).style) == "bold red"
