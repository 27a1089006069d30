"""Joint DP-SGD: the coordinator takes the very steps that the sites take, from the same noised sums."""

from __future__ import annotations

import logging

import numpy as np
import numpy.typing as npt

from privacy.joint import JointSteps
from privacy.order import Order
from strategies.secure_fedavg import SecureFedAvg
from tacit.errors import StepBurnt

_log = logging.getLogger(__name__)


class JointDpSgd(SecureFedAvg):
    """Flower strategy of mode ``joint``: one secure sum for every step of training, all on one session.

    A burnt step is left out by everybody; a round in which all were burnt has no result. A site counts as a survivor of
    the round if it is in its last sum.
    """

    def combine(self, order: Order, vector: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float32], tuple[str, ...]]:
        """Take a step for each sum of the round."""
        steps = JointSteps(vector, order, self._orders.plan.collusion_bound)
        survivors: tuple[str, ...] = ()
        burnt: StepBurnt | None = None
        for step in range(order.step, order.step + order.secagg.steps):
            try:
                result = self._sums.await_step(order, step)
            except StepBurnt as error:
                _log.warning("step %d of %d was burnt: %s", step, order.secagg.steps, error.message)
                burnt = error
                continue
            steps.take(step, result.total, len(result.survivors))
            survivors = result.survivors
        if not survivors and burnt is not None:
            raise burnt
        return steps.vector, survivors
