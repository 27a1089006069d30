"""What a site must know of its steps after a restart, and the rule that no step is taken twice.

The machines ask for a :class:`StepRecord` to be kept (fsynced) *before* the frame it speaks of is sent. What holds
them is the owner's: a file at a site, a list in tests. Kept records say what was sent; secrets are never kept, so a
site that restarts within a step leaves it, and refuses it and every older one from then on.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from tacit.errors import RepeatedStep


class Sent(StrEnum):
    """How far a site went in a step."""

    UPLOADED = "uploaded"
    LOCKED = "locked"
    REVEALED = "revealed"


@dataclass(frozen=True, slots=True)
class StepRecord:
    """A site is about to send this in a step."""

    run_id: str
    epoch: int
    step: int
    sent: Sent
    digest: str
    """Hex: the upload's hash, or the lock's digest."""


def last_steps(records: Iterable[StepRecord]) -> dict[str, int]:
    """Return the last step of each run that a site sent anything in."""
    last: dict[str, int] = {}
    for record in records:
        last[record.run_id] = max(last.get(record.run_id, 0), record.step)
    return last


def check_new_step(name: str, run_id: str, step: int, last_step: int) -> None:
    """Accept a step only if it is later than every step the site sent anything in.

    Raises:
        RepeatedStep: it is not.
    """
    if step <= last_step:
        raise RepeatedStep(
            f"step {step} of run {run_id} was asked of {name}, which has taken part in step {last_step} already",
            hint="a coordinator that was restarted goes on with a later step; this one is burnt",
        )
