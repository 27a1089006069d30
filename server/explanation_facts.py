"""Everything ``tacit privacy explain`` says, as data: the page, the plot and ``--json`` are renderings of this.

Epsilons are upper bounds for one unit of one site at the agreement's delta; None where no finite one is claimed.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from privacy.events import Adjacency, PrivacyMode, PrivacyUnit
from privacy.order import Digest, Name, Strict
from privacy.report.facts import SecondOpinionFacts

Mode = Annotated[PrivacyMode, Field(strict=False)]


class ExplainedRun(Strict):
    """What the run file asks for."""

    name: Name
    mode: Mode
    rounds: int
    local_steps: int
    max_burnt_rounds: int
    sample_rate: float
    noise_multiplier: float
    l2_clip_norm: float


class ExplainedAgreement(Strict):
    """What the agreement says that matters to epsilon. Its signatures were not looked at."""

    title: str
    digest: Digest
    #: n, all of which are asked to take part
    sites: int
    #: how many are in a sum at least: the larger of threshold and least cohort
    smallest_sum: int
    #: c
    collusion_bound: int
    modes: tuple[Mode, ...]
    adjacency: Annotated[Adjacency, Field(strict=False)]
    delta: float
    epsilon_per_run: float
    epsilon_lifetime: float
    min_noise_multiplier: float
    max_sample_rate: float


class ExplainedAdversary(Strict):
    """What one adversary can learn from the whole run: what the report will say of a run without burnt rounds."""

    adversary: str
    epsilon: float | None
    assumptions: str


class CoalitionEpsilon(Strict):
    """What stands when more sites collude with the coordinator than was agreed."""

    colluding_sites: int
    epsilon: float | None
    #: False: arithmetic, on which nobody should rely; the ledger and the report claim nothing
    claimed: bool


class EpsilonAfterRound(Strict):
    """Epsilon by adversary when so many rounds are done."""

    round: int
    by_adversary: dict[str, float | None]


class NoiseForTheSame(Strict):
    """The noise with which the mode charges the epsilon that the run's own mode charges, or a hair less.

    The standard deviations are of one coordinate, over the clip norm, when all sites are in a sum; rounding to the
    grid of a secure sum adds a little.
    """

    epsilon: float
    noise_multiplier: float
    #: in what one site sends
    stddev_one_site: float
    stddev_sum: float
    stddev_mean: float


class ExplainedMode(Strict):
    """The run in one mode."""

    mode: Mode
    #: the run file asks for this mode
    this_run: bool
    #: the agreement allows it
    agreed: bool
    unit: Annotated[PrivacyUnit, Field(strict=False)]
    noise_multiplier: float
    #: accounted for, in the whole run
    steps: int
    adversaries: tuple[ExplainedAdversary, ...]
    #: what each site's ledger is charged
    epsilon_charged: float | None
    #: pld, or rdp where no trustworthy privacy loss distribution exists
    accountant: Literal["pld", "rdp"]
    fits_run: bool
    #: on a dataset on which nothing was spent before
    fits_lifetime: bool
    #: charged when as many rounds end without a sum as the run file allows
    epsilon_with_burnt_rounds: float | None
    #: charged for as many steps with the least noise and the highest sample rate that the agreement allows
    epsilon_at_limits: float | None
    #: from c + 1 colluding sites to all others
    beyond_collusion_bound: tuple[CoalitionEpsilon, ...]
    #: as if the noise were secret, also under a test seed
    growth: tuple[EpsilonAfterRound, ...]
    same_epsilon: NoiseForTheSame | None
    #: None unless it was asked for
    second_opinion: SecondOpinionFacts | None


class ImpossibleMode(Strict):
    """A mode in which this run cannot be made, and why: what the gates or the accountants said."""

    mode: Mode
    reason: str


class Explanation(Strict):
    """The whole."""

    tacit_explanation: Literal[1]
    #: reproducible noise is allowed: NO privacy is claimed
    testing: bool
    run: ExplainedRun
    agreement: ExplainedAgreement
    #: the run's own mode first
    modes: tuple[ExplainedMode, ...]
    impossible: tuple[ImpossibleMode, ...]
