"""Privacy spending as plain data. Accountants interpret it; an event nobody knows raises.

After ``dp_accounting/dp_event.py`` of google/differential-privacy: an event says what was done, never what it cost.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class PrivacyMode(StrEnum):
    """How noise and aggregation are arranged (design, section 4). Later modes are added here and nowhere else."""

    #: every site's own noise protects its records, even if all others collude
    LOCAL = "local"
    #: sites share the noise of a sum: central-DP noise without a trusted server, against at most c colluding sites
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


#: Every event an accountant may meet. A union, so that a new kind must be added to each accountant or raise there.
DpEvent = SubsampledGaussian
