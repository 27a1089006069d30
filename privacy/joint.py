"""Mode ``joint``: what one site adds to a step's secure sum, so that the sum carries the whole noise.

Every site samples its own records, clips, sums, rounds to the integer grid of the secure sum and adds a *share* of the
noise; only the sum of all sites is ever opened. With ``h`` honest sites in every sum, shares of standard deviation
``sigma * sensitivity / sqrt(h)`` add up to at least ``sigma * sensitivity``, whatever the others send.

- **Sensitivity after rounding.** Removing a record changes the clipped sum by at most C in L2 norm. Rounding with the
  same random draws moves a coordinate by at most one unit more than that, so on a grid of ``scale`` units the whole
  vector changes by at most ``C * scale + sqrt(d)`` units (triangle inequality; the draws do not depend on the data, so
  this holds for each outcome of them). Noise is sized for that. Clipping coordinates before only shrinks the change.
- **Rounded Gaussian noise.** For an integer vector x, ``x + round(N)`` is ``round(x + N)``: post-processing of the
  Gaussian mechanism, whose accounting therefore holds as it is. A sum of h rounded shares is, up to an aliasing error
  that shares of :data:`MIN_SHARE_UNITS` make smaller than any delta, what rounding a Gaussian plus h - 1 independent
  uniform numbers gives, which is post-processing again (docs/privacy.md).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from privacy.events import SMALLEST_SHARE_UNITS
from privacy.order import Order, TrainingSpec
from privacy.randomness import RandomSource, standard_normal
from privacy.secagg.encoding import decode, encode
from privacy.secagg.ring import Ring, RingVector
from tacit.errors import TrainingError

#: Smallest standard deviation of a share, in grid units: the aliasing error is then below 2^-400.
MIN_SHARE_UNITS = SMALLEST_SHARE_UNITS
#: A share stays within this many standard deviations but for one coordinate in 2^107.
NOISE_REACH = 12.0


@dataclass(frozen=True)
class JointGrid:
    """How a joint step's contributions are put on the integer grid.

    Args:
        scale: units of the grid in one unit of the gradient.
        value_bound: contributions, noise included, stay within this, in units of the gradient.
        ring_bits: of the secure sum.
        summands: sites that may be in a sum.
        honest: sites in every sum that add their share: threshold less collusion bound.
        length: coordinates.
    """

    scale: float
    value_bound: float
    ring_bits: int
    summands: int
    honest: int
    length: int

    @classmethod
    def of(cls, order: Order, collusion_bound: int) -> JointGrid:
        """The grid of an order's steps; ``collusion_bound`` comes from the agreement."""
        secagg = order.secagg
        return cls(
            scale=secagg.scale,
            value_bound=secagg.value_bound,
            ring_bits=secagg.ring_bits,
            summands=len(secagg.cohort),
            honest=secagg.threshold - collusion_bound,
            length=order.adapter_length,
        )

    def share_stddev(self, training: TrainingSpec) -> float:
        """Standard deviation of one site's noise on each coordinate, in units of the gradient."""
        sensitivity = training.l2_clip_norm + math.sqrt(self.length) / self.scale
        return training.noise_multiplier * sensitivity / math.sqrt(self.honest)

    def sum_bound(self, training: TrainingSpec) -> float:
        """What each coordinate of a clipped sum is clipped to before the noise.

        Raises:
            TrainingError: the grid is too coarse for the noise, or has no room beside it.
        """
        share = self.share_stddev(training)
        if share * self.scale < MIN_SHARE_UNITS:
            raise TrainingError(
                f"a noise share of {share:g} is {share * self.scale:.3g} units of the grid; expected at least "
                f"{MIN_SHARE_UNITS:g}",
                hint="use a ring of more bits, or a smaller value bound",
            )
        bound = self.value_bound - NOISE_REACH * share
        if bound <= 0:
            raise TrainingError(
                f"value bound {self.value_bound:g} leaves no room beside noise shares of {share:g}; expected more than "
                f"{NOISE_REACH * share:g}",
                hint="raise value_bound in [encoding]",
            )
        return bound


def joint_contribution(
    clipped_sum: npt.NDArray[np.float64],
    training: TrainingSpec,
    grid: JointGrid,
    *,
    noise: RandomSource,
    rounding: RandomSource,
) -> RingVector:
    """Return a site's contribution to a joint step: rounded clipped sum and noise share, ring elements [d].

    Args:
        clipped_sum: float64 [d], :func:`privacy.dpsgd.clipped_gradient_sum` over the site's Poisson sample.
        training: clip norm and noise multiplier, both of the whole sum.
        grid: of the secure sum.
        noise: where the share comes from.
        rounding: randomness of the rounding; must not depend on the data.

    Raises:
        TrainingError: see :meth:`JointGrid.sum_bound`, or another length.
        EncodingRange: the sum could wrap, or the gradient is not finite.
    """
    if clipped_sum.shape != (grid.length,):
        raise TrainingError(f"a clipped sum of shape {clipped_sum.shape} was given, expected ({grid.length},)")
    bound = grid.sum_bound(training)
    encoded = encode(
        np.clip(clipped_sum, -bound, bound),
        grid.scale,
        grid.value_bound,
        rounding,
        summands=grid.summands,
        bits=grid.ring_bits,
    )
    share_units = grid.share_stddev(training) * grid.scale
    drawn = np.rint(share_units * standard_normal(noise, grid.length)).astype(np.int64)
    encoded += drawn.astype(Ring(grid.ring_bits).dtype)
    return encoded


def joint_gradient(total: RingVector, survivors: int, order: Order) -> npt.NDArray[np.float64]:
    """Return the noised gradient that a step's sum stands for, float64 [d]: the same at every site.

    The divisor is the agreed batch size of a site times the number of sites in the sum, both public.

    Args:
        total: the opened sum, ring elements [d].
        survivors: how many sites are in it.
        order: what the sites were ordered.
    """
    decoded = decode(total, order.secagg.scale, survivors, bits=order.secagg.ring_bits)
    return decoded / (order.training.expected_batch_size * survivors)


class HeavyBall:
    """SGD with momentum in float64: ``v <- momentum v + g; w <- w - learning_rate v``, with ``v`` zero at first.

    All sites and the coordinator take the same steps from the same sums and hold the same weights.

    Args:
        vector: the weights to start from, float32 [d].
    """

    def __init__(self, vector: npt.NDArray[np.float32], *, learning_rate: float, momentum: float) -> None:
        self._weights = vector.astype(np.float64)
        self._velocity = np.zeros_like(self._weights)
        self._learning_rate = learning_rate
        self._momentum = momentum

    @property
    def vector(self) -> npt.NDArray[np.float32]:
        """The weights, float32 [d]."""
        return self._weights.astype(np.float32)

    @property
    def weights(self) -> npt.NDArray[np.float64]:
        """The weights as they are kept, float64 [d], a copy."""
        return self._weights.copy()

    def step(self, gradient: npt.NDArray[np.float64]) -> None:
        """Take one step along ``gradient``, float64 [d]."""
        self._velocity = self._momentum * self._velocity + gradient
        self._weights -= self._learning_rate * self._velocity
