"""Mode ``joint``: what a step's opened sum stands for, and the step that all take from it.

What a site adds to the sum is its clipped gradient sum with a share of the noise (:mod:`privacy.noise_shares`).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from privacy.order import Order
from privacy.secagg.encoding import decode
from privacy.secagg.ring import RingVector


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

    def step(self, gradient: npt.NDArray[np.float64]) -> None:
        """Take one step along ``gradient``, float64 [d]."""
        self._velocity = self._momentum * self._velocity + gradient
        self._weights -= self._learning_rate * self._velocity
