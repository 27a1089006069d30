"""How a run's progress looks: a panel for a terminal, a line for a log. Pure functions of the state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from tacit.figures import epsilon_text

if TYPE_CHECKING:
    from tacit.cli.progress_view import ProgressState, SiteState

_MAX_WIDTH = 110
_NAME_WIDTH = 20
_PHASE_WIDTH = 13
#: borders, gaps and every column of the sites' table but the name and the bar
_FIXED_WIDTH = 6 + 6 + _PHASE_WIDTH + 14 + 8
_SPARKS = "▁▂▃▄▅▆▇█"
_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_SPINS_PER_S = 8

#: phase -> (glyph, words, style). The glyph alone must tell what the colour tells.
_PHASES: dict[str, tuple[str, str, str]] = {
    "": ("·", "waiting", "dim"),
    "ordered": ("·", "ordered", "dim"),
    "waiting": ("·", "waiting", "dim"),
    "gate": ("⊢", "at the gate", "yellow"),
    "joined": ("⇄", "keys agreed", "cyan"),
    "training": ("◐", "training", "cyan"),
    "offered": ("↑", "uploading", "cyan"),
    "uploading": ("↑", "uploading", "cyan"),
    "uploaded": ("▲", "uploaded", "cyan"),
    "locked": ("▣", "locked", "cyan"),
    "revealed": ("◉", "revealed", "cyan"),
    "done": ("✓", "done", "green"),
    "refused": ("⊘", "refused", "bold red"),
    "failed": ("✗", "failed", "bold red"),
    "lost": ("✗", "lost", "bold red"),
    "left": ("✗", "left", "dim"),
}


def draw(state: ProgressState, width: int, now_s: float) -> RenderableType:
    """Draw the whole view, at most ``width`` columns wide."""
    width = min(width, _MAX_WIDTH)
    parts: list[RenderableType] = [_overall(state, width, now_s), Text(), _sites(state, width)]
    if state.epsilon_by_adversary:
        parts.extend([Text(), Text(f"planned for one {state.unit}: {_planned(state, 'ε')}", style="dim")])
    if state.accuracies:
        parts.extend([Text(), _accuracy(state, width)])
    if state.messages:
        parts.append(Text())
        parts.extend(Text(f"! {message}", style="yellow") for message in state.messages)
    if state.status and state.status != "completed":
        parts.extend([Text(), Text(f"{state.status}: {state.reason or 'no reason given'}", style="bold red")])
    return Panel(
        Group(*parts),
        title=_title(state),
        title_align="left",
        subtitle=Text(" TEST NOISE: NO PRIVACY ", style="bold white on red") if state.testing else None,
        box=box.ROUNDED,
        border_style={"completed": "green", "failed": "red", "stopped": "red"}.get(state.status, "cyan"),
        padding=(1, 2),
        width=width,
    )


def line_for(event: Mapping[str, Any], state: ProgressState) -> str:
    """Return one line for a log, or nothing for an event that tells a reader nothing.

    Args:
        event: what happened.
        state: with that event taken in.
    """
    kind = event.get("event")
    time_ = str(event.get("time", ""))[11:19]
    told = ""
    if kind == "run-submitted":
        told = (
            f"run {state.run_name} ({state.run_id}): {state.rounds} rounds, {len(state.sites)} sites, "
            f"mode {state.mode}, budget epsilon {state.budget_epsilon:g} at delta {state.delta:g}"
            + (f" for one {state.unit}" if state.unit else "")
            + (f"; planned: {_planned(state, 'epsilon')}" if state.epsilon_by_adversary else "")
            + (" - TEST NOISE: NO PRIVACY" if state.testing else "")
        )
    elif kind == "sites-waiting":
        told = f"waiting for {', '.join(state.waiting_for)}"
    elif kind == "evaluated":
        told = f"round {event['round']}: accuracy {float(event['accuracy']):.3f}"
    elif kind == "round-started":
        told = f"round {state.round}/{state.rounds}: orders sent (step {state.step})"
    elif kind == "site-phase" and event.get("phase") in ("failed", "lost"):
        told = f"round {event.get('round')}: {event.get('site')} {event['phase']}"
        told += f": {event['message']}" if event.get("message") else ""
    elif kind == "site-receipt":
        told = _receipt_line(event, state)
    elif kind == "ledger-refused":
        told = f"round {event.get('round')}: ALARM: the ledger of {event.get('site')} is refused"
        told += f": {event['reason']}" if event.get("reason") else ""
    elif kind == "round-finished":
        told = f"round {event['round']}/{state.rounds}: summed over {len(event.get('survivors', ()))} sites"
        told += f", without {', '.join(event['dropped'])}" if event.get("dropped") else ""
        told += f", {float(event.get('seconds', 0.0)):.1f} s"
        remaining = state.remaining_s()
        told += f", about {_duration(remaining)} to go" if remaining else ""
    elif kind == "round-burnt":
        told = f"round {event['round']}: ended without a sum: {event.get('reason', '')}"
    elif kind == "run-resumed":
        told = "the run goes on from its last checkpoint"
    elif kind == "run-finished":
        told = f"run {state.status} after {state.rounds_done} of {state.rounds} rounds"
        told += f": {state.reason}" if state.reason else ""
    return visible(f"{time_} {told}".strip()) if told else ""


def visible(text: str) -> str:
    """``text`` on one line without control characters: a peer's message must not steer this terminal."""
    return "".join(character if character.isprintable() else "\ufffd" for character in text)


def sparkline(values: list[float], width: int, low: float = 0.0, high: float = 1.0) -> str:
    """Draw ``values`` between ``low`` and ``high`` in at most ``width`` characters, the last value always shown."""
    if not values or width < 1:
        return ""
    if len(values) > width:
        values = [values[round(index * (len(values) - 1) / max(width - 1, 1))] for index in range(width - 1)] + [
            values[-1]
        ]
    span = (high - low) or 1.0
    levels = [int((min(max(value, low), high) - low) / span * (len(_SPARKS) - 1) + 0.5) for value in values]
    return "".join(_SPARKS[level] for level in levels)


def bar(share: float, width: int) -> Text:
    """A bar filled by ``share`` (0 to 1), in half characters; red and full where the share is above one."""
    if share > 1:
        return Text("━" * width, style="bold red")
    halves = int(max(share, 0.0) * width * 2 + 0.5)
    filled = "━" * (halves // 2) + "╸" * (halves % 2)
    style = "green" if share < 0.75 else "yellow"
    return Text.assemble((filled, style), ("─" * (width - len(filled)), "dim"))


def _title(state: ProgressState) -> Text:
    if not state.run_name:
        return Text(" tacit ", style="bold")
    return Text.assemble(
        (f" {state.run_name} ", "bold"),
        (f"{state.mode} · {state.strategy} · budget ε {state.budget_epsilon:g}, δ {state.delta:g} ", "dim"),
    )


def _planned(state: ProgressState, sign: str) -> str:
    """``ε 1.021 against coordinator, 1.450 against coordinator+c sites, ...``, of the whole run; rounded up."""
    told = ", ".join(f"{epsilon_text(value)} against {name}" for name, value in state.epsilon_by_adversary.items())
    return f"{sign} {told}"


def _overall(state: ProgressState, width: int, now_s: float) -> Text:
    """``⠹ round 7 of 20 ━━━━╌╌╌╌ 0:48, about 1:10 to go``."""
    elapsed = state.elapsed_s(now_s)
    if state.status:
        mark = ("✓ ", "green") if state.status == "completed" else ("✗ ", "bold red")
    else:
        mark = (f"{_SPINNER[int(now_s * _SPINS_PER_S) % len(_SPINNER)]} ", "cyan")
    head = f"{state.rounds_done} of {state.rounds} rounds" if state.rounds else "starting"
    if state.waiting_for:
        head = f"waiting for {', '.join(state.waiting_for)}"
    tail = _duration(elapsed)
    remaining = state.remaining_s()
    if remaining is not None:
        tail += f", about {_duration(remaining)} to go"
    room = max(8, width - 6 - len(mark[0]) - len(head) - len(tail) - 4)
    share = state.rounds_done / state.rounds if state.rounds else 0.0
    return Text.assemble(mark, (head, "bold"), "  ", _rounds_bar(share, room), "  ", (tail, "dim"))


def _rounds_bar(share: float, width: int) -> Text:
    done = round(share * width)
    return Text.assemble(("━" * done, "cyan"), ("─" * (width - done), "dim"))


def _sites(state: ProgressState, width: int) -> Table:
    name_width = min(max((len(name) for name in state.sites), default=4), _NAME_WIDTH)
    bar_width = min(max(width - _FIXED_WIDTH - name_width, 6), 30)
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("site", no_wrap=True, overflow="ellipsis", max_width=name_width)
    table.add_column("phase", no_wrap=True, min_width=_PHASE_WIDTH)
    table.add_column("privacy spent", no_wrap=True)
    table.add_column("sent", no_wrap=True, justify="right")
    for site in state.sites.values():
        name = Text(site.name, style="bold")
        table.add_row(name, _phase(site), _spent(site, state, bar_width), _bytes(site.bytes_sent))
    return table


def _phase(site: SiteState) -> Text:
    glyph, words, style = _PHASES.get(site.phase, ("?", site.phase, "dim"))
    return Text(f"{glyph} {words}", style=style)


def _spent(site: SiteState, state: ProgressState, width: int) -> Text:
    share = site.epsilon / state.budget_epsilon if state.budget_epsilon else 0.0
    return Text.assemble(
        bar(share, width), f" ε {epsilon_text(site.epsilon, 2)}", (f" / {state.budget_epsilon:g}", "dim")
    )


def _accuracy(state: ProgressState, width: int) -> Text:
    values = [accuracy for _, accuracy in state.accuracies]
    line = sparkline(values, max(8, width - 40))
    text = Text.assemble(("accuracy ", "dim"), (line, "green"), (f" {values[-1]:.3f}", "bold"))
    if len(values) > 1:
        text.append(f"  from {values[0]:.3f}", style="dim")
    return text


def _receipt_line(event: Mapping[str, Any], state: ProgressState) -> str:
    receipt = event.get("receipt", {})
    outcome = receipt.get("outcome", {})
    site = str(event.get("site", ""))
    if outcome.get("status") == "completed":
        epsilon = epsilon_text(float(receipt.get("epsilon_run", 0.0)))
        return (
            f"round {event.get('round')}: {site} done, epsilon {epsilon} of "
            f"{state.budget_epsilon:g}, {_bytes(int(receipt.get('bytes_sent', 0)))} sent"
        )
    reason = f" ({outcome['reason']})" if outcome.get("reason") else ""
    why = f": {outcome['message']}" if outcome.get("message") else ""
    return f"round {event.get('round')}: {site} {outcome.get('status')}{reason}{why}"


def _duration(seconds: float) -> str:
    whole = max(0, round(seconds))
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"


def _bytes(size_bytes: int) -> str:
    value = float(size_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 999.5 or unit == "GB":
            break
        value /= 1000
    return f"{size_bytes} B" if unit == "B" else f"{value:.3g} {unit}"
