"""A run as it happens: a live view on a terminal, one line an event anywhere else.

What is known of the run is :class:`ProgressState`, pure and fed by run events; :mod:`tacit.cli.progress_panel` draws
it. Both take events as they come over the wire: an event or a field that is not known is left alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.live import Live

from tacit.cli.progress_panel import draw, line_for, visible

_MESSAGES_KEPT = 4
_REFRESHES_PER_S = 8
#: rounds whose mean length predicts the next ones
_RECENT_ROUNDS = 5


@dataclass
class SiteState:
    """One site, as far as the coordinator can see it."""

    name: str
    phase: str = ""
    #: of this run, by the site's last receipt
    epsilon: float = 0.0
    bytes_sent: int = 0


@dataclass
class ProgressState:
    """What the events so far tell. :meth:`apply` takes the next one."""

    run_id: str = ""
    run_name: str = ""
    mode: str = ""
    #: what epsilons are for one of
    unit: str = ""
    #: planned for the whole run
    epsilon_by_adversary: dict[str, float] = field(default_factory=dict)
    strategy: str = ""
    testing: bool = False
    budget_epsilon: float = 0.0
    delta: float = 0.0
    rounds: int = 0
    rounds_done: int = 0
    round: int = 0
    step: int = 0
    waiting_for: tuple[str, ...] = ()
    sites: dict[str, SiteState] = field(default_factory=dict)
    #: (round, accuracy) on the public test set
    accuracies: list[tuple[int, float]] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)
    #: completed, failed or stopped; empty while the run goes on
    status: str = ""
    reason: str = ""
    round_seconds: list[float] = field(default_factory=list)
    #: the first and the latest event's own time, and the clock's reading when the latest was seen
    first_event: datetime | None = None
    latest_event: datetime | None = None
    seen_at_s: float = 0.0

    def apply(self, event: Mapping[str, Any], now_s: float = 0.0) -> None:
        """Take in one event, seen at ``now_s`` on any monotonic clock."""
        self._note_time(event, now_s)
        handler: Callable[[Mapping[str, Any]], None] | None = {
            "run-submitted": self._submitted,
            "run-resumed": self._resumed,
            "sites-waiting": self._waiting,
            "evaluated": self._evaluated,
            "round-started": self._round_started,
            "site-phase": self._site_phase,
            "site-receipt": self._site_receipt,
            "ledger-refused": self._ledger_refused,
            "round-finished": self._round_finished,
            "round-burnt": self._round_burnt,
            "run-finished": self._run_finished,
        }.get(str(event.get("event")))
        if handler is not None:
            handler(event)

    def remaining_s(self) -> float | None:
        """Return how long the rest will take if it goes on like the latest rounds; None before there is one."""
        if not self.round_seconds or self.status:
            return None
        recent = self.round_seconds[-_RECENT_ROUNDS:]
        return sum(recent) / len(recent) * max(self.rounds - self.rounds_done, 0)

    def elapsed_s(self, now_s: float) -> float:
        """Return how long the run has gone on by its events' times; the clock only adds what came after the latest."""
        if self.first_event is None or self.latest_event is None:
            return 0.0
        between = (self.latest_event - self.first_event).total_seconds()
        return between if self.status else between + max(0.0, now_s - self.seen_at_s)

    def _note_time(self, event: Mapping[str, Any], now_s: float) -> None:
        self.seen_at_s = now_s
        try:
            moment = datetime.fromisoformat(str(event.get("time")))
        except ValueError:
            return
        if moment.tzinfo is not None:
            self.first_event = self.first_event or moment
            self.latest_event = moment

    def _submitted(self, event: Mapping[str, Any]) -> None:
        budget = event.get("budget", {})
        self.run_id = str(event.get("run_id", ""))
        self.run_name = visible(str(event.get("run_name", "")))
        self.mode = str(event.get("mode", ""))
        self.unit = visible(str(event.get("unit", "")))
        planned = event.get("epsilon_by_adversary", {})
        self.epsilon_by_adversary = {visible(str(name)): float(value) for name, value in planned.items()}
        self.strategy = str(event.get("strategy", ""))
        self.testing = bool(event.get("testing", False))
        self.budget_epsilon = float(budget.get("epsilon", 0.0))
        self.delta = float(budget.get("delta", 0.0))
        self.rounds = int(event.get("rounds", 0))
        self.sites = {name: SiteState(name) for name in event.get("sites", ())}

    def _resumed(self, _: Mapping[str, Any]) -> None:
        self.status = self.reason = ""
        self._say("the run goes on from its last checkpoint")

    def _waiting(self, event: Mapping[str, Any]) -> None:
        self.waiting_for = tuple(event.get("missing", ()))

    def _evaluated(self, event: Mapping[str, Any]) -> None:
        number, accuracy = int(event["round"]), float(event["accuracy"])
        self.accuracies = [pair for pair in self.accuracies if pair[0] != number]
        self.accuracies.append((number, accuracy))

    def _round_started(self, event: Mapping[str, Any]) -> None:
        self.waiting_for = ()
        self.round, self.step = int(event["round"]), int(event["step"])
        for site in self.sites.values():
            site.phase = "ordered"

    def _site_phase(self, event: Mapping[str, Any]) -> None:
        site, phase = self._site(event), visible(str(event.get("phase", "")))
        # a refusal or failure is the last word; the connection that ends after it says nothing new
        if not (phase in ("lost", "left") and site.phase in ("refused", "failed", "done")):
            site.phase = phase
        if phase in ("failed", "lost") and site.phase == phase:
            self._say(_told(f"{site.name} {phase}", event.get("message")))

    def _site_receipt(self, event: Mapping[str, Any]) -> None:
        site, receipt = self._site(event), event.get("receipt", {})
        outcome = receipt.get("outcome", {})
        status = str(outcome.get("status", ""))
        site.phase = {"completed": "done"}.get(status, status)
        site.epsilon = float(receipt.get("epsilon_run", site.epsilon))
        site.bytes_sent += int(receipt.get("bytes_sent", 0))
        if status != "completed":
            reason = outcome.get("reason", "")
            self._say(_told(f"{site.name} {status}" + (f" ({reason})" if reason else ""), outcome.get("message")))

    def _ledger_refused(self, event: Mapping[str, Any]) -> None:
        self._say(_told(f"the ledger of {event.get('site')} is refused", event.get("reason")))

    def _round_finished(self, event: Mapping[str, Any]) -> None:
        self.rounds_done = max(self.rounds_done, int(event["round"]))
        self.round_seconds.append(float(event.get("seconds", 0.0)))
        if event.get("dropped"):
            self._say(f"round {event['round']} went on without {', '.join(event['dropped'])}")

    def _round_burnt(self, event: Mapping[str, Any]) -> None:
        self._say(_told(f"round {event['round']} ended without a sum", event.get("reason")))

    def _run_finished(self, event: Mapping[str, Any]) -> None:
        self.status, self.reason = str(event.get("status", "")), visible(str(event.get("reason", "")))

    def _site(self, event: Mapping[str, Any]) -> SiteState:
        name = visible(str(event.get("site", "")))
        return self.sites.setdefault(name, SiteState(name))

    def _say(self, message: str) -> None:
        self.messages = [*self.messages, visible(message)][-_MESSAGES_KEPT:]


class ProgressView:
    """Shows a run on ``console``; use as a context manager and feed it with :meth:`apply`.

    On a terminal the view is redrawn in place. Elsewhere (a log, a pipe) each event that tells something is a line.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self.state = ProgressState()
        self._console = console
        self._clock = clock
        self._live: Live | None = None

    def __enter__(self) -> ProgressView:
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            self._live = Live(
                console=self._console,
                get_renderable=lambda: draw(self.state, self._console.width, self._clock()),
                refresh_per_second=_REFRESHES_PER_S,
                # the last frame stays, whole, even where it is taller than the window
                vertical_overflow="visible",
            )
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.refresh()
            self._live.stop()
            self._live = None

    def apply(self, event: Mapping[str, Any]) -> None:
        """Take in one run event and show it."""
        self.state.apply(event, self._clock())
        if self._live is None:
            line = line_for(event, self.state)
            if line:
                self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def _told(what: str, why: object) -> str:
    return f"{what}: {why}" if why else what
