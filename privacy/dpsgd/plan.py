"""Sampler, clip, noise, divisor and event of DP-SGD as one object, so that they cannot disagree.

After ``execution_plan.py`` of google-deepmind/jax_privacy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from privacy.clip_norm import ClipNorm
from privacy.dpsgd.clipping import ClipGroups
from privacy.events import Adjacency, PrivacyMode, PrivacyUnit, SubsampledGaussian
from privacy.options import AdaptiveClipSpec, LayerWeight
from privacy.order import TrainingSpec
from tacit.errors import TrainingError


@dataclass(frozen=True)
class DpSgdPlan:
    """``steps`` steps of DP-SGD (Abadi et al. 2016, Algorithm 1) over Poisson samples of records, or of users.

    Nothing here comes from the data: two datasets that differ in one record, or user, are trained under the same plan.

    Raises:
        TrainingError: a field is out of range.
    """

    #: probability with which each record, or user, enters each step's batch, independently
    sample_rate: float
    #: standard deviation of the noise divided by the clip norm; with adaptive clipping that of gradient and count
    noise_multiplier: float
    #: largest L2 norm that the gradient of one record, or user, can have in the sum; with adaptive clipping in that of
    #: the first step
    l2_clip_norm: float
    #: the divisor of the noised sum: a public, agreed number, never derived from a dataset's size
    expected_batch_size: float
    steps: int
    #: records that go through the model at once; bounds memory and changes nothing else
    physical_batch_size: int = 32
    clipping: Literal["flat", "per-layer"] = "flat"
    #: layers that count more or less than 1 when the clip norm's square is shared between layers
    layer_weights: tuple[LayerWeight, ...] = ()
    adaptive_clipping: AdaptiveClipSpec | None = None
    #: the most records of one user that enter a step; None: the privacy unit is a record
    max_records_per_user: int | None = None

    def __post_init__(self) -> None:
        for name in ("sample_rate", "noise_multiplier", "l2_clip_norm", "expected_batch_size"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise TrainingError(f"{name} is {value}, expected a finite number above 0")
        if self.sample_rate > 1:
            raise TrainingError(f"sample_rate is {self.sample_rate}, expected a probability, at most 1")
        for name in ("steps", "physical_batch_size", "max_records_per_user"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise TrainingError(f"{name} is {value}, expected at least 1")
        self.clip_norm()  # which refuses a count that would cost more than the step

    @classmethod
    def from_spec(cls, training: TrainingSpec, physical_batch_size: int = 32) -> DpSgdPlan:
        """The plan of one round's order."""
        return cls(
            sample_rate=training.sample_rate,
            noise_multiplier=training.noise_multiplier,
            l2_clip_norm=training.l2_clip_norm,
            expected_batch_size=training.expected_batch_size,
            steps=training.local_steps,
            physical_batch_size=physical_batch_size,
            clipping=training.clipping,
            layer_weights=training.layer_weights,
            adaptive_clipping=training.adaptive_clipping,
            max_records_per_user=training.max_records_per_user,
        )

    def clip_norm(self) -> ClipNorm:
        """The clip norm before the plan's first step.

        Raises:
            TrainingError: the count of adaptive clipping would cost more than the step.
        """
        return ClipNorm(self.l2_clip_norm, self.noise_multiplier, self.adaptive_clipping)

    def groups(self, names: Sequence[str]) -> ClipGroups:
        """What is clipped together, for an engine's parameter names.

        Raises:
            TrainingError: the layer weights do not fit the names.
        """
        if self.clipping == "flat":
            return ClipGroups.flat(len(names))
        return ClipGroups.per_layer(names, {each.layer: each.weight for each in self.layer_weights})

    @property
    def unit(self) -> PrivacyUnit:
        """What is sampled and clipped: a record, or a user with all that enters of it."""
        return PrivacyUnit.RECORD if self.max_records_per_user is None else PrivacyUnit.USER

    @property
    def noise_stddev(self) -> float:
        """Standard deviation of the noise on each coordinate of the first step's clipped sum."""
        return self.clip_norm().noise_stddev

    def event(self) -> SubsampledGaussian:
        """What carrying the plan out once spends. The options do not change it (docs/privacy.md, section 2c)."""
        return SubsampledGaussian(
            mode=PrivacyMode.LOCAL,
            unit=self.unit,
            adjacency=Adjacency.ADD_REMOVE,
            noise_multiplier=self.noise_multiplier,
            sample_rate=self.sample_rate,
            steps=self.steps,
        )
