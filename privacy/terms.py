"""The terms of an agreement: the fields partners agree on, their meaning, and what makes them consistent.

Only data. Who signed it, and whether that can be trusted, is :mod:`privacy.agreement`'s concern.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from certs.identity import PUBLIC_KEY_BYTES, PeerIdentity
from certs.names import PeerName, Role
from privacy.events import Adjacency, PrivacyMode, PrivacyUnit, check_guarantee
from privacy.order import Digest, Name, Strict, WeightSpec, check_contribution_bound
from tacit.canonical import digest
from tacit.errors import InputError

#: Label of an agreement's digest, and context of every signature under it.
CONTEXT: Final = "tacit/agreement/v1"


def _as_tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def _printable(text: str) -> str:
    # Control and direction-changing characters could make a signer read something else than is signed.
    if text != text.strip() or not all(line.isprintable() for line in text.split("\n")):
        raise ValueError("must be printable text without blanks around it")
    return text


def _one_line(text: str) -> str:
    if "\n" in text:
        raise ValueError("must be one line")
    return _printable(text)


def _unique(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(set(values)) != len(values):
        raise ValueError("must not repeat a value")
    return values


def _key(text: str) -> str:
    decode_key(text)
    return text


def _instant(text: str) -> str:
    parse_instant(text)
    return text


List = BeforeValidator(_as_tuple)
Unique = AfterValidator(_unique)
Line = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_one_line)]
Prose = Annotated[str, Field(min_length=1, max_length=4000), AfterValidator(_printable)]
#: standard base64 of a raw Ed25519 public key (32 bytes)
KeyText = Annotated[str, AfterValidator(_key)]
Mode = Annotated[PrivacyMode, Field(strict=False)]
#: RFC 3339 in UTC to the second, ``2026-01-31T00:00:00Z``
Instant = Annotated[
    str, Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$"), AfterValidator(_instant)
]


class Party(Strict):
    """A partner or the coordinator, pinned by its identity key."""

    name: Name
    identity_key: KeyText


class Task(Strict):
    """What the model learns to do. Label names and their order are public."""

    kind: Literal["sequence-classification"]
    labels: Annotated[tuple[Line, ...], List, Unique, Field(min_length=2, max_length=10_000)]


class BaseModelTerms(Strict):
    """The public model everybody starts from; ``digest`` binds its files."""

    name: Line
    digest: Digest


class AdapterTerms(Strict):
    """What may be trained: low-rank adapters on these layers, up to this rank, and the task's head."""

    kind: Literal["lora"]
    targets: Annotated[tuple[Line, ...], List, Unique, Field(min_length=1, max_length=100)]
    max_rank: int = Field(gt=0, le=256)


class PrivacyTerms(Strict):
    """The guarantee to every record, user or site, and the limits of what a run may ask for.

    There is one unit: all modes agreed must protect it, and budgets count nothing else.
    """

    modes: Annotated[tuple[Mode, ...], List, Unique, Field(min_length=1)]
    unit: Annotated[PrivacyUnit, Field(strict=False)]
    adjacency: Annotated[Adjacency, Field(strict=False)]
    delta: float = Field(gt=0, lt=1)
    #: of one run, at one site
    epsilon_per_run: float = Field(gt=0)
    #: of all runs ever made on a site's dataset
    epsilon_lifetime: float = Field(gt=0)
    #: noise's standard deviation divided by the clip norm
    min_noise_multiplier: float = Field(gt=0)
    max_l2_clip_norm: float = Field(gt=0)
    max_sample_rate: float = Field(gt=0, le=1)
    #: agreed size that normalises every site's updates, in units: records, or users. Never a site's true size
    public_dataset_size: int = Field(gt=0, le=10**12)
    #: unit user only: the most records of one user that enter a step
    max_records_per_user: int | None = Field(gt=0, le=1_000_000, default=None)

    @model_validator(mode="after")
    def _consistent(self) -> PrivacyTerms:
        if self.epsilon_per_run > self.epsilon_lifetime:
            raise ValueError(
                f"epsilon_per_run ({self.epsilon_per_run}) must not exceed epsilon_lifetime ({self.epsilon_lifetime})"
            )
        if self.delta * self.public_dataset_size >= 1:
            # At delta = 1/n a mechanism that publishes one record outright would satisfy the definition.
            raise ValueError(
                f"delta ({self.delta}) must be below 1/public_dataset_size ({1 / self.public_dataset_size:g})"
            )
        for mode in self.modes:
            try:
                check_guarantee(mode, self.unit, self.adjacency)
            except InputError as error:
                raise ValueError(error.message) from error
        check_contribution_bound(self.unit, self.max_records_per_user)
        return self

    @model_serializer(mode="wrap")
    def _without_absent_bound(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Agreements about records were signed before there was such a bound: their digests must stay what they were.
        data: dict[str, Any] = handler(self)
        if data["max_records_per_user"] is None:
            del data["max_records_per_user"]
        return data


class SecureAggregationTerms(Strict):
    """How many sites a sum must hide each site among."""

    #: a sum over fewer surviving sites than this is never opened
    min_cohort: int = Field(ge=2)
    #: partners that may collude, also with the coordinator, without learning another site's update
    collusion_bound: int = Field(ge=1)
    ring_bits: Literal[16, 32, 64]
    #: null: every site counts the same; else with the weight its steward declares, capped and binned
    weights: WeightSpec | None


class DeidentificationTerms(Strict):
    """What is replaced in a site's texts before training. ``none`` must be written out to be agreed."""

    profile: Literal["standard-v1", "none"]


class ReleaseTerms(Strict):
    """Who may receive the trained adapter."""

    scope: Literal["partners", "public"]


class ApprovalTerms(Strict):
    """How many partners must have signed before anything runs."""

    required: int = Field(ge=2)


class Agreement(Strict):
    """Everything the partners agreed. Field names are the keys of the YAML file; none has a default."""

    tacit_agreement: Literal[1]
    consortium: Name
    title: Line
    purpose: Prose
    legal_basis: Prose
    #: ``sha256:<hex>`` of the consortium CA's certificate (DER)
    ca_fingerprint: Digest
    partners: Annotated[tuple[Party, ...], List, Field(min_length=2, max_length=1000)]
    coordinator: Party
    task: Task
    base_model: BaseModelTerms
    adapter: AdapterTerms
    strategies: Annotated[tuple[Name, ...], List, Unique, Field(min_length=1)]
    privacy: PrivacyTerms
    secure_aggregation: SecureAggregationTerms
    deidentification: DeidentificationTerms
    #: places (countries, regions) where data and site agents must stay
    residency: Annotated[tuple[Line, ...], List, Unique, Field(min_length=1)]
    #: how long checkpoints and logs of a run are kept
    retention_days: int = Field(ge=0, le=36_500)
    release: ReleaseTerms
    valid_from: Instant
    #: the first moment at which the agreement is no longer valid
    valid_until: Instant
    approvals: ApprovalTerms
    #: true allows reproducible noise, which protects nothing: NO privacy is claimed under such an agreement
    testing: bool

    @model_validator(mode="after")
    def _consistent(self) -> Agreement:
        parties = (*self.partners, self.coordinator)
        if len({party.name for party in parties}) != len(parties):
            raise ValueError("partners and coordinator must have different names")
        if len({decode_key(party.identity_key) for party in parties}) != len(parties):
            raise ValueError("partners and coordinator must have different identity keys")
        partners, terms = len(self.partners), self.secure_aggregation
        if self.privacy.unit is PrivacyUnit.SITE and self.privacy.delta * partners >= 1:
            raise ValueError(f"delta ({self.privacy.delta}) must be below 1/{partners} where the unit is a site")
        if terms.min_cohort > partners:
            raise ValueError(f"min_cohort ({terms.min_cohort}) must not exceed the {partners} partners")
        if terms.collusion_bound > partners - 2:
            raise ValueError(
                f"collusion_bound ({terms.collusion_bound}) needs at least "
                f"{terms.collusion_bound + 2} partners, received {partners}: a sum must mix two honest sites"
            )
        if self.approvals.required > partners:
            raise ValueError(f"approvals.required ({self.approvals.required}) must not exceed the {partners} partners")
        if parse_instant(self.valid_from) >= parse_instant(self.valid_until):
            raise ValueError("valid_until must be after valid_from")
        return self

    def digest(self) -> str:
        """``sha256:...`` over the whole agreement's canonical JSON; what is signed and what orders name."""
        return digest(CONTEXT, self.model_dump(mode="json"))

    def partner_names(self) -> tuple[str, ...]:
        """The partners' names, in the agreement's order."""
        return tuple(party.name for party in self.partners)

    def roster(self) -> Mapping[str, PeerIdentity]:
        """The partners' pinned identities by name: whose signatures a secure sum accepts."""
        return {
            party.name: PeerIdentity.from_public_key(
                PeerName(self.consortium, Role.SITE, party.name), decode_key(party.identity_key)
            )
            for party in self.partners
        }


def decode_key(text: str) -> bytes:
    """Read a raw Ed25519 public key (32 bytes) from standard base64.

    Raises:
        ValueError: not canonical base64, or another length.
    """
    raw = decode_base64(text)
    if len(raw) != PUBLIC_KEY_BYTES:
        raise ValueError(f"must be {PUBLIC_KEY_BYTES} bytes in base64, received {len(raw)} bytes")
    return raw


def parse_instant(text: str) -> datetime:
    """Read an RFC 3339 UTC instant, ``2026-01-31T00:00:00Z``.

    Raises:
        ValueError: anything else.
    """
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)


def format_instant(moment: datetime) -> str:
    """Write an aware datetime as an RFC 3339 UTC instant, to the second.

    Raises:
        ValueError: ``moment`` has no time zone.
    """
    if moment.tzinfo is None:
        raise ValueError(f"the time {moment.isoformat()} has no time zone, expected UTC")
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def decode_base64(text: str) -> bytes:
    """Read canonical standard base64: one text for one value.

    Raises:
        ValueError: anything else.
    """
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("must be base64") from error
    if base64.b64encode(raw).decode("ascii") != text:
        raise ValueError("must be canonical base64")  # spare bits were set
    return raw
