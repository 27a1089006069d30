"""A site's part of a round in mode ``site``: K steps of plain SGD, sent as one clipped, noised vector."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from client.training import check_model
from models.classifier import AdapterModel
from models.layout import Vector
from models.tokens import TokenisedData
from privacy.dpsgd import physical_batches, poisson_sample
from privacy.dpsgd.sampling import Indices
from privacy.noise_shares import ShareGrid
from privacy.optimisers import LearningRates, first_step_of, optimiser_of
from privacy.order import Order
from privacy.randomness import RandomSource
from privacy.secagg.surplus import Contribution
from privacy.site_delta import site_contribution

#: records that go through the model at once; bounds memory and changes nothing else
_PHYSICAL_BATCH_SIZE = 32


def site_update(
    model: AdapterModel,
    data: TokenisedData,
    global_vector: Vector,
    order: Order,
    collusion_bound: int,
    on_step: Callable[[int, int], None] = lambda done, total: None,
    *,
    noise: RandomSource,
    rounding: RandomSource,
) -> Contribution:
    """Train for one round and return what this site adds to its sum: ring elements, shape ``(adapter_length,)``.

    Args:
        collusion_bound: by agreement.
        noise: where sampling and the noise share come from.
        rounding: randomness of the rounding.
        model, data, global_vector, order, on_step: as :func:`train_without_noise`.

    Raises:
        TrainingError: the model is not the order's, or the grid does not fit the noise.
        ModelError: ``global_vector`` does not fit the model or is not finite.
    """
    moved = train_without_noise(model, data, global_vector, order, noise, on_step)
    grid = ShareGrid.of(order, collusion_bound)
    return site_contribution(moved, order.training, grid, noise=noise, rounding=rounding)


def train_without_noise(
    model: AdapterModel,
    data: TokenisedData,
    global_vector: Vector,
    order: Order,
    source: RandomSource,
    on_step: Callable[[int, int], None] = lambda done, total: None,
) -> npt.NDArray[np.float64]:
    """Train for ``order.training.local_steps`` steps and return how far the adapter moved: secret, and unbounded.

    The result protects nothing by itself: the caller clips it whole, and the noise is in the sum
    (:func:`privacy.site_delta.site_contribution`). A step takes the gradient sum over a Poisson sample, over the agreed
    batch size as in every other mode, and SGD with heavy-ball momentum at the order's learning rates. A model that
    diverges gives zeros: an error would tell the coordinator something about the data.

    Args:
        model: built from the order's base model, LoRA and labels; changed in place.
        data: the site's records, tokenised by ``model``.
        global_vector: the adapter the round starts from, float32 [d].
        order: an order of mode ``site`` that the gate has accepted and the ledger has reserved.
        source: where sampling comes from.
        on_step: called with (steps done, steps in all) after each step.

    Returns:
        local adapter minus ``global_vector``, float64 [d]; always finite.

    Raises:
        TrainingError: the model is not the order's.
        ModelError: ``global_vector`` does not fit the model or is not finite.
    """
    check_model(model, order)
    training = order.training
    optimiser, rates = optimiser_of(training, global_vector), LearningRates.of(order)
    model.set_vector(global_vector)
    for step in range(training.local_steps):
        indices = poisson_sample(source, len(data), training.sample_rate)
        with np.errstate(all="ignore"):
            optimiser.step(
                _gradient_sum(model, data, indices) / training.expected_batch_size,
                learning_rate=rates.at(first_step_of(order) + step),
                noise_variance=0.0,
            )
            moved = optimiser.vector
        if not np.isfinite(moved).all():
            return np.zeros(global_vector.size)
        model.set_vector(moved)
        on_step(step + 1, training.local_steps)
    return optimiser.vector.astype(np.float64) - global_vector.astype(np.float64)


def _gradient_sum(model: AdapterModel, data: TokenisedData, indices: Indices) -> npt.NDArray[np.float64]:
    """Sum of the losses' gradients over the records at ``indices``, float64 [d]; zeros for an empty sample."""
    parameters = list(model.parameters.values())
    total = np.zeros(sum(parameter.numel() for parameter in parameters))
    for rows in physical_batches(indices, data.lengths, _PHYSICAL_BATCH_SIZE):
        gradients = torch.autograd.grad(model.per_example_loss(data.batch(rows)).sum(), parameters)
        total += torch.cat([gradient.flatten() for gradient in gradients]).numpy(force=True)
    return total
