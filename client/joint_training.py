"""A site's part of a round in mode ``joint``: a noised gradient sum for each secure step, and the step all take."""

from __future__ import annotations

from types import TracebackType
from typing import Self

import numpy as np

from client.training import check_model, open_engine
from models.classifier import AdapterModel
from models.layout import Vector
from models.tokens import TokenisedData
from privacy.dpsgd import DpSgdPlan, sampled_sum
from privacy.joint import JointSteps
from privacy.noise_shares import ShareGrid, noised_contribution
from privacy.order import Order
from privacy.randomness import RandomSource
from privacy.secagg.effects import Ended
from privacy.secagg.surplus import Contribution


class JointTraining:
    """One site through the steps of one order. A context manager, which holds the gradient engine.

    The site samples its own records, or users, at the common rate and never applies anything but opened sums, so that
    its weights are those of every other site and of the coordinator.

    Args:
        model: built from the order's base model, LoRA and labels; changed in place.
        data: the site's records, tokenised by ``model``.
        global_vector: the adapter the round starts from, float32 [d].
        order: an order of mode ``joint`` that the gate has accepted and the ledger has reserved.
        collusion_bound: by agreement.
        noise: where sampling and noise come from.
        rounding: randomness of the rounding.

    Raises:
        TrainingError: the model is not the order's, the grid does not fit the noise, or the engine refuses the model.
    """

    def __init__(
        self,
        model: AdapterModel,
        data: TokenisedData,
        global_vector: Vector,
        order: Order,
        collusion_bound: int,
        *,
        noise: RandomSource,
        rounding: RandomSource,
    ) -> None:
        check_model(model, order)
        self._model = model
        self._data = data
        self._order = order
        self._plan = DpSgdPlan.from_spec(order.training)
        self._grid = ShareGrid.of(order, collusion_bound)
        self._grid.sum_bound(order.training)
        self._noise = noise
        self._rounding = rounding
        self._steps = JointSteps(global_vector, order, collusion_bound)
        model.set_vector(global_vector)
        self._engine = open_engine(model)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._engine.close()

    def contribution(self) -> Contribution:
        """Return what this site adds to the next step's sum: ring elements, shape ``(vector_length,)``.

        An empty sample contributes noise alone, and counts.
        """
        clip = self._steps.clip
        sample = sampled_sum(self._engine, self._data, self._plan, self._noise, self._data.users, clip.value)
        joined = clip.join(sample.total, sample.centred_count)
        return noised_contribution(joined, self._order.training, self._grid, noise=self._noise, rounding=self._rounding)

    def apply(self, ended: Ended) -> None:
        """Take the step that all sites take. A burnt step changes nothing, and the last sum is not told: the next round
        starts from what the coordinator made of it."""
        if ended.total is None:
            return
        self._steps.take(ended.step, np.asarray(ended.total), len(ended.survivors))
        self._model.set_vector(self._steps.vector)
