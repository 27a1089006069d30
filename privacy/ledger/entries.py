"""What a ledger says: one class for each kind of entry, and the envelope they travel in.

An entry's bytes are the RFC 8785 canonical JSON of its envelope. The nonce keeps a published hash from confirming
a guess of what an entry says.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from privacy.events import DpEvent
from privacy.ledger.head import HashHex
from privacy.order import Digest, Strict
from tacit.canonical import canonical_json, parse_json
from tacit.errors import InputError, LedgerCorrupt, RefusalReason

Line = Annotated[str, Field(max_length=4000)]
Label = Annotated[str, Field(min_length=1, max_length=200)]
Timestamp = Annotated[str, Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?Z$")]


class EntryKind(StrEnum):
    """Every kind of entry there is."""

    AGREEMENT_ACCEPTED = "agreement-accepted"
    RESERVE = "reserve"
    COMMIT = "commit"
    FORFEIT = "forfeit"
    RELEASE = "release"
    WITHDRAWAL = "withdrawal"
    AUDIT = "audit"
    KEY_ROTATION = "key-rotation"
    REFUSAL = "refusal"
    EGRESS = "egress"


class AgreementAccepted(Strict):
    """The site accepted an agreement; reservations may name it from here on."""

    kind: Literal["agreement-accepted"] = "agreement-accepted"
    agreement_digest: Digest
    summary: dict[str, Any]


class Reserve(Strict):
    """Privacy set aside for one step, before its noise is drawn. It stays spent whatever happens next."""

    kind: Literal["reserve"] = "reserve"
    run_id: Label
    round: int = Field(ge=0)
    step: int = Field(ge=0)
    dataset: Label
    agreement_digest: Digest
    event: Annotated[DpEvent, Field(discriminator="mechanism")]
    #: False for a test seed: the event protects nothing, and nothing about this dataset is private any more
    noise_secret: bool
    #: the limits in force, and the composed bounds including this step, all at ``delta``
    delta: float = Field(gt=0, lt=1)
    epsilon_per_run: float = Field(gt=0)
    epsilon_lifetime: float = Field(gt=0)
    epsilon_run_after: float = Field(ge=0)
    epsilon_lifetime_after: float = Field(ge=0)


class Commit(Strict):
    """The step of a reservation was carried out. ``reservation`` is the index of its entry."""

    kind: Literal["commit"] = "commit"
    reservation: int = Field(ge=0)
    #: hex hash of the step's descriptor
    ctx: Annotated[str, Field(pattern=r"^[0-9a-f]*$", max_length=128)]
    bytes_sent: int = Field(ge=0)


class Forfeit(Strict):
    """The step of a reservation did not end well; its privacy counts as spent all the same."""

    kind: Literal["forfeit"] = "forfeit"
    reservation: int = Field(ge=0)
    reason: Line


class Release(Strict):
    """A result was handed on, to partners or to the public."""

    kind: Literal["release"] = "release"
    run_id: Label
    scope: Label
    artifact_digest: Digest


class Withdrawal(Strict):
    """The site left an agreement; no reservation may name it any more."""

    kind: Literal["withdrawal"] = "withdrawal"
    agreement_digest: Digest
    reason: Line


class Audit(Strict):
    """Somebody checked, and this is what they found."""

    kind: Literal["audit"] = "audit"
    auditor: Label
    finding: Line


class KeyRotation(Strict):
    """The identity key changed: the old and the new key's signatures over one and the same tree head."""

    kind: Literal["key-rotation"] = "key-rotation"
    size: int = Field(ge=0)
    root: HashHex
    timestamp: str
    previous_signature: str
    new_signature: str


class RefusalRecorded(Strict):
    """The gate refused an order."""

    kind: Literal["refusal"] = "refusal"
    #: ``sha256:...`` of the order, or empty when it could not even be read
    order_digest: Annotated[str, Field(pattern=r"^(sha256:[0-9a-f]{64})?$")]
    reason: Annotated[RefusalReason, Field(strict=False)]
    message: Line


class Egress(Strict):
    """Something left the site."""

    kind: Literal["egress"] = "egress"
    what: Label
    size_bytes: int = Field(ge=0)
    recipient: Label
    run_id: Label | None = None
    round: int | None = None
    step: int | None = None


Body: TypeAlias = (
    AgreementAccepted
    | Reserve
    | Commit
    | Forfeit
    | Release
    | Withdrawal
    | Audit
    | KeyRotation
    | RefusalRecorded
    | Egress
)

BodyT = TypeVar("BodyT", bound=Strict)


class Entry(Strict):
    """The envelope: position, time (RFC 3339 UTC), random nonce (hex of 16 bytes), and what is said."""

    tacit_entry: Literal[1] = 1
    index: int = Field(ge=0)
    time: Timestamp
    nonce: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    body: Annotated[Body, Field(discriminator="kind")]

    def encode(self) -> bytes:
        """Canonical bytes, the ones that are hashed.

        Raises:
            InputError: a value has no canonical JSON form.
        """
        return canonical_json(self.model_dump(mode="json"))


_ENTRY = TypeAdapter(Entry)


def build(kind: Callable[..., BodyT], **fields: object) -> BodyT:
    """Make an entry's body, saying in a ledger's words what is wrong with it.

    Raises:
        InputError: a field cannot be recorded.
    """
    try:
        return kind(**fields)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(f"a ledger entry cannot hold this {where or 'value'}: {first['msg']}") from error


def rfc3339(moment: datetime) -> str:
    """Write a time as RFC 3339 UTC with milliseconds.

    Raises:
        InputError: it has no time zone.
    """
    if moment.tzinfo is None:
        raise InputError("the ledger's clock returned a time without time zone")
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def decode_entry(content: object, index: int) -> Entry:
    """Read entry ``index`` back from its stored bytes.

    Raises:
        LedgerCorrupt: not the canonical bytes of an entry of this version, or of another position.
    """
    problem = f"ledger entry {index}"
    if not isinstance(content, bytes):
        raise LedgerCorrupt(f"{problem} is not stored as bytes")
    try:
        entry = _ENTRY.validate_python(parse_json(content))
        canonical = entry.encode()
    except (InputError, ValueError) as error:  # pydantic's own error is a ValueError; so is its limit of depth
        raise LedgerCorrupt(f"{problem} cannot be read: it was edited, or written by another version") from error
    if canonical != content:
        raise LedgerCorrupt(f"{problem} is not in canonical form")
    if entry.index != index:
        raise LedgerCorrupt(f"{problem} says that it is entry {entry.index}: entries were moved or removed")
    return entry
