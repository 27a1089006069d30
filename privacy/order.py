"""What a coordinator asks and what a site answers: pure data at the trust edge, checked by the site's gate.

An order says everything that decides what a site computes and sends. Its digest goes into the secure-aggregation
descriptor, so two sites given different orders make masks that do not cancel (design, section 5).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from privacy.events import (
    Adjacency,
    DpEvent,
    IntegerGrid,
    JointSubsampledGaussian,
    PrivacyMode,
    PrivacyUnit,
    SiteGaussian,
    SubsampledGaussian,
    check_guarantee,
)
from privacy.options import TrainingOptions
from tacit.canonical import digest
from tacit.errors import InputError

Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]


class Strict(BaseModel):
    """Base of everything read from a file or the wire: frozen, no unknown fields, no coercion, no NaN."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class LoraSpec(Strict):
    """Low-rank adapters (Hu et al. 2021): which linear layers carry one, and how large.

    ``rank = 0`` with no targets trains the head alone.
    """

    rank: int = Field(ge=0, le=256)
    alpha: float = Field(gt=0)
    targets: tuple[str, ...]
    #: FFA-LoRA (Sun et al. 2024): A keeps its public start, only B is trained and sent
    freeze_a: bool = False

    @field_validator("targets", mode="before")
    @classmethod
    def _list_to_tuple(cls, value: object) -> object:
        return tuple(value) if isinstance(value, list) else value

    @model_validator(mode="after")
    def _rank_fits_the_targets(self) -> LoraSpec:
        if (self.rank == 0) != (not self.targets):
            raise ValueError(
                f"rank {self.rank} with {len(self.targets)} targets; expected a rank above 0 and targets, or to train "
                "the head alone: rank 0 and no targets"
            )
        return self


class TrainingSpec(TrainingOptions):
    """Training at the site for one round: DP-SGD, or in mode ``site`` plain SGD whose whole update is clipped.

    ``expected_batch_size`` is the public normaliser: agreed, never derived from a site's data.
    """

    expected_batch_size: float = Field(gt=0)
    max_tokens: int = Field(gt=0, le=8192)
    #: unit user only: the most records of one user that enter a step. Public, by agreement
    max_records_per_user: int | None = Field(gt=0, default=None)


class WeightSpec(Strict):
    """Weighted sums: a site counts with its declared weight, capped and binned, which travels masked with its update.

    A site's weight is what its steward declares in its policy, never a count taken from its data.
    """

    #: no site counts for more
    cap: int = Field(gt=0, le=10**9)
    #: weights are rounded down to multiples of this, and up to it
    bin: int = Field(gt=0, le=10**9)

    @model_validator(mode="after")
    def _whole_bins(self) -> WeightSpec:
        if self.cap % self.bin:
            raise ValueError(f"cap ({self.cap}) must be a multiple of bin ({self.bin})")
        return self

    def binned(self, weight: int) -> int:
        """Return the weight a site that declares ``weight`` counts with: a multiple of ``bin``, ``bin`` to ``cap``."""
        return max(self.bin, min(self.cap, weight // self.bin * self.bin))


class SecAggSpec(Strict):
    """Parameters of the secure sums of one order."""

    #: secure sums that the order's key setup serves, one after the other
    steps: int = Field(gt=0, le=100_000, default=1)

    cohort: tuple[Name, ...] = Field(min_length=2)
    threshold: int = Field(gt=1)
    min_cohort: int = Field(gt=1)
    ring_bits: Literal[16, 32, 64] = 32
    #: None: every site counts the same. What is agreed and what is ordered must be the same.
    weights: WeightSpec | None = None
    #: one unit of the update is ``scale`` units of the ring
    scale: float = Field(gt=0)
    #: each coordinate is clipped to [-value_bound, value_bound] before it is encoded
    value_bound: float = Field(gt=0)

    @field_validator("cohort", mode="before")
    @classmethod
    def _list_to_tuple(cls, value: object) -> object:
        return tuple(value) if isinstance(value, list) else value

    @model_validator(mode="after")
    def _sorted_and_unique(self) -> SecAggSpec:
        if list(self.cohort) != sorted(set(self.cohort)):
            raise ValueError("cohort must be sorted and without repeats")
        return self


class SeenHead(Strict):
    """The last tree head of a site's ledger that the coordinator, as its witness, has accepted from it.

    The site signed it, so a coordinator cannot make one up; the site must show that its ledger continues it.
    """

    site: Name
    tree_size: int = Field(ge=0)
    #: hex, RFC 6962 root
    tree_root: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    tree_timestamp: Annotated[str, Field(max_length=64)]
    #: base64, Ed25519
    tree_signature: Annotated[str, Field(max_length=128)]


class Order(Strict):
    """One round's order to one cohort. Identical bytes go to every site."""

    tacit_order: Literal[1] = 1
    run_id: str = Field(pattern=r"^[0-9a-f]{16}$")
    run_name: Name
    epoch: int = Field(ge=0)
    round: int = Field(ge=1)
    #: the run's last round: a site refuses at the first order a run that it could not afford to finish
    rounds_planned: int = Field(ge=1)
    #: counts attempts over the whole run; never used twice by a site
    step: int = Field(ge=1)
    strategy: str
    mode: Annotated[PrivacyMode, Field(strict=False)]
    unit: Annotated[PrivacyUnit, Field(strict=False)]
    adjacency: Annotated[Adjacency, Field(strict=False)]
    agreement_digest: Digest
    base_model_digest: Digest
    adapter_layout_digest: Digest
    #: digest of the global adapter's vector this round starts from
    adapter_state_digest: Digest
    adapter_length: int = Field(gt=0)
    lora: LoraSpec
    labels: tuple[str, ...] = Field(min_length=2)
    training: TrainingSpec
    secagg: SecAggSpec
    #: seconds a site may take from receiving the order to its upload
    deadline_s: float = Field(gt=0)
    #: what the coordinator has seen of the sites' ledgers, a head a site at most
    seen_heads: tuple[SeenHead, ...] = Field(default=(), max_length=128)
    #: reproducible noise for tests; refused unless the signed agreement says ``testing: true``
    test_noise_seed: int | None = None

    @field_validator("labels", "seen_heads", mode="before")
    @classmethod
    def _list_to_tuple(cls, value: object) -> object:
        return tuple(value) if isinstance(value, list) else value

    @model_validator(mode="after")
    def _one_head_a_site(self) -> Order:
        sites = [head.site for head in self.seen_heads]
        if sites != sorted(set(sites)):
            raise ValueError("seen_heads must be sorted by site and without repeats")
        return self

    @model_validator(mode="after")
    def _contributions_are_bounded(self) -> Order:
        check_contribution_bound(self.unit, self.training.max_records_per_user)
        return self

    @model_validator(mode="after")
    def _round_is_planned(self) -> Order:
        if self.round > self.rounds_planned:
            raise ValueError(f"round {self.round} is beyond the {self.rounds_planned} rounds planned")
        self.training.check_run(self.mode, self.rounds_planned * self.training.local_steps)
        return self

    def seen_head(self, site: str) -> SeenHead | None:
        """The head the coordinator has seen of ``site``, None before the first."""
        return next((head for head in self.seen_heads if head.site == site), None)

    def digest(self) -> str:
        """``sha256:...`` over the canonical JSON of the whole order."""
        return digest("tacit/order/v1", self.model_dump(mode="json"))

    @property
    def vector_length(self) -> int:
        """Coordinates of the vectors that are summed.

        The adapter's, one for the weight if sites are weighted, and one in mode ``joint`` for the count that adaptive
        clipping needs.
        """
        counted = self.mode is PrivacyMode.JOINT and self.training.adaptive_clipping is not None
        return self.adapter_length + (self.secagg.weights is not None) + counted

    def event(self, collusion_bound: int | None = None) -> DpEvent:
        """What carrying out this order once spends, as an accountant's event.

        Args:
            collusion_bound: the agreement's c; modes that share noise need it.

        Raises:
            InputError: as :func:`event_of`.
        """
        return event_of(
            self.mode, self.unit, self.adjacency, self.training, self.secagg, self.vector_length, collusion_bound
        )


def check_contribution_bound(unit: PrivacyUnit, max_records_per_user: int | None) -> None:
    """Raise ValueError unless unit user comes with a bound, and unit record without one."""
    if unit is PrivacyUnit.USER and max_records_per_user is None:
        raise ValueError("unit user needs max_records_per_user: the most records of one user that enter a step")
    if unit is not PrivacyUnit.USER and max_records_per_user is not None:
        raise ValueError(
            f"max_records_per_user ({max_records_per_user}) goes with unit user, received unit {unit.value}"
        )


def event_of(
    mode: PrivacyMode,
    unit: PrivacyUnit,
    adjacency: Adjacency,
    training: TrainingSpec,
    secagg: SecAggSpec,
    dimension: int | None,
    collusion_bound: int | None,
) -> DpEvent:
    """Return what one round with these parameters spends at a site.

    Args:
        dimension: coordinates of the vectors that are summed, where known: modes that share noise note them.
        collusion_bound: the agreement's c; modes that share noise need it.

    Raises:
        InputError: a mode that does not protect this unit; or one that shares noise, without a collusion bound, or
            with shares too few or too small to hide a site.
    """
    check_guarantee(mode, unit, adjacency)
    facts = {"mode": mode, "unit": unit, "adjacency": adjacency, "noise_multiplier": training.noise_multiplier}
    sampled = {"sample_rate": training.sample_rate, "steps": training.local_steps}
    if mode is PrivacyMode.LOCAL:
        return SubsampledGaussian.model_validate(facts | sampled)
    if collusion_bound is None:
        raise InputError(f"what mode {mode} spends depends on the agreement's collusion bound, which was not given")
    grid = None
    if dimension is not None:
        grid = IntegerGrid(l2_clip_norm=training.l2_clip_norm, scale=secagg.scale, dimension=dimension)
    facts |= {"threshold": secagg.threshold, "min_cohort": secagg.min_cohort, "collusion_bound": collusion_bound}
    facts |= {"cohort_size": len(secagg.cohort), "grid": grid}
    try:
        if mode is PrivacyMode.JOINT:
            return JointSubsampledGaussian.model_validate(facts | sampled)
        # one sum a round, whatever a site's own steps drew
        return SiteGaussian.model_validate(facts | {"steps": 1})
    except ValidationError as error:
        raise InputError(f"mode {mode} cannot be accounted for: {error.errors()[0]['msg']}") from error


class ReceiptStatus(Strict):
    """How a site's part of a step ended. Public facts only: nothing here depends on a record."""

    status: Literal["completed", "refused", "failed"]
    #: a RefusalReason when refused, an exception's class name when failed
    reason: str = ""
    #: never quotes data; a refusal's or error's message
    message: str = ""


class Receipt(Strict):
    """What a site returns for an order, over Flower."""

    tacit_receipt: Literal[1] = 1
    site: Name
    run_id: str
    round: int
    step: int
    outcome: ReceiptStatus
    #: hash of the step's descriptor, empty when the step never began
    ctx: str = ""
    #: the site's lifetime epsilon after this step, at the agreement's delta: a public function of public parameters
    epsilon_spent: float = Field(ge=0, default=0.0)
    epsilon_run: float = Field(ge=0, default=0.0)
    delta: float = Field(ge=0, default=0.0)
    bytes_sent: int = Field(ge=0, default=0)
    tree_size: int = Field(ge=0, default=0)
    #: hex, RFC 6962 root of the site's ledger after this step
    tree_root: str = ""
    #: when that head was signed, RFC 3339
    tree_timestamp: str = ""
    #: base64, Ed25519 by the site's identity key over size, root and timestamp
    tree_signature: str = ""
    #: hex hashes of 32 bytes: that this head continues the one the order's ``seen_heads`` names (RFC 6962, 2.1.2)
    tree_consistency: tuple[Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")], ...] = Field(default=(), max_length=128)

    @field_validator("tree_consistency", mode="before")
    @classmethod
    def _list_to_tuple(cls, value: object) -> object:
        return tuple(value) if isinstance(value, list) else value
