"""Noise in shares: how sites put their vectors on the integer grid of a secure sum that carries the whole noise.

Every site rounds its vector to the grid and adds a *share* of the noise; only the sum of all sites is ever opened. With
``h`` honest sites in every sum, shares of standard deviation ``sigma * sensitivity / sqrt(h)`` add up to at least
``sigma * sensitivity``, whatever the others send. Modes ``joint`` and ``site`` differ in what the vector is.

- **Sensitivity after rounding.** Leaving out one unit (a record's gradient, a site's update) changes what was clipped
  by at most C in L2 norm. Rounding with the same random draws moves a coordinate by at most one unit more than that, so
  on a grid of ``scale`` units the whole vector changes by at most ``C * scale + sqrt(d)`` units (triangle inequality;
  the draws do not depend on the data, so this holds for each outcome of them). Noise is sized for that. Clipping
  coordinates before only shrinks the change.
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
from privacy.secagg.encoding import encode
from privacy.secagg.ring import Ring, RingVector
from privacy.secagg.threshold import survivors_required
from tacit.errors import TrainingError

#: Smallest standard deviation of a share, in grid units: the aliasing error is then below 2^-400.
MIN_SHARE_UNITS = SMALLEST_SHARE_UNITS
#: A share stays within this many standard deviations but for one coordinate in 2^107.
NOISE_REACH = 12.0


@dataclass(frozen=True)
class ShareGrid:
    """How the contributions to a sum are put on the integer grid.

    Args:
        scale: units of the grid in one unit of the vector.
        value_bound: contributions, noise included, stay within this, in units of the vector.
        ring_bits: of the secure sum.
        summands: sites that may be in a sum.
        honest: sites in every sum that add their share: the fewest a sum opens over, less the collusion bound.
        length: coordinates.
    """

    scale: float
    value_bound: float
    ring_bits: int
    summands: int
    honest: int
    length: int

    @classmethod
    def of(cls, order: Order, collusion_bound: int) -> ShareGrid:
        """The grid of an order's sums; ``collusion_bound`` comes from the agreement."""
        secagg = order.secagg
        return cls(
            scale=secagg.scale,
            value_bound=secagg.value_bound,
            ring_bits=secagg.ring_bits,
            summands=len(secagg.cohort),
            honest=survivors_required(secagg.threshold, secagg.min_cohort) - collusion_bound,
            length=order.vector_length,
        )

    def share_stddev(self, training: TrainingSpec) -> float:
        """Standard deviation of one site's noise on each coordinate, in units of the vector."""
        sensitivity = training.l2_clip_norm + math.sqrt(self.length) / self.scale
        return training.noise_multiplier * sensitivity / math.sqrt(self.honest)

    def sum_bound(self, training: TrainingSpec) -> float:
        """What each coordinate of a vector is clipped to before the noise.

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


def noised_contribution(
    vector: npt.NDArray[np.float64],
    training: TrainingSpec,
    grid: ShareGrid,
    *,
    noise: RandomSource,
    rounding: RandomSource,
) -> RingVector:
    """Return a site's contribution to a sum: its vector, rounded, and a noise share, ring elements [d].

    Args:
        vector: float64 [d]; leaving out one unit changes it by at most ``training.l2_clip_norm`` in L2 norm.
        training: clip norm and noise multiplier, both of the whole sum.
        grid: of the secure sum.
        noise: where the share comes from.
        rounding: randomness of the rounding; must not depend on the data.

    Raises:
        TrainingError: see :meth:`ShareGrid.sum_bound`, or another length.
        EncodingRange: the sum could wrap, or the vector is not finite.
    """
    if vector.shape != (grid.length,):
        raise TrainingError(f"a vector of shape {vector.shape} was given, expected ({grid.length},)")
    bound = grid.sum_bound(training)
    encoded = encode(
        np.clip(vector, -bound, bound),
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
