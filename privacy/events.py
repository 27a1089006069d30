"""Privacy spending as plain data. Accountants interpret it; an event nobody knows raises.

After ``dp_accounting/dp_event.py`` of google/differential-privacy: an event says what was done, never what it cost.
"""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class PrivacyMode(StrEnum):
    """How noise and aggregation are arranged (design, section 4). Later modes are added here and nowhere else."""

    LOCAL = "local"
    JOINT = "joint"


class PrivacyUnit(StrEnum):
    """What one neighbouring dataset differs in."""

    RECORD = "record"


class Adjacency(StrEnum):
    """The neighbouring relation."""

    ADD_REMOVE = "add-remove"


class SubsampledGaussian(BaseModel):
    """``steps`` compositions of the Gaussian mechanism on Poisson samples (Abadi et al. 2016; Mironov et al. 2019).

    ``noise_multiplier`` is the noise's standard deviation divided by the clip norm; ``sample_rate`` is the
    probability with which each record enters each step's batch, independently.
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


#: Standard deviation of one site's noise share, in units of the integer grid, from which a sum of integer noises is as
#: good as one of the whole deviation: the densities of the two differ by less than a factor of 1 + exp(-150) in a
#: coordinate (Kairouz, Liu and Steinke 2021, on sums of discrete Gaussians, for up to 128 sites).
SMALLEST_SHARE = 4.0


class IntegerGrid(BaseModel):
    """Where vectors are rounded before they are summed: each coordinate times ``scale``, stochastically to an integer.

    ``l2_clip_norm`` is a record's largest L2 norm before; ``dimension`` the number of coordinates.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)

    l2_clip_norm: float = Field(gt=0)
    scale: float = Field(gt=0)
    dimension: int = Field(gt=0)

    @property
    def l2_sensitivity(self) -> float:
        """What one record changes a rounded sum by, in grid units: at most ``scale l2_clip_norm + sqrt(dimension)``.

        Rounding is floor(x + u) with u uniform and independent of the data. For every u two sums that differ by g
        differ, once rounded, by less than |scale g| + 1 in each coordinate; the triangle inequality in L2 gives the
        bound.
        It holds always, not only with high probability as Kairouz, Liu and Steinke 2021, proposition 26, does.
        """
        return self.scale * self.l2_clip_norm + math.sqrt(self.dimension)


class JointSubsampledGaussian(BaseModel):
    """``steps`` secure sums of clipped, Poisson-sampled gradients with the noise in shares: central DP-SGD, no server.

    Every site rounds its sum of clipped gradients to ``grid`` and then adds integer Gaussian noise of standard
    deviation ``noise_multiplier l2_clip_norm scale / sqrt(h)``, h = ``threshold`` - ``collusion_bound``. A sum opens
    over ``threshold`` survivors or more. At most ``collusion_bound`` of them collude, so h shares or more are
    unknown to any coalition and add up to the full deviation; what one site adds alone protects nothing.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)

    mechanism: Literal["joint-poisson-subsampled-gaussian"] = "joint-poisson-subsampled-gaussian"
    version: Literal[1] = 1
    mode: Annotated[PrivacyMode, Field(strict=False)]
    unit: Annotated[PrivacyUnit, Field(strict=False)]
    adjacency: Annotated[Adjacency, Field(strict=False)]
    noise_multiplier: float = Field(gt=0)
    sample_rate: float = Field(gt=0, le=1)
    steps: int = Field(gt=0)
    threshold: int = Field(gt=1)
    collusion_bound: int = Field(gt=0)
    grid: IntegerGrid

    @model_validator(mode="after")
    def _hides(self) -> JointSubsampledGaussian:
        if self.honest_survivors < 2:
            raise ValueError(
                f"threshold ({self.threshold}) minus collusion_bound ({self.collusion_bound}) must be at least 2"
            )
        if self.share < SMALLEST_SHARE:
            raise ValueError(
                f"a noise share of {self.share:g} grid units is lost in rounding; expected {SMALLEST_SHARE:g} or more"
            )
        return self

    @property
    def honest_survivors(self) -> int:
        """h: shares in every sum that no coalition knows."""
        return self.threshold - self.collusion_bound

    @property
    def share(self) -> float:
        """Standard deviation of one site's noise, in grid units."""
        return self.noise_multiplier * self.grid.l2_clip_norm * self.grid.scale / math.sqrt(self.honest_survivors)

    def noise_multiplier_of(self, shares: int) -> float:
        """Standard deviation of ``shares`` shares over the sensitivity after rounding: what an accountant composes."""
        return self.share * math.sqrt(shares) / self.grid.l2_sensitivity


#: Every event an accountant may meet. A union, so that a new kind must be added to each accountant or raise there.
DpEvent = SubsampledGaussian | JointSubsampledGaussian
