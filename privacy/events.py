"""Privacy spending as plain data. Accountants interpret it; an event nobody knows raises.

After ``dp_accounting/dp_event.py`` of google/differential-privacy: an event says what was done, never what it cost.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from tacit.errors import InputError


class PrivacyMode(StrEnum):
    """How noise and aggregation are arranged (design, section 4)."""

    #: every site's own noise protects its records, even if all others collude
    LOCAL = "local"
    #: sites share the noise of a sum: central-DP noise without a trusted server, against at most c colluding sites
    JOINT = "joint"
    #: a site's whole update is clipped, and sites share the noise of the sum: hides what a site contributed
    SITE = "site"


class PrivacyUnit(StrEnum):
    """What neighbouring worlds differ in."""

    #: one row of a site's file
    RECORD = "record"
    #: all rows of a site's file that have one value in its key column
    USER = "user"
    #: everything one site contributes to a run
    SITE = "site"


def kept_by(unit: PrivacyUnit) -> PrivacyUnit:
    """What a site's data must be kept by so that ``unit`` can be protected: users need a key, all else single rows."""
    return PrivacyUnit.USER if unit is PrivacyUnit.USER else PrivacyUnit.RECORD


class Adjacency(StrEnum):
    """The neighbouring relation."""

    #: one unit more, or one fewer
    ADD_REMOVE = "add-remove"
    #: one unit's contribution is zero instead; that it takes part is public (docs/privacy.md, section 2b)
    ZERO_OUT = "zero-out"


_IN_A_SITE = frozenset({(PrivacyUnit.RECORD, Adjacency.ADD_REMOVE), (PrivacyUnit.USER, Adjacency.ADD_REMOVE)})
#: What a mode can protect. An agreement, order or event that pairs them otherwise is refused: epsilon would be charged
#: for something that nobody was promised.
GUARANTEES: Final[Mapping[PrivacyMode, frozenset[tuple[PrivacyUnit, Adjacency]]]] = {
    # Users are sampled and clipped as records are, so a step costs a user what it costs a record.
    PrivacyMode.LOCAL: _IN_A_SITE,
    PrivacyMode.JOINT: _IN_A_SITE,
    PrivacyMode.SITE: frozenset({(PrivacyUnit.SITE, Adjacency.ZERO_OUT)}),
}


def check_guarantee(mode: PrivacyMode, unit: PrivacyUnit, adjacency: Adjacency) -> None:
    """Return if ``mode`` can protect ``unit`` under ``adjacency``.

    Raises:
        InputError: it cannot.
    """
    possible = GUARANTEES[mode]
    if (unit, adjacency) not in possible:
        words = " or ".join(f"unit '{each}' with adjacency '{how}'" for each, how in sorted(possible))
        raise InputError(
            f"mode '{mode}' was named with unit '{unit}' and adjacency '{adjacency}', and it goes with {words}",
            hint="choose another mode, or agree on the unit and adjacency that this mode protects",
        )


class SubsampledGaussian(BaseModel):
    """``steps`` compositions of the Gaussian mechanism on Poisson samples (Abadi et al. 2016; Mironov et al. 2019).

    ``noise_multiplier`` is the noise's standard deviation divided by the clip norm; ``sample_rate`` is the
    probability with which each record, or each user by ``unit``, enters each step's batch, independently.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)

    mechanism: Literal["poisson-subsampled-gaussian"] = "poisson-subsampled-gaussian"
    version: Literal[1] = 1
    mode: Annotated[PrivacyMode, Field(strict=False)]
    unit: Annotated[PrivacyUnit, Field(strict=False)]
    adjacency: Annotated[Adjacency, Field(strict=False)]
    noise_multiplier: float = Field(gt=0)
    sample_rate: float = Field(gt=0, le=1)
    steps: int = Field(gt=0)


#: Smallest standard deviation of one site's noise share, in units of the integer grid: a sum of rounded shares then
#: differs from rounded Gaussian noise by less than any delta could notice (docs/privacy.md, section 2a).
SMALLEST_SHARE_UNITS = 8.0


class IntegerGrid(BaseModel):
    """Where sums are rounded before noise is added: each coordinate times ``scale``, stochastically to an integer.

    ``l2_clip_norm`` is the largest L2 norm before of what one unit adds; ``dimension`` the number of coordinates.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)

    l2_clip_norm: float = Field(gt=0)
    scale: float = Field(gt=0)
    dimension: int = Field(gt=0)

    @property
    def l2_sensitivity(self) -> float:
        """What one unit changes a rounded sum by, in grid units: at most ``scale l2_clip_norm + sqrt(dimension)``.

        Rounding is floor(x + u) with u uniform and independent of the data. For every u two sums that differ by g
        differ, once rounded, by less than |scale g| + 1 in each coordinate; the triangle inequality in L2 gives the
        bound. It holds always, not only for a good rounding as Kairouz, Liu and Steinke 2021, proposition 26, does.
        """
        return self.scale * self.l2_clip_norm + math.sqrt(self.dimension)


class NoiseShares(BaseModel):
    """``steps`` secure sums of clipped vectors whose noise comes in shares, one from each site in the sum.

    A sum opens over s = max(``threshold``, ``min_cohort``) sites or more, which every honest site sees to, and at most
    c = ``collusion_bound`` of them collude: at least h = s - c shares are unknown to any coalition. Each has standard
    deviation
    ``noise_multiplier / sqrt(h)`` times the sensitivity *after rounding*, so h of them hold the whole of
    ``noise_multiplier``, which is what an accountant composes. What one site adds alone protects nothing.

    Where ``cohort_size`` is known (n), noise that is surplus over the survivors is taken off: with u of them a share is
    left with at least what u - c honest sites have to add, down to ``noise_multiplier / sqrt(n - c)`` with nobody lost.

    ``grid`` notes the discretisation the shares were sized for, where it is known; it does not change the cost.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)

    mode: Annotated[PrivacyMode, Field(strict=False)]
    unit: Annotated[PrivacyUnit, Field(strict=False)]
    adjacency: Annotated[Adjacency, Field(strict=False)]
    noise_multiplier: float = Field(gt=0)
    steps: int = Field(gt=0)
    threshold: int = Field(gt=1)
    collusion_bound: int = Field(gt=0)
    #: 0 in events that counted on the threshold alone
    min_cohort: int = Field(default=0, ge=0)
    #: 0 in events whose shares stayed whole, however many survived
    cohort_size: int = Field(default=0, ge=0)
    grid: IntegerGrid | None = None

    @model_validator(mode="after")
    def _hides(self) -> Self:
        if self.threshold - self.collusion_bound < 2:
            raise ValueError(
                f"threshold ({self.threshold}) minus collusion_bound ({self.collusion_bound}) must be at least 2"
            )
        if self.grid is not None:
            share = self.noise_multiplier * self.grid.l2_sensitivity / math.sqrt(self.honest_survivors)
            if share < SMALLEST_SHARE_UNITS:
                raise ValueError(
                    f"a noise share of {share:g} grid units is lost in rounding; at least {SMALLEST_SHARE_UNITS:g} hold"
                )
        return self

    @property
    def smallest_sum(self) -> int:
        """s: sites in every sum that is opened, at least."""
        return max(self.threshold, self.min_cohort)

    @property
    def honest_survivors(self) -> int:
        """h: shares in every sum that no coalition knows."""
        return self.smallest_sum - self.collusion_bound

    @model_serializer(mode="wrap")
    def _without_absent_floor(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Ledgers hold events from before there were such fields: their bytes must stay what they were.
        data: dict[str, Any] = handler(self)
        for name in ("min_cohort", "cohort_size"):
            if data[name] == 0:
                del data[name]
        return data

    @property
    def largest_sum(self) -> int:
        """Survivors over which a sum may have the least noise a share can be left with."""
        return max(self.smallest_sum, self.cohort_size)

    def noise_multiplier_against(self, colluding_sites: int) -> float:
        """Noise that is unknown to k sites in every sum, at least: standard deviation over sensitivity after rounding.

        With u survivors u - k shares are unknown, and each has the variance of 1 / (u - c) of the whole, or more. The
        fraction is monotone in u, so one of the ends is the smallest. 0 where no share is unknown.
        """
        left = (max(0, u - colluding_sites) / (u - self.collusion_bound) for u in (self.smallest_sum, self.largest_sum))
        return self.noise_multiplier * math.sqrt(min(left))

    @property
    def noise_multiplier_alone(self) -> float:
        """Noise of a single share, at least."""
        return self.noise_multiplier / math.sqrt(self.largest_sum - self.collusion_bound)


class JointSubsampledGaussian(NoiseShares):
    """Sums of clipped gradients of Poisson-sampled records: central DP-SGD without a server."""

    mechanism: Literal["joint-poisson-subsampled-gaussian"] = "joint-poisson-subsampled-gaussian"
    version: Literal[1] = 1
    sample_rate: float = Field(gt=0, le=1)


class SiteGaussian(NoiseShares):
    """Sums of whole updates, each clipped as one vector: one sum a round.

    Nothing is sampled: who takes part is public. Which records a site's own steps drew does not matter, because the
    guarantee is to all that the site contributed, at once.
    """

    mechanism: Literal["site-gaussian"] = "site-gaussian"
    version: Literal[1] = 1


#: Every event an accountant may meet. A union, so that a new kind must be added to each accountant or raise there.
DpEvent = SubsampledGaussian | JointSubsampledGaussian | SiteGaussian
