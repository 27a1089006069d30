"""What a run computes, without what protects it on the way: one process, no TLS, no masks, no ledger, no Flower.

Engine, sampling, clipping, noise, integer grid, sum and optimiser are the project's own; only the masks are left out,
which cancel in the sum anyway. A test holds both modes against ``tacit simulate`` with the same seeds, bit for bit. All
sites share one model object, because all hold the same weights at every step's start. A head on frozen embeddings has
its own, faster way to the same clipped sum (:meth:`FrozenHead.clipped_sum`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from client.training import open_engine
from models.layout import Vector
from privacy.dpsgd import DpSgdPlan, clipped_gradient_sum, poisson_sample
from privacy.dpsgd.sampling import Indices
from privacy.joint import JointSteps
from privacy.noise_shares import ShareGrid, noised_contribution
from privacy.optimisers import HeavyBall
from privacy.order import Order
from privacy.randomness import RandomSource, SeededRandomSource, standard_normal
from privacy.secagg.encoding import encode
from privacy.secagg.ring import Ring
from privacy.secagg.surplus import SEED_BYTES
from simulations.benchmarks.frozen_head import FrozenHead
from strategies.orders import OrderBook
from strategies.secure_fedavg import mean_update
from strategies.secure_sum import SumResult

Source = Callable[[str, Order, str], RandomSource]
Model = Any
"""An :class:`models.classifier.AdapterModel` or a :class:`simulations.benchmarks.frozen_head.FrozenHead`."""
ClippedSum = Callable[[Any, Indices], npt.NDArray[np.float64]]
Records = Any
"""What such a model trains on: :class:`privacy.dpsgd.Examples`."""


def seeded(seed: int) -> Source:
    """Streams as a site's agent has them under a test seed: reproducible, and no privacy."""
    return lambda site, order, purpose: SeededRandomSource(seed, f"{site}/{order.round}/{order.step}/{purpose}")


def run_joint(
    model: Model, sites: Mapping[str, Records], book: OrderBook, start: Vector, collusion_bound: int, source: Source
) -> Vector:
    """Carry out a run in mode ``joint`` in which no site is ever lost; return the last adapter, float32 [d]."""
    vector = start
    for number in range(1, book.plan.rounds + 1):
        vector = _joint_round(model, sites, book.next(number, vector), vector, collusion_bound, source)
    return vector


def run_local(
    model: Model,
    sites: Mapping[str, Records],
    book: OrderBook,
    start: Vector,
    source: Source,
    server_learning_rate: float = 1.0,
) -> Vector:
    """Carry out a run in mode ``local`` in which no site is ever lost; return the last adapter, float32 [d]."""
    vector = start
    for number in range(1, book.plan.rounds + 1):
        order = book.next(number, vector)
        secagg = order.secagg
        total = np.zeros(order.vector_length, dtype=Ring(secagg.ring_bits).dtype)
        for site in secagg.cohort:
            total += encode(
                _train_round(model, sites[site], vector, order, source(site, order, "noise")),
                secagg.scale,
                secagg.value_bound,
                source(site, order, "rounding"),
                summands=len(secagg.cohort),
                bits=secagg.ring_bits,
            )
        update = server_learning_rate * mean_update(order, SumResult(total, secagg.cohort))
        vector = (vector + update).astype(np.float32)
    return vector


def run_central(
    model: Model,
    records: Records,
    plan: DpSgdPlan,
    start: Vector,
    *,
    learning_rate: float,
    momentum: float,
    source: RandomSource,
) -> Vector:
    """DP-SGD by somebody who holds all records: what a trusted server could do."""
    optimiser = HeavyBall(start, momentum=momentum)
    model.set_vector(start)
    with _clipped_sums(model, plan) as clipped_sum:
        for _ in range(plan.steps):
            gradient = _noisy_gradient(clipped_sum, records, plan, source)
            optimiser.step(gradient, learning_rate=learning_rate, noise_variance=0.0)
            model.set_vector(optimiser.vector)
    return optimiser.vector


def run_plain(
    model: Model, records: Records, start: Vector, *, epochs: int, batch_size: int, learning_rate: float, seed: int
) -> Vector:
    """AdamW on shuffled batches, without any privacy."""
    generator = np.random.default_rng(seed)
    model.set_vector(start)
    parameters = list(model.parameters.values())
    optimiser = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.0)
    for _ in range(epochs):
        shuffled = generator.permutation(len(records))
        for first in range(0, len(shuffled), batch_size):
            optimiser.zero_grad()
            model.per_example_loss(records.batch(shuffled[first : first + batch_size])).mean().backward()
            optimiser.step()
    optimiser.zero_grad()
    return model.get_vector()


def run_plain_federated(
    model: Model,
    sites: Mapping[str, Records],
    start: Vector,
    *,
    rounds: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
) -> Vector:
    """FedAvg without any privacy: an epoch at each site, mean weighted by records (McMahan et al. 2017)."""
    vector = start.astype(np.float64)
    records = sum(len(data) for data in sites.values())
    for number in range(rounds):
        mean = np.zeros_like(vector)
        for index, data in enumerate(sites.values()):
            local = run_plain(
                model,
                data,
                vector.astype(np.float32),
                epochs=1,
                batch_size=batch_size,
                learning_rate=learning_rate,
                seed=seed + 1000 * number + index,
            )
            mean += local.astype(np.float64) * (len(data) / records)
        vector = mean
    return vector.astype(np.float32)


def _joint_round(
    model: Model, sites: Mapping[str, Records], order: Order, vector: Vector, collusion_bound: int, source: Source
) -> Vector:
    training, secagg = order.training, order.secagg
    plan, grid = DpSgdPlan.from_spec(training), ShareGrid.of(order, collusion_bound)
    noise = {site: source(site, order, "noise") for site in secagg.cohort}
    rounding = {site: source(site, order, "rounding") for site in secagg.cohort}
    # All survive, so all layers of surplus noise are taken off again: only their seeds are drawn.
    layers = len(grid.layers(training))
    kept = replace(grid, honest=grid.honest + grid.absent, absent=0) if layers else grid
    steps = JointSteps(vector, order, collusion_bound)
    model.set_vector(vector)
    with _clipped_sums(model, plan) as clipped_sum:
        for step in range(order.step, order.step + secagg.steps):
            total = np.zeros(order.vector_length, dtype=Ring(secagg.ring_bits).dtype)
            for site in secagg.cohort:
                found = clipped_sum(sites[site], poisson_sample(noise[site], len(sites[site]), plan.sample_rate))
                made = noised_contribution(found, training, kept, noise=noise[site], rounding=rounding[site])
                total += made.vector
                noise[site].bytes(SEED_BYTES * layers)
            steps.take(step, total, len(secagg.cohort))
            model.set_vector(steps.vector)
    return steps.vector


@contextmanager
def _clipped_sums(model: Model, plan: DpSgdPlan) -> Iterator[ClippedSum]:
    """What gives the clipped sum over a sample, float64 [d], while it is open."""
    if isinstance(model, FrozenHead):
        yield lambda records, indices: model.clipped_sum(records, indices, plan.l2_clip_norm)
        return
    with open_engine(model) as engine:
        yield lambda records, indices: clipped_gradient_sum(
            engine,
            records,
            indices,
            l2_clip_norm=plan.l2_clip_norm,
            physical_batch_size=plan.physical_batch_size,
        )


def _noisy_gradient(
    clipped_sum: ClippedSum, records: Records, plan: DpSgdPlan, source: RandomSource
) -> npt.NDArray[np.float64]:
    """:func:`privacy.dpsgd.noisy_gradient` for single records and a fixed clip norm, float64 [d]."""
    total = clipped_sum(records, poisson_sample(source, len(records), plan.sample_rate))
    total += plan.noise_stddev * standard_normal(source, total.size)
    return total / plan.expected_batch_size


def _train_round(model: Model, records: Records, vector: Vector, order: Order, source: RandomSource) -> Vector:
    """:func:`client.training.train_round`: how far a site's local steps move the adapter, float32 [d]."""
    plan = DpSgdPlan.from_spec(order.training)
    optimiser = HeavyBall(vector, momentum=order.training.momentum)
    model.set_vector(vector)
    with _clipped_sums(model, plan) as clipped_sum:
        for _ in range(plan.steps):
            gradient = _noisy_gradient(clipped_sum, records, plan, source)
            optimiser.step(gradient, learning_rate=order.training.learning_rate, noise_variance=0.0)
            model.set_vector(optimiser.vector)
    return optimiser.moved.astype(np.float32)
