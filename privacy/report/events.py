"""Run events as a report reads them: one JSON object a line, each checked; what cannot be read is never guessed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from privacy.events import PrivacyMode
from privacy.order import Digest, Name, Receipt, SecAggSpec, TrainingSpec
from tacit.canonical import parse_json
from tacit.errors import InputError

_HINT = "name the run's folder as the coordinator wrote it: run.json, agreement.yaml and events.jsonl, unedited"


class _Fact(BaseModel):
    """Strict in what it reads; fields it does not know are left alone, because a later version may write more."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", allow_inf_nan=False)


class Budget(_Fact):
    """What the agreement allows one run to spend at each site."""

    epsilon: float = Field(gt=0)
    delta: float = Field(gt=0, lt=1)


class BaseModelName(_Fact):
    """The public model everybody started from."""

    name: str
    digest: Digest


class Submission(_Fact):
    """What was submitted: ``run.json``, and the ``run-submitted`` event."""

    run_id: str = Field(pattern=r"^[0-9a-f]{16}$")
    run_name: Name
    rounds: int = Field(ge=1)
    sites: tuple[Name, ...] = Field(min_length=2)
    mode: Annotated[PrivacyMode, Field(strict=False)]
    strategy: str
    labels_count: int = Field(ge=2)
    adapter_length: int | None = Field(default=None, gt=0)
    budget: Budget
    #: planned epsilon after each round of a run that burns no step
    epsilon_per_round: tuple[float, ...]
    training: TrainingSpec
    secagg: SecAggSpec
    agreement_digest: Digest
    base_model: BaseModelName
    versions: dict[str, str]
    testing: bool


class _Event(_Fact):
    seq: int = Field(ge=1)
    time: str


class RunSubmitted(_Event, Submission):
    """The first event of every run."""

    event: Literal["run-submitted"]


class RunResumed(_Event):
    """The run went on from its last checkpoint."""

    event: Literal["run-resumed"]


class Evaluated(_Event):
    """Accuracy on the public test set; round 0 is before training."""

    event: Literal["evaluated"]
    round: int = Field(ge=0)
    accuracy: float = Field(ge=0, le=1)
    loss: float | None = None
    examples: int = Field(ge=1)


class RoundStarted(_Event):
    """Orders went out for a step of a round."""

    event: Literal["round-started"]
    round: int = Field(ge=1)
    #: the first secure step of the round, and how many it has
    step: int = Field(ge=1)
    steps: int = Field(ge=1, default=1)
    #: values in one update: only a loaded model tells, so no submission does
    adapter_length: int | None = Field(default=None, gt=0)


class SitePhase(_Event):
    """What a site is doing."""

    event: Literal["site-phase"]
    round: int = Field(ge=1)
    step: int = Field(ge=1)
    site: Name
    phase: str


class SiteReceipt(_Event):
    """What a site returned for a step."""

    event: Literal["site-receipt"]
    #: 0 when the site could not even read the order
    round: int = Field(ge=0)
    step: int = Field(ge=0)
    site: Name
    receipt: Receipt


class LedgerRefused(_Event):
    """A site's tree head does not continue the one the coordinator saw before; its receipt counts for nothing."""

    event: Literal["ledger-refused"]
    round: int = Field(ge=0)
    step: int = Field(ge=0)
    site: Name
    reason: str


class RoundFinished(_Event):
    """The step gave a sum."""

    event: Literal["round-finished"]
    round: int = Field(ge=1)
    step: int = Field(ge=1)
    survivors: tuple[Name, ...]
    dropped: tuple[Name, ...]
    seconds: float = Field(ge=0)
    update_l2_norm: float | None = None


class RoundBurnt(_Event):
    """The step ended without a sum; its noise was drawn, so it is charged."""

    event: Literal["round-burnt"]
    round: int = Field(ge=1)
    step: int = Field(ge=1)
    reason: str


class RunFinished(_Event):
    """The end of a run, or of one stretch of a run that was resumed later."""

    event: Literal["run-finished"]
    status: Literal["completed", "failed", "stopped"]
    reason: str = ""
    seconds: float | None = None
    rounds_done: int | None = None


Event = (
    RunSubmitted
    | RunResumed
    | Evaluated
    | RoundStarted
    | SitePhase
    | SiteReceipt
    | LedgerRefused
    | RoundFinished
    | RoundBurnt
    | RunFinished
)

#: kinds that a report has nothing to say about
_UNUSED = {"sites-waiting", "checkpoint"}
_KINDS = {
    "run-submitted",
    "run-resumed",
    "evaluated",
    "round-started",
    "site-phase",
    "site-receipt",
    "ledger-refused",
    "round-finished",
    "round-burnt",
    "run-finished",
}
_ADAPTER: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="event")])


class RunEvents(_Fact):
    """All events of a run that a report uses, in order, and the kinds it did not know."""

    events: tuple[Event, ...]
    unknown_kinds: tuple[str, ...]
    #: the last line was cut off by a crash and is not among the events
    torn: bool


def read_submission(path: Path) -> Submission:
    """Read ``run.json``.

    Raises:
        InputError: absent, not JSON, or a field is missing or wrong.
    """
    data = _read(path)
    parse_json(data)
    try:
        return Submission.model_validate_json(data)
    except ValidationError as error:
        raise InputError(f"{path} is not a run's description: {_first(error)}", hint=_HINT) from error


def read_events(path: Path) -> RunEvents:
    """Read ``events.jsonl``.

    A last line that a crash cut off is left out and said so. Anything else that cannot be read is an error: an
    event that is missing could be privacy that was spent.

    Raises:
        InputError: absent, a line that is not an event, or a gap in the numbering.
    """
    lines = _read(path).split(b"\n")
    torn = bool(lines[-1])
    if torn and _is_whole(lines[-1]):
        lines.append(b"")
        torn = False
    events: list[Event] = []
    unknown: dict[str, None] = {}
    for number, line in enumerate(lines[:-1], start=1):
        raw = _object(path, number, line)
        if raw.get("seq") != number:
            raise InputError(f"{path}, line {number}: event number {raw.get('seq')!r}, expected {number}", hint=_HINT)
        kind = raw.get("event")
        if kind in _KINDS:
            events.append(_event(path, number, line))
        elif kind not in _UNUSED:
            unknown[str(kind)] = None
    if not events or not isinstance(events[0], RunSubmitted):
        raise InputError(f"{path} does not begin with a run-submitted event", hint=_HINT)
    return RunEvents(events=tuple(events), unknown_kinds=tuple(unknown), torn=torn)


def _event(path: Path, number: int, line: bytes) -> Event:
    try:
        event = _ADAPTER.validate_json(line)
    except ValidationError as error:
        raise InputError(f"{path}, line {number}: not a run event: {_first(error)}", hint=_HINT) from error
    if isinstance(event, SiteReceipt):
        receipt = event.receipt
        told, said = (event.site, event.round, event.step), (receipt.site, receipt.round, receipt.step)
        if told != said:
            raise InputError(f"{path}, line {number}: the receipt is for {said}, the event for {told}", hint=_HINT)
    return event


def _object(path: Path, number: int, line: bytes) -> Mapping[str, Any]:
    try:
        raw = parse_json(line)
    except InputError as error:
        raise InputError(f"{path}, line {number}: {error.message}", hint=_HINT) from error
    if not isinstance(raw, dict):
        raise InputError(f"{path}, line {number}: received {type(raw).__name__}, expected a JSON object", hint=_HINT)
    return raw


def _is_whole(line: bytes) -> bool:
    try:
        return isinstance(parse_json(line), dict)
    except InputError:
        return False


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}", hint=_HINT) from error


def _first(error: ValidationError) -> str:
    detail = error.errors()[0]
    where = ".".join(str(part) for part in detail["loc"])
    return f"{where}: {detail['msg']}" if where else str(detail["msg"])
