"""Everything a report says, as data. The page is a rendering of this and of nothing else; so is ``report.json``.

The order of the fields is the order in the file. Epsilons are bounds for one privacy unit (a record or a user of one
site, or one site, as agreed), at the agreement's delta, unless the field says otherwise.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from privacy.events import Adjacency, PrivacyMode, PrivacyUnit
from privacy.order import Digest, Name, SecAggSpec, Strict, TrainingSpec


class RunFacts(Strict):
    """Which run, and how it ended."""

    run_id: str
    run_name: Name
    #: "unfinished" when the run's last event is not its end
    status: Literal["completed", "failed", "stopped", "unfinished"]
    reason: str
    #: RFC 3339, of the first and the last event
    started: str
    ended: str
    seconds: float = Field(ge=0)
    rounds_planned: int
    rounds_done: int
    #: how often the run went on from a checkpoint
    resumed: int


class AgreementFacts(Strict):
    """What the partners agreed, as in the file kept with the run. Signatures are not checked by a report."""

    digest: Digest
    title: str
    consortium: Name
    purpose: str
    legal_basis: str
    partners: tuple[Name, ...]
    coordinator: Name
    signed_by: tuple[Name, ...]
    unit: Annotated[PrivacyUnit, Field(strict=False)]
    #: the most records of one user that enter a step; None where the unit is a record
    max_records_per_user: int | None = None
    adjacency: Annotated[Adjacency, Field(strict=False)]
    delta: float
    epsilon_per_run: float
    epsilon_lifetime: float
    collusion_bound: int
    min_cohort: int
    deidentification_profile: str
    residency: tuple[str, ...]
    retention_days: int
    release_scope: str
    valid_from: str
    valid_until: str


class Parameters(Strict):
    """What decided the computation."""

    mode: Annotated[PrivacyMode, Field(strict=False)]
    strategy: str
    base_model_name: str
    base_model_digest: Digest
    labels_count: int
    #: values in one update, when the run recorded it
    adapter_length: int | None
    training: TrainingSpec
    secagg: SecAggSpec
    versions: dict[str, str]


class Finding(Strict):
    """Something a reader must not miss. An ``alarm`` touches the privacy claim."""

    severity: Literal["alarm", "warning", "note"]
    text: str


class StepFacts(Strict):
    """One step: an attempt at a round."""

    round: int
    step: int
    outcome: Literal["summed", "burnt", "unfinished"]
    reason: str
    survivors: tuple[Name, ...]
    dropped: tuple[Name, ...]
    seconds: float | None
    update_l2_norm: float | None


class AccuracyFacts(Strict):
    """The adapter on the public test set after ``round``; round 0 is before training."""

    round: int
    accuracy: float
    loss: float | None
    examples: int


class SiteStepFacts(Strict):
    """One site's part of one step."""

    round: int
    step: int
    status: Literal["completed", "refused", "failed", "no receipt"]
    #: a refusal's typed reason, or an error's class
    reason: str
    message: str
    #: orders that count as spent up to and with this step; in doubt an order does
    charged_so_far: int
    #: the run's epsilon after this step, recomputed for this report
    epsilon_run: float
    #: the same by the site's receipt
    epsilon_run_by_receipt: float | None
    #: whether the receipt's epsilon is that of any possible count of spent orders
    receipt_fits: bool
    #: bytes of the secure sum's protocol, and of the receipt
    aggregation_bytes: int
    receipt_bytes: int


class TreeHeadFacts(Strict):
    """The last signed state of a site's ledger that its receipts named."""

    size: int
    root: str
    #: when it was signed, RFC 3339; the signature covers size, root and this
    timestamp: str
    signature: str


class SiteFacts(Strict):
    """One site in this run."""

    site: Name
    steps: tuple[SiteStepFacts, ...]
    #: noisy steps that count as spent: of gradients, or in mode site of whole updates
    gradient_steps: int
    #: orders that count as spent only because nobody knows
    orders_in_doubt: int
    epsilon_run: float
    epsilon_run_by_receipt: float | None
    #: over all runs on the site's data; only its own ledger knows, so this is the receipt's word
    epsilon_lifetime_by_receipt: float | None
    aggregation_bytes: int
    receipt_bytes: int
    refusals: int
    #: steps whose sum went on without this site
    dropouts: int
    tree_head: TreeHeadFacts | None


class SiteEpsilon(Strict):
    """What an adversary learns about one privacy unit of one site; ``epsilon`` is None when nothing is claimed."""

    site: Name
    epsilon: float | None
    gradient_steps: int


class AdversaryFacts(Strict):
    """One adversary, one epsilon: the worst over the sites."""

    adversary: str
    epsilon: float | None
    delta: float
    assumptions: str
    per_site: tuple[SiteEpsilon, ...]


class SecondOpinionFacts(Strict):
    """Other accountants on what the site with the largest epsilon spent. ``pld`` is the bound that is reported."""

    gradient_steps: int
    pld: float
    prv: float
    rdp: float
    tolerance: float
    agrees: bool


class EgressFacts(Strict):
    """A kind of thing that leaves a site in every round."""

    kind: str
    channel: str
    content: str
    protection: str


class TrustFacts(Strict):
    """What the figures rest on, and what they do not cover (design, section 2)."""

    adversaries: tuple[str, ...]
    sites_trust: tuple[str, ...]
    sites_do_not_trust: tuple[str, ...]
    out_of_scope: tuple[str, ...]


class ReportFacts(Strict):
    """A run's report."""

    tacit_report: Literal[1]
    #: True: reproducible noise was allowed, so NO privacy is claimed and every epsilon against an adversary is None
    testing: bool
    findings: tuple[Finding, ...]
    run: RunFacts
    adversaries: tuple[AdversaryFacts, ...]
    epsilon_budget: float
    delta: float
    #: after each round, as planned at submission
    epsilon_planned: tuple[float, ...]
    second_opinion: SecondOpinionFacts | None
    accuracy: tuple[AccuracyFacts, ...]
    sites: tuple[SiteFacts, ...]
    steps: tuple[StepFacts, ...]
    egress: tuple[EgressFacts, ...]
    trust: TrustFacts
    agreement: AgreementFacts
    parameters: Parameters

    @property
    def step_in_progress(self) -> int | None:
        """The step that was being computed when this was written, if any."""
        last = self.steps[-1] if self.steps else None
        under_way = self.run.status == "unfinished" and last is not None and last.outcome == "unfinished"
        return last.step if under_way and last is not None else None
