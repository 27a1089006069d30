"""Options of a run's training: learning-rate schedule, Adam, per-layer clipping, adaptive clipping.

They are part of every order. None of them can weaken the guarantee that the agreement's limits stand for, so an
agreement need not mention them: schedule and optimiser only see what is noised already, per-layer clipping leaves the
whole clip norm as it was, adaptive clipping costs what the order's noise multiplier says and stays below the agreed
clip norm (docs/privacy.md, section 2c).
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from privacy.events import PrivacyMode


class _Option(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class AdamSpec(_Option):
    """Adam with decoupled weight decay and the noise's bias taken out of its second moment.

    Kingma and Ba 2015; Loshchilov and Hutter 2019; Tang, Shpilevskiy and Lécuyer 2024 (DP-AdamBC), algorithm 1.
    """

    beta1: float = Field(ge=0, lt=1, default=0.9)
    beta2: float = Field(ge=0, lt=1, default=0.999)
    #: least value of the corrected second moment, as a fraction of the noise's variance in it. With beta2 = 0.999 the
    #: estimate itself is off by 0.03 of that variance, so 0.1 is three standard errors.
    variance_floor: float = Field(gt=0, default=0.1)
    #: each step shrinks the weights by this times the learning rate
    weight_decay: float = Field(ge=0, default=0.0)


class AdaptiveClipSpec(_Option):
    """The clip norm follows a quantile of the gradients' norms (Andrew, Thakkar, McMahan and Ramaswamy 2021).

    A share of each step's budget pays for a noised count of records that were not clipped. What the pair costs is the
    order's noise multiplier; the gradient gets the larger :func:`gradient_noise_multiplier`.
    """

    #: the fraction of records that should not be clipped; gamma in the paper
    quantile: float = Field(gt=0, lt=1, default=0.5)
    #: of the geometric update; eta_C in the paper
    learning_rate: float = Field(gt=0, le=1, default=0.2)
    #: standard deviation of the noise on the count, in records; sigma_b in the paper
    count_noise_stddev: float = Field(gt=0)
    #: the clip norm stays between these two; the agreement limits the larger
    min_l2_clip_norm: float = Field(gt=0)
    max_l2_clip_norm: float = Field(gt=0)


class LayerWeight(_Option):
    """How much of the clip norm's square goes to a layer: ``weight`` beside the 1 of layers that are not named."""

    #: one of the dotted parts of the layer's name, or the whole: ``classifier``, ``query``
    layer: str = Field(min_length=1, max_length=200)
    weight: float = Field(gt=0)


class TrainingOptions(_Option):
    """What the run file's ``[training]`` and an order's training have in common: DP-SGD's parameters and options."""

    local_steps: int = Field(gt=0)
    sample_rate: float = Field(gt=0, le=1)
    #: noise's standard deviation divided by the clip norm, of the whole step
    noise_multiplier: float = Field(gt=0)
    l2_clip_norm: float = Field(gt=0)
    learning_rate: float = Field(gt=0)
    #: of SGD
    momentum: float = Field(ge=0, lt=1, default=0.0)
    #: of the learning rate over all steps of the run, after the warm-up: public, so it costs nothing
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    #: steps over which the learning rate rises to its full value
    warmup_steps: int = Field(ge=0, default=0)
    #: None: SGD with momentum
    adam: AdamSpec | None = None
    clipping: Literal["flat", "per-layer"] = "flat"
    layer_weights: Annotated[
        tuple[LayerWeight, ...],
        BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value),
        Field(max_length=1000),
    ] = ()
    #: None: the clip norm is fixed
    adaptive_clipping: AdaptiveClipSpec | None = None

    @model_validator(mode="after")
    def _options_fit_together(self) -> TrainingOptions:
        if self.adam is not None and self.momentum != 0:
            raise ValueError(f"momentum ({self.momentum}) is SGD's; with adam, set adam.beta1 instead")
        if self.layer_weights and self.clipping != "per-layer":
            raise ValueError('layer_weights need clipping = "per-layer"')
        layers = [each.layer for each in self.layer_weights]
        if len(set(layers)) != len(layers):
            raise ValueError("layer_weights must not name a layer twice")
        adaptive = self.adaptive_clipping
        if adaptive is not None:
            gradient_noise_multiplier(self.noise_multiplier, adaptive.count_noise_stddev)
            if not adaptive.min_l2_clip_norm <= self.l2_clip_norm <= adaptive.max_l2_clip_norm:
                raise ValueError(
                    f"l2_clip_norm ({self.l2_clip_norm}) is where adaptive clipping starts; it must lie between "
                    f"min_l2_clip_norm ({adaptive.min_l2_clip_norm}) and max_l2_clip_norm "
                    f"({adaptive.max_l2_clip_norm})"
                )
        return self

    def check_run(self, mode: PrivacyMode, steps: int) -> None:
        """Raise ValueError if the options do not fit a run.

        Args:
            mode: ``site`` clips whole updates and noises no single step, so nothing that looks at a record's gradient
                or at a step's noise goes with it.
            steps: of the whole run; the warm-up must take fewer.
        """
        if mode is PrivacyMode.SITE:
            given = {
                "adam": self.adam is not None,
                "clipping": self.clipping != "flat",
                "adaptive_clipping": self.adaptive_clipping is not None,
            }
            if refused := [name for name, is_given in given.items() if is_given]:
                raise ValueError(f"mode 'site' has no {', '.join(refused)}: it clips and noises whole updates only")
        if self.warmup_steps >= steps:
            raise ValueError(
                f"warmup_steps ({self.warmup_steps}) must be fewer than the {steps} steps of the whole run"
            )


def gradient_noise_multiplier(noise_multiplier: float, count_noise_stddev: float) -> float:
    """Noise multiplier of the gradient, so that it and the noised count cost ``noise_multiplier`` together.

    ``(sigma^-2 - (2 sigma_b)^-2)^-1/2``: Andrew et al. 2021, theorem 1. The count is of indicators less 1/2, which one
    record changes by 1/2.

    Raises:
        ValueError: the count alone would cost more than both may.
    """
    if not 2 * count_noise_stddev > noise_multiplier:
        raise ValueError(
            f"count_noise_stddev ({count_noise_stddev}) must be above half the noise multiplier "
            f"({noise_multiplier / 2}): the count alone would cost the whole step"
        )
    return noise_multiplier / math.sqrt(1.0 - (noise_multiplier / (2.0 * count_noise_stddev)) ** 2)
