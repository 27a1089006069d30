"""The clip norm of each step: fixed, or following a quantile of the gradients' norms through a noised count."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from privacy.options import AdaptiveClipSpec, TrainingOptions, gradient_noise_multiplier
from tacit.errors import TrainingError

Float64 = npt.NDArray[np.float64]


class ClipNorm:
    """The clip norm C of the step that comes next, and how that step's budget is shared.

    With adaptive clipping a step gives two things: the sum of clipped gradients with noise ``sigma_delta C`` and the
    sum over the sampled records of (1 if not clipped, else 0) - 1/2 with noise ``sigma_b``. One record changes the
    first by at most C and the second by 1/2, so both in units of their noise are one Gaussian mechanism of noise
    multiplier ``(sigma_delta^-2 + (2 sigma_b)^-2)^-1/2 = sigma``, the order's (Andrew et al. 2021, theorem 1).

    The state follows from noised counts alone, never from a count in clear.

    Args:
        l2_clip_norm: the first C.
        noise_multiplier: sigma, of the whole step.
        adaptive: None: C stays.

    Raises:
        TrainingError: the count's noise is too small for the order's noise multiplier.
    """

    def __init__(self, l2_clip_norm: float, noise_multiplier: float, adaptive: AdaptiveClipSpec | None = None) -> None:
        self.value = l2_clip_norm
        self.adaptive = adaptive
        #: sigma_delta: of the gradient alone
        self.gradient_noise_multiplier = noise_multiplier
        self._start = l2_clip_norm
        self._noise_multiplier = noise_multiplier
        if adaptive is not None:
            try:
                self.gradient_noise_multiplier = gradient_noise_multiplier(
                    noise_multiplier, adaptive.count_noise_stddev
                )
            except ValueError as error:
                raise TrainingError(str(error), hint="raise count_noise_stddev") from error

    @classmethod
    def of(cls, training: TrainingOptions) -> ClipNorm:
        """The clip norm at the start of a round."""
        return cls(training.l2_clip_norm, training.noise_multiplier, training.adaptive_clipping)

    @property
    def noise_stddev(self) -> float:
        """Standard deviation of the noise on each coordinate of the clipped sum."""
        return self.gradient_noise_multiplier * self.value

    def follow(self, noised_count: float, expected_batch_size: float) -> None:
        """Move the clip norm towards the quantile: ``C <- C exp(-eta (b - gamma))``, within its bounds.

        Args:
            noised_count: over the sample, (1 if not clipped, else 0) - 1/2 summed, and noise.
            expected_batch_size: the public divisor. If the sites hold fewer records than agreed, b is drawn towards
                1/2.
        """
        if self.adaptive is None:
            raise TrainingError("this clip norm is fixed; expected no count to follow")
        spec = self.adaptive
        unclipped = noised_count / expected_batch_size + 0.5
        # In float32, so that two machines whose exp differs in the last bit of a double still hold the same norm.
        factor = float(np.float32(math.exp(_within(-spec.learning_rate * (unclipped - spec.quantile), -50.0, 50.0))))
        self.value = _within(self.value * factor, spec.min_l2_clip_norm, spec.max_l2_clip_norm)

    # --- gradient and count as one vector with the same noise on every coordinate, for the secure sum

    def join(self, clipped_sum: Float64, centred_count: float) -> Float64:
        """Return what goes into the secure sum: the gradient sum, and with adaptive clipping the count beside it.

        Both are scaled so that noise of ``sigma`` times the first clip norm on each coordinate is ``sigma_delta C`` on
        the gradient and ``sigma_b`` on the count. One record changes the vector by at most the first clip norm.

        Args:
            clipped_sum: float64 [d].
            centred_count: over the sample, (1 if not clipped, else 0) - 1/2 summed.

        Returns:
            float64 [d], or [d + 1] with adaptive clipping.
        """
        if self.adaptive is None:
            return clipped_sum
        return np.append(clipped_sum * self._gradient_scale, centred_count * self._count_scale)

    def split(self, joined: Float64) -> tuple[Float64, float]:
        """Undo :meth:`join`: the gradient, float64 [d], and the count (0 if the clip norm is fixed)."""
        if self.adaptive is None:
            return joined, 0.0
        return joined[:-1] / self._gradient_scale, float(joined[-1]) / self._count_scale

    @property
    def _gradient_scale(self) -> float:
        return self._start * self._noise_multiplier / self.noise_stddev

    @property
    def _count_scale(self) -> float:
        assert self.adaptive is not None
        return self._start * self._noise_multiplier / self.adaptive.count_noise_stddev

    def gradient_stddev(self, joined_stddev: float) -> float:
        """What noise of ``joined_stddev`` on a joined vector is on the gradient."""
        return joined_stddev if self.adaptive is None else joined_stddev / self._gradient_scale


def _within(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)
