"""Mode ``joint``: what a step's opened sum stands for, and the step that all take from it.

What a site adds to the sum is its clipped gradient sum with a share of the noise (:mod:`privacy.noise_shares`).
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from privacy.clip_norm import ClipNorm
from privacy.noise_shares import ShareGrid
from privacy.optimisers import LearningRates, first_step_of, optimiser_of
from privacy.order import Order
from privacy.secagg.encoding import decode
from privacy.secagg.ring import RingVector


def joint_gradient(total: RingVector, survivors: int, order: Order) -> npt.NDArray[np.float64]:
    """Return the noised vector that a step's sum stands for, float64 [d]: the same at every site.

    It is the gradient, and with adaptive clipping what :meth:`privacy.clip_norm.ClipNorm.join` makes of it.

    The divisor is the agreed batch size of a site times the number of sites in the sum, both public.

    Args:
        total: the opened sum, ring elements [d].
        survivors: how many sites are in it.
        order: what the sites were ordered.
    """
    decoded = decode(total, order.secagg.scale, survivors, bits=order.secagg.ring_bits)
    return decoded / (order.training.expected_batch_size * survivors)


class JointSteps:
    """The steps of one order's round, as every site and the coordinator take them from the same opened sums.

    Optimiser state, learning rates and an adaptive clip norm follow from the order and the sums alone. They start
    afresh in each round, because a site is not told a round's last sum. A burnt step is left out by everybody.

    Args:
        vector: the adapter the round starts from, float32 [d].
        order: of mode ``joint``.
        collusion_bound: by agreement; says how wide the noise shares in a sum are.
    """

    def __init__(self, vector: npt.NDArray[np.float32], order: Order, collusion_bound: int) -> None:
        self._order = order
        self._grid = ShareGrid.of(order, collusion_bound)
        self._optimiser = optimiser_of(order.training, vector)
        self._rates = LearningRates.of(order)
        #: the clip norm of the next step
        self.clip = ClipNorm.of(order.training)

    @property
    def vector(self) -> npt.NDArray[np.float32]:
        """The adapter after the steps so far, float32 [d]."""
        return self._optimiser.vector

    def take(self, step: int, total: RingVector, survivors: int) -> None:
        """Take the step that an opened sum stands for.

        Args:
            step: the secure step's number.
            total: the opened sum, ring elements [vector_length].
            survivors: how many sites are in it.
        """
        order = self._order
        gradient, count = self.clip.split(joint_gradient(total, survivors, order))
        # What is left of all survivors' shares; a little more if one vanished before it could show its surplus.
        # Rounding adds less than a unit's variance, which nobody would notice.
        batch = order.training.expected_batch_size * survivors
        kept = self._grid.kept_stddev(order.training, survivors)
        noise_stddev = self.clip.gradient_stddev(kept * math.sqrt(survivors) / batch)
        self._optimiser.step(
            gradient,
            learning_rate=self._rates.at(first_step_of(order) + step - order.step),
            noise_variance=noise_stddev**2,
        )
        if self.clip.adaptive is not None:
            # the count is over the expected batch already
            self.clip.follow(count, 1.0)
