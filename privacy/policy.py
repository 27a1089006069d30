"""A site's own limits, set by its data steward. They can only be stricter than the agreement's.

Whichever of the two is stricter counts: a policy that allows more than the agreement allows nothing more.
Every field must be written out; there is no default that opens.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field, model_validator

from privacy.order import Name, Strict
from privacy.terms import Agreement, List, Unique
from tacit.durable import write_atomic
from tacit.errors import ConfigError
from tacit.strict_yaml import dump_yaml, read_yaml
from tacit.validation import validated

#: What :meth:`SitePolicy.draft` writes for ``max_rounds_per_run``; the budget is what limits spending.
DRAFT_MAX_ROUNDS_PER_RUN: Final = 100

_HEADER = """\
# What {site} itself allows. The stricter of this file and the agreement counts.
# epsilon_lifetime_max, epsilon_per_run_max  the most privacy a record here may lose: ever, and in one run
# min_noise_multiplier                       the least noise, as a multiple of the clip norm
# max_rounds_per_run                         the most rounds a run may plan
# allowed_strategies                         how sums become a new adapter; only those agreed upon, too
# accept_runs                                false refuses every run; the switch to stop everything
# require_deidentification                   true refuses agreements that leave texts as they are
# allow_testing                              true accepts reproducible noise, which protects nothing
# min_cohort                                 the fewest sites a sum may be opened over
# weight                                     what this site counts in weighted sums; null when all count the same
"""


class SitePolicy(Strict):
    """The limits of one site. Field names are the keys of ``policy.yaml``."""

    tacit_policy: Literal[1]
    site: Name
    #: of all runs ever made on the site's dataset, at the agreement's delta
    epsilon_lifetime_max: float = Field(gt=0)
    #: of one run, at the agreement's delta
    epsilon_per_run_max: float = Field(gt=0)
    #: noise's standard deviation divided by the clip norm
    min_noise_multiplier: float = Field(gt=0)
    #: repeated attempts at a round are limited by the budget: each spends anew
    max_rounds_per_run: int = Field(gt=0)
    allowed_strategies: Annotated[tuple[Name, ...], List, Unique]
    accept_runs: bool
    require_deidentification: bool
    allow_testing: bool
    min_cohort: int = Field(ge=2)
    #: declared, never counted from the data; only its binned value leaves the site, inside the sum
    weight: int | None = Field(gt=0)

    @model_validator(mode="after")
    def _consistent(self) -> SitePolicy:
        if self.epsilon_per_run_max > self.epsilon_lifetime_max:
            raise ValueError(
                f"epsilon_per_run_max ({self.epsilon_per_run_max}) must not exceed "
                f"epsilon_lifetime_max ({self.epsilon_lifetime_max})"
            )
        return self

    @classmethod
    def draft(
        cls,
        agreement: Agreement,
        site: str,
        *,
        accept_runs: bool = False,
        allow_testing: bool = False,
        max_rounds_per_run: int = DRAFT_MAX_ROUNDS_PER_RUN,
        weight: int | None = None,
    ) -> SitePolicy:
        """Return the policy equal to the agreement's limits, closed until the steward opens it.

        Args:
            agreement: what the partners agreed.
            site: one of its partners.
            accept_runs: whether runs are accepted; the steward's decision.
            allow_testing: whether reproducible noise is accepted under an agreement for testing.
            max_rounds_per_run: the agreement has no such limit.
            weight: what the site counts in weighted sums; the steward's declaration.

        Raises:
            ConfigError: ``site`` is not a partner.
        """
        _check_partner(agreement, site)
        return cls(
            tacit_policy=1,
            site=site,
            epsilon_lifetime_max=agreement.privacy.epsilon_lifetime,
            epsilon_per_run_max=agreement.privacy.epsilon_per_run,
            min_noise_multiplier=agreement.privacy.min_noise_multiplier,
            max_rounds_per_run=max_rounds_per_run,
            allowed_strategies=agreement.strategies,
            accept_runs=accept_runs,
            require_deidentification=agreement.deidentification.profile != "none",
            allow_testing=allow_testing,
            min_cohort=agreement.secure_aggregation.min_cohort,
            weight=weight,
        )


@dataclass(frozen=True)
class Limits:
    """What a record at a site may lose: the stricter of agreement and policy."""

    epsilon_per_run: float
    epsilon_lifetime: float
    delta: float


def effective_limits(agreement: Agreement, policy: SitePolicy) -> Limits:
    """Return the budget that counts at the policy's site.

    Raises:
        ConfigError: the policy's site is not a partner of the agreement.
    """
    _check_partner(agreement, policy.site)
    return Limits(
        epsilon_per_run=min(agreement.privacy.epsilon_per_run, policy.epsilon_per_run_max),
        epsilon_lifetime=min(agreement.privacy.epsilon_lifetime, policy.epsilon_lifetime_max),
        delta=agreement.privacy.delta,
    )


def load_policy(path: Path) -> SitePolicy:
    """Read ``policy.yaml``.

    Raises:
        ConfigError: absent, not YAML, an unknown or missing field, a duplicate key, a bad value.
    """
    return validated(SitePolicy, read_yaml(path, error=ConfigError), source=str(path), error=ConfigError)


def save_policy(policy: SitePolicy, path: Path) -> None:
    """Write ``policy.yaml``, with a comment on each field.

    Raises:
        StorageFull: the disk has no room; the old file is untouched.
    """
    header = _HEADER.format(site=policy.site).encode()
    write_atomic(path, header + dump_yaml(policy.model_dump(mode="json")))


def _check_partner(agreement: Agreement, site: str) -> None:
    if site not in agreement.partner_names():
        raise ConfigError(
            f"site {site!r} is not a partner of the agreement {agreement.title!r}, "
            f"expected one of: {', '.join(agreement.partner_names())}",
            hint="use the name in the site's certificate, or the agreement that names the site",
        )
